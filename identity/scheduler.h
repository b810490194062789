#pragma once
#include <chrono>
#include <functional>
#include <memory>

#include "identity/wall_time.h"

namespace zt::identity {

// Time and deferred work of the thread that owns the secret manager; injected so that tests run on a clock of
// their own.
class Scheduler {
 public:
  using Clock = std::chrono::steady_clock;

  // Cancels its timer when destroyed. Owned and destroyed on the scheduler's thread; destroying it inside its
  // own callback is allowed.
  class Timer {
   public:
    virtual ~Timer() = default;
  };
  using TimerHandle = std::unique_ptr<Timer>;

  virtual ~Scheduler() = default;

  [[nodiscard]] virtual Clock::time_point now() const = 0;  // never jumps: delays and latencies
  [[nodiscard]] virtual WallTime wall_now() const = 0;      // may be stepped at any time: validity of certificates

  // Calls fn once, on the scheduler's thread, not before `delay` has passed. Scheduler's thread only.
  [[nodiscard]] virtual TimerHandle after(Clock::duration delay, std::function<void()> fn) = 0;
  // Calls fn on the scheduler's thread, never inside post(). Any thread, and safe until the scheduler is
  // destroyed.
  virtual void post(std::function<void()> fn) = 0;
};

}  // namespace zt::identity
