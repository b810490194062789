#pragma once
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "bench/state_mesh.h"

namespace zt::bench {

// A worker as the proxy has them: takes each snapshot as it is published and, whenever something happens,
// asks what a connection asks. Something happens every millisecond: a third thread posts it, and how late the
// worker comes to it is what a connection would have waited. Both threads run at real-time priority where
// that is allowed (root): what else runs on the machine then delays them little, and what the push does to a
// worker is what remains.
class ProbedWorker {
 public:
  struct Delays {
    double p50 = 0, p99 = 0, max = 0;  // microseconds
  };

  explicit ProbedWorker(const Mesh& mesh)
      : mesh_(mesh),
        thread_([this] {
          prefer_this_thread();
          loop_.run();
        }),
        prober_([this] { probe(); }) {}
  ProbedWorker(const ProbedWorker&) = delete;
  ProbedWorker& operator=(const ProbedWorker&) = delete;
  ~ProbedWorker() {
    stop_ = true;
    prober_.join();
    loop_.stop();
    thread_.join();
  }

  void take(SnapshotPtr snapshot) {
    loop_.post([this, snapshot = std::move(snapshot)]() mutable { snapshot_ = std::move(snapshot); });
  }

  // What was seen since the last call.
  Delays delays() {
    std::vector<double> seen;
    {
      const std::lock_guard lock(mutex_);
      seen.swap(delays_);
    }
    if (seen.empty()) return {};
    std::ranges::sort(seen);
    return {seen[seen.size() / 2], seen[seen.size() * 99 / 100], seen.back()};
  }

 private:
  using Clock = std::chrono::steady_clock;

  static void prefer_this_thread() {
    const sched_param parameters{.sched_priority = 1};
    (void)::pthread_setschedparam(::pthread_self(), SCHED_FIFO, &parameters);
  }

  void probe() {
    prefer_this_thread();
    for (auto next = Clock::now(); !stop_; std::this_thread::sleep_until(next)) {
      next = std::max(next + std::chrono::milliseconds(1), Clock::now());
      loop_.post([this, posted = Clock::now()] {
        look_up();
        const std::chrono::duration<double, std::micro> delay = Clock::now() - posted;
        const std::lock_guard lock(mutex_);
        delays_.push_back(delay.count());
      });
    }
  }

  void look_up() {
    if (!snapshot_) return;
    const size_t number = asked_++ * 7919;
    const Workload* source = snapshot_->workload("", Mesh::ip(number % mesh_.workloads));
    const ServiceEntry* entry =
        source == nullptr ? nullptr : snapshot_->service_by_vip("", Mesh::vip(number % mesh_.services), source->ns.view());
    if (entry != nullptr) found_ += static_cast<bool>(entry->choose(*source, 80, ResolutionMode::kStandard, number));
  }

  Mesh mesh_;
  EventLoop loop_;
  SnapshotPtr snapshot_;  // the worker's
  size_t asked_ = 0, found_ = 0;
  std::mutex mutex_;
  std::vector<double> delays_;  // guarded by mutex_
  std::atomic<bool> stop_ = false;
  std::thread thread_, prober_;
};

}  // namespace zt::bench
