#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <utility>

#include "base/event_loop.h"
#include "identity/scheduler.h"

namespace zt::identity {

// The scheduler of an event loop's thread, on the system's clocks.
class LoopScheduler final : public Scheduler {
 public:
  explicit LoopScheduler(EventLoop& loop) : loop_(loop) {}

  [[nodiscard]] Clock::time_point now() const override { return Clock::now(); }
  [[nodiscard]] WallTime wall_now() const override { return wall_clock_now(); }
  [[nodiscard]] TimerHandle after(Clock::duration delay, std::function<void()> fn) override {
    auto timer = std::make_unique<LoopTimer>(loop_);
    timer->timer.start(Clock::now() + delay, std::move(fn));
    return timer;
  }
  void post(std::function<void()> fn) override { loop_.post(std::move(fn)); }

 private:
  struct LoopTimer final : Timer {
    explicit LoopTimer(EventLoop& loop) : timer(loop) {}
    zt::Timer timer;
  };
  EventLoop& loop_;
};

}  // namespace zt::identity
