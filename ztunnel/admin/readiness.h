#pragma once
#include <chrono>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

namespace zt::ztunnel {

// What still has to happen before this proxy may take traffic (contract §10.7): named tasks, each with a
// count of those that hold it. Any thread. Names that the peer uses: "state manager" (first control plane
// sync), "proxy", "dns proxy" (while they are made), "workload proxy manager" (connected to the node agent
// and its snapshot served; held again when it is lost).
class Readiness {
 public:
  // Holds a task until done(). One that is destroyed without it (a start that failed, the end of the process) holds it for ever:
  // whoever gives up does not make the proxy ready.
  class [[nodiscard]] Hold {
   public:
    Hold() = default;
    Hold(Hold&& other) noexcept;
    Hold& operator=(Hold&& other) noexcept;  // what it held before is done
    ~Hold() = default;
    void done();
    [[nodiscard]] explicit operator bool() const { return owner_ != nullptr; }

   private:
    friend class Readiness;
    Hold(Readiness& owner, std::string task) : owner_(&owner), task_(std::move(task)) {}
    Readiness* owner_ = nullptr;
    std::string task_;
  };

  Hold hold(std::string_view task);
  [[nodiscard]] bool ready() const;
  // "ready\n", or "not ready, pending: a, b\n" with the names sorted.
  [[nodiscard]] std::string text() const;

 private:
  using Clock = std::chrono::steady_clock;
  void release(const std::string& task);

  mutable std::mutex mutex_;
  std::map<std::string, int, std::less<>> pending_;
  const Clock::time_point start_ = Clock::now();
};

}  // namespace zt::ztunnel
