#pragma once
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "identity/scheduler.h"

namespace zt::identity::test {

// A clock that moves only when told to. Timers run in the order of their times, posted work before them.
class FakeScheduler final : public Scheduler {
 public:
  [[nodiscard]] Clock::time_point now() const override { return now_; }
  [[nodiscard]] WallTime wall_now() const override { return wall_; }

  [[nodiscard]] TimerHandle after(Clock::duration delay, std::function<void()> fn) override {
    const Key key{now_ + std::max(delay, Clock::duration::zero()), next_++};
    timers_->emplace(key, std::move(fn));
    return std::make_unique<FakeTimer>(timers_, key);
  }

  void post(std::function<void()> fn) override {
    const std::lock_guard lock(mutex_);
    posted_.push_back(std::move(fn));
  }

  void run_posted() {
    while (true) {
      std::function<void()> fn;
      {
        const std::lock_guard lock(mutex_);
        if (posted_.empty()) return;
        fn = std::move(posted_.front());
        posted_.pop_front();
      }
      fn();
    }
  }

  // Both clocks move on together, as they do in real life; no further than to when `done` holds.
  void advance(Clock::duration by, const std::function<bool()>& done = {}) {
    const auto end = now_ + by;
    run_posted();
    while (!timers_->empty() && timers_->begin()->first.first <= end) {
      if (done && done()) return;
      const auto [key, fn] = *timers_->begin();
      timers_->erase(timers_->begin());
      move_to(key.first);
      fn();
      run_posted();
    }
    if (done && done()) return;
    move_to(end);
  }

  // Somebody sets the calendar clock.
  void step_wall_clock(std::chrono::milliseconds by) { wall_ += by; }

  [[nodiscard]] size_t timers() const { return timers_->size(); }

 private:
  using Key = std::pair<Clock::time_point, uint64_t>;
  using Timers = std::map<Key, std::function<void()>>;
  struct FakeTimer final : Timer {
    FakeTimer(std::shared_ptr<Timers> all, Key which) : timers(std::move(all)), key(which) {}
    ~FakeTimer() override { timers->erase(key); }
    std::shared_ptr<Timers> timers;
    Key key;
  };

  void move_to(Clock::time_point when) {
    wall_ += std::chrono::duration_cast<std::chrono::milliseconds>(when - now_);
    now_ = when;
  }

  Clock::time_point now_{std::chrono::hours(1)};
  WallTime wall_{std::chrono::sys_days{std::chrono::year{2026} / 11 / 23}};
  uint64_t next_ = 0;
  std::shared_ptr<Timers> timers_ = std::make_shared<Timers>();
  std::mutex mutex_;
  std::deque<std::function<void()>> posted_;
};

}  // namespace zt::identity::test
