#include "agent/kubernetes/pod_namespaces.h"

#include <fmt/format.h>

#include <utility>

#include "mesh/reason.h"

namespace zt::agent {

void PodNamespaces::want(WantedPod pod) {
  Known& known = pods_[pod.uid];
  if (known.pod.ips != pod.ips) seen_at_ = {};  // it may be found now
  known.pod = std::move(pod);
}

void PodNamespaces::forget(const std::string& uid) {
  pods_.erase(uid);
  seen_.erase(uid);
}

Result<> PodNamespaces::told(const std::string& uid, const std::string& path) {
  ZT_ASSIGN(Netns netns, Netns::open(path));
  const auto host = Netns::open(proc_ + "/1/ns/net");
  if (netns.id() == own_ || (host && host->id() == netns.id())) {
    return fail(Reason::kInvalidInput, fmt::format("{} is the node's own network namespace, or the agent's", path));
  }
  Known& known = pods_[uid];
  known.pod.uid = uid;
  known.last = {std::make_shared<const Netns>(std::move(netns)), path};
  known.told = true;
  return {};
}

Result<std::shared_ptr<const Netns>> PodNamespaces::find(const std::string& uid) {
  const auto found = pods_.find(uid);
  if (found == pods_.end()) return fail(Reason::kNotFound, fmt::format("pod {} is not known", uid));
  Known& known = found->second;
  // Processes of an old sandbox may outlive it: the plugin is believed as long as what it said can be seen to hold.
  if (known.told && still_holds(known)) return known.last.netns;
  if (std::exchange(known.told, false)) seen_at_ = {};  // the last look was not for this one
  ZT_TRY(look());
  if (const auto seen = seen_.find(uid); seen != seen_.end()) known.last = seen->second;
  if (known.last.netns) return known.last.netns;
  return fail(Reason::kNotFound, fmt::format("no process of the pod that has one of its addresses is in {}", proc_));
}

std::string PodNamespaces::path(const std::string& uid) const {
  const auto found = pods_.find(uid);
  return found == pods_.end() ? std::string() : found->second.last.path;
}

// A path that leads elsewhere is of a sandbox that is no more, and a namespace with none of the pod's addresses is another's.
bool PodNamespaces::still_holds(const Known& known) {
  const auto there = Netns::open(known.last.path);
  if (!there || there->id() != known.last.netns->id()) return false;
  if (known.pod.ips.empty()) return true;
  const auto has = has_address(*known.last.netns, known.pod.ips);
  return has && *has;
}

Result<> PodNamespaces::look() {
  if (Clock::now() - seen_at_ < kFresh) return {};
  std::vector<WantedPod> wanted;
  for (const auto& [uid, known] : pods_) {
    if (!known.told) wanted.push_back(known.pod);
  }
  ++looks_;
  ZT_ASSIGN(seen_, find_pod_namespaces(proc_, wanted, own_));
  seen_at_ = Clock::now();
  return {};
}

}  // namespace zt::agent
