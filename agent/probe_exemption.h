#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "base/event_loop.h"
#include "base/linux/netns.h"
#include "redirection/nftables/host_probes.h"

namespace zt::agent {

// Keeps kubelet's probes of the node's enrolled pods out of the proxy, by rules on the node's network (host_probes.h): they are
// looked at every `interval`, and put back when somebody has flushed them. Where they cannot be made that is said once and tried
// again: pods work, and a policy may refuse their probes. The rules outlive the agent, as the pods' do. Loop's thread.
class ProbeExemption {
 public:
  struct Options {
    std::string proc;  // the node's
    std::chrono::milliseconds interval{10'000};
  };
  ProbeExemption(EventLoop& loop, Options options);

  // The pods are these from here on.
  void set(redirection::ProbedPods pods);

  // For good: no agent follows.
  void remove();

  struct Counts {
    uint64_t repairs = 0, failures = 0;  // since the start
    size_t addresses = 0;
  };
  [[nodiscard]] Counts counts() const { return {repairs_, failures_, pods_ ? pods_->size() : 0}; }

 private:
  void check();
  void apply();
  Result<> try_apply();

  const Options options_;
  std::optional<redirection::ProbedPods> pods_;  // not told yet: what is there stays
  std::set<uid_t> kubelets_;
  std::unique_ptr<redirection::HostProbes> rules_;
  bool applied_ = false;
  Timer timer_;
  std::string last_error_;
  uint64_t repairs_ = 0, failures_ = 0;
};

}  // namespace zt::agent
