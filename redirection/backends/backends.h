#pragma once
#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ebpf/ebpf.h"
#include "redirection/redirector.h"

namespace zt::redirection {

// What the agent's settings say of how pods are redirected.
struct BackendSettings {
  std::string backend = "nftables";   // one of kBackendNames
  std::string iptables_variant = {};  // "legacy", "nft", or "" to find out
  EbpfSettings ebpf = {};
};
inline constexpr std::array<std::string_view, 4> kBackendNames{"auto", "ebpf", "nftables", "iptables"};

// All backends behind one. Each pod is captured by the first of the wanted ones that works here, suits the pod and does not fail at it
// (the next one keeps it then until it is enrolled anew); what another
// left in the pod, ours or a peer's, is taken out as soon as the pod is captured, and is a deviation if it comes back. So pods
// move from one backend to another while they run: no connection notices.
class Backends final : public Redirector {
 public:
  // `wanted`: in order of preference. `others`: only cleaned up after.
  Backends(std::vector<std::unique_ptr<Redirector>> wanted, std::vector<std::unique_ptr<Redirector>> others);

  [[nodiscard]] std::string_view name() const override;  // of the first that works, once probe() has been called
  // Says in the log which backend is taken, and why not those before it.
  Result<> probe() override;
  Result<> enroll(const RedirectedPod& pod) override;
  Result<> stop_capturing(const RedirectedPod& pod) override;
  Result<size_t> carried_connections(const RedirectedPod& pod) override;
  Result<> unenroll(const RedirectedPod& pod) override;
  Result<Deviations> verify(const RedirectedPod& pod) override;
  Result<Presence> presence(const RedirectedPod& pod) override;
  Result<> make_way(const RedirectedPod& pod) override;

 private:
  struct Candidate {
    std::unique_ptr<Redirector> backend;
    bool wanted = false;
    bool works = false;  // of wanted ones, once probed
  };
  Result<Redirector*> choose(const RedirectionOptions& options);
  Result<Redirector*> captor(const RedirectedPod& pod);
  // For a pod that leaves: also if none is suited to it now.
  Result<Redirector*> leads_out(const RedirectionOptions& options);
  static Presence presence_of(const Candidate& each, const RedirectedPod& pod);
  // An error of one that works here is none of those that presence_of() takes for absence.
  static Result<Presence> certain_presence_of(const Candidate& each, const RedirectedPod& pod);
  Result<> remove_others(const Redirector& mine, const RedirectedPod& pod, bool leaving);

  std::vector<Candidate> candidates_;
  bool probed_ = false;
};

// kInvalidInput: no such backend.
Result<std::unique_ptr<Redirector>> make_redirector(const BackendSettings& settings);

}  // namespace zt::redirection
