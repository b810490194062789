#pragma once
#include <sys/types.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "base/address.h"
#include "base/linux/netns.h"
#include "base/result.h"

namespace zt::redirection {

// Pods' addresses, and whose they are.
using ProbedPods = std::map<IpAddress, std::string>;

// A table for nft: what users `kubelets` of the node send to one of these pods over TCP gets a source address by which the pod's
// rules know it, and let it and its answers pass. Nobody but the node itself has that address: what comes in with it is dropped.
// The table, its chain and its sets are the peers' (redirection contract §2.6).
[[nodiscard]] std::string render_host_probes(const ProbedPods& pods, const std::set<uid_t>& kubelets);
[[nodiscard]] std::string render_host_probes_removal();

// That table in the node's network namespace. Kubelet probes pods from there, and a policy that demands mTLS would refuse it.
// One thread at a time; a call takes some milliseconds.
class HostProbes {
 public:
  explicit HostProbes(std::shared_ptr<const Netns> host) : host_(std::move(host)) {}

  // Replaces the table by this one, in one transaction: a probe under way notices nothing.
  Result<> apply(const ProbedPods& pods, const std::set<uid_t>& kubelets);
  // Whether the table is as apply() made it last. Somebody may have flushed it: who reloads a firewall flushes all.
  Result<bool> holds();
  // Nothing there is success.
  static Result<> remove(const Netns& host);

 private:
  std::shared_ptr<const Netns> host_;
  std::optional<std::string> applied_;  // as the kernel and this libnftables print it
};

}  // namespace zt::redirection
