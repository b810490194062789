#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/linux/netns.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "ebpf/cgroup.h"
#include "ebpf/redirect.h"
#include "redirection/redirector.h"

namespace zt::redirection {

// The programs of all pods on a cgroup, and their maps: pinned in a bpf file system, so that they outlive the agent. One instance
// serves every pod and any number of agents that use the same file system and name the same group.
class Programs {
 public:
  // Opens what is installed, without installing anything. kNotFound: nothing is.
  static Result<Programs> open(const std::string& bpffs);
  // Opens it, or installs it first: all of it or nothing. `renew`: programs of another agent's version become this one's.
  static Result<Programs> install(const std::string& bpffs, const Cgroup& group, bool renew = false);

  // The links on the group that are not there, or not attached to it.
  [[nodiscard]] Deviations verify(const Cgroup& group) const;
  // Takes out what is left of pods whose namespaces are gone, and returns how many there were.
  size_t sweep();

  // Whose connections into pods are not captured; 0: nobody's.
  Result<> put_kubelet(uint64_t group);
  Result<> put_pod(uint64_t netns, const zt_pod& pod);
  [[nodiscard]] std::optional<zt_pod> pod(uint64_t netns) const;
  void remove_pod(uint64_t netns);
  [[nodiscard]] std::vector<zt_address> own_addresses(uint64_t netns) const;
  Result<> put_own_addresses(uint64_t netns, const std::vector<zt_address>& addresses);
  [[nodiscard]] bool has_listener(uint64_t netns) const;
  Result<> put_listener(uint64_t netns, uint32_t slot, int socket);

  // The program in the pod's own namespace.
  Result<> attach_inbound(uint64_t cookie, const Netns& netns);
  [[nodiscard]] bool is_inbound_attached(uint64_t cookie, const Netns& netns) const;
  Result<> detach_inbound(uint64_t cookie);
  [[nodiscard]] bool has_inbound(uint64_t cookie) const;

 private:
  explicit Programs(std::string folder) : folder_(std::move(folder)) {}
  Result<> open_maps();
  [[nodiscard]] std::string inbound_pin(uint64_t cookie) const;
  void for_each_inbound(const std::function<void(uint64_t cookie, const UniqueFd& link)>& call) const;
  Result<> renew_inbound() const;
  // Into a map that may be full of what a sweep takes out.
  Result<> enter(const UniqueFd& map, const void* key, const void* value, const char* what);

  std::string folder_;
  UniqueFd pods_, own_addresses_, listeners_, captured_, passing_, node_;
};

}  // namespace zt::redirection
