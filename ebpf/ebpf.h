#pragma once
#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "ebpf/pod_namespace.h"
#include "ebpf/programs.h"
#include "redirection/redirector.h"

namespace zt::redirection {

struct EbpfSettings {
  std::string bpffs = "/sys/fs/bpf";
  std::string proc = "/proc";  // the host's, where its kubelet is found
  std::string cgroup = {};  // of version 2, whose processes can be captured, and which the proxies are under; "": all the node's
};

// Redirection without netfilter and without connection tracking (outbound.bpf.c, inbound.bpf.c): a destination is changed when an
// application dials, and a connection that comes in is handed to the proxy's listener with its destination kept. Established
// connections are looked at by neither.
class EbpfRedirector final : public Redirector {
 public:
  explicit EbpfRedirector(EbpfSettings settings = {}) : settings_(std::move(settings)) {}

  [[nodiscard]] std::string_view name() const override { return "ebpf"; }
  [[nodiscard]] std::string_view unsuited(const RedirectionOptions& options) const override;
  [[nodiscard]] bool translates() const override { return false; }
  Result<> probe() override;
  Result<> enroll(const RedirectedPod& pod) override;
  Result<> stop_capturing(const RedirectedPod& pod) override;
  Result<size_t> carried_connections(const RedirectedPod& pod) override;
  Result<> unenroll(const RedirectedPod& pod) override;
  Result<Deviations> verify(const RedirectedPod& pod) override;
  Result<Presence> presence(const RedirectedPod& pod) override;
  Result<> make_way(const RedirectedPod& pod) override;

 private:
  Result<> try_it();
  [[nodiscard]] Result<std::optional<Programs>> installed() const;
  void look_around(Programs& programs, const Cgroup& group);
  void look_around_now_and_then(Programs& programs, const Cgroup& group);

  EbpfSettings settings_;
  std::chrono::steady_clock::time_point looked_{};
  uint64_t kubelet_ = 0;
};

}  // namespace zt::redirection
