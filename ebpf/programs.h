#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/linux/netns.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "ebpf/redirect.h"
#include "redirection/redirector.h"

namespace zt::redirection {

// The programs of all pods on the root cgroup, and their maps: pinned in a bpf file system, so that they outlive the agent. One
// instance serves every pod and any number of agents that use the same file system.
class Programs {
 public:
  // Opens what is installed, without installing anything. kNotFound: nothing is.
  static Result<Programs> open(const std::string& bpffs);
  // Opens it, or installs it first: all of it or nothing.
  static Result<Programs> install(const std::string& bpffs, const std::string& cgroup);

  // The links on the cgroup that are not there, or not attached any more.
  [[nodiscard]] Deviations verify() const;

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

  std::string folder_;
  UniqueFd pods_, own_addresses_, listeners_, captured_, passing_;
};

}  // namespace zt::redirection
