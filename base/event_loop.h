#pragma once
#include <sys/epoll.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace zt {

using Clock = std::chrono::steady_clock;

// Receives readiness of one file descriptor. Registration is persistent and edge-triggered (one epoll_ctl for a socket's
// whole life): whoever is told "readable" must read until EAGAIN or remember that it has not. That is what keeps a small
// request at two system calls per hop; re-arming per wait, as Asio's async_wait does, doubles them.
class Watcher {
 public:
  // `events` is a set of EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR. May destroy *this after EventLoop::unwatch().
  virtual void on_ready(uint32_t events) noexcept = 0;

 protected:
  ~Watcher() = default;
};

// Work put off to the end of the current turn, once per turn however often it is asked for. Intrusive: costs no allocation.
class Deferred {
 public:
  virtual void on_turn_end() noexcept = 0;

 protected:
  Deferred() = default;
  Deferred(const Deferred&) = delete;
  ~Deferred() = default;

 private:
  friend class EventLoop;
  bool queued_ = false;
};

class EventLoop;

// One-shot timer, owned by whoever waits. Destroying or cancelling it forgets the wait. Loop's thread only.
class Timer {
 public:
  explicit Timer(EventLoop& loop) : loop_(loop) {}
  ~Timer() { cancel(); }
  Timer(const Timer&) = delete;

  // Runs `fn` once at or after `when`; replaces an earlier wait.
  void start(Clock::time_point when, std::function<void()> fn);
  void start_after(Clock::duration delay, std::function<void()> fn);
  void cancel();
  [[nodiscard]] bool armed() const { return index_ != kIdle; }

 private:
  friend class EventLoop;
  static constexpr size_t kIdle = SIZE_MAX;
  EventLoop& loop_;
  Clock::time_point when_;
  std::function<void()> fn_;
  size_t index_ = kIdle;  // place in the loop's heap
};

// A single-threaded epoll loop: what each worker and the control thread run. Everything but post() and stop() belongs to the
// thread that calls run(). Handlers must not throw and must not block.
//
// A turn has a limit: what is left when it has passed (events, posted work, end-of-turn work) comes in the next turns, before what is
// new, so that a look at the sockets and at the timers is never far. It is kept only as well as each handler keeps its own work
// short: share() tells how much that is while many are ready, overdue() that the turn should end.
class EventLoop {
 public:
  EventLoop();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;

  // Registers fd edge-triggered for input, output and hang-up. The caller keeps fd and watcher alive until unwatch().
  Result<> watch(int fd, Watcher& watcher);
  // Forgets the watcher: no event of the current turn reaches it any more. Call before closing fd.
  void unwatch(int fd, Watcher& watcher);

  // Runs fn on the loop's thread, in order per caller. Any thread. Never blocks longer than a vector push.
  void post(std::move_only_function<void()> fn);

  // End-of-turn work, in order of asking. cancel_deferred() before destroying a queued one.
  void defer(Deferred& work);
  void cancel_deferred(Deferred& work);

  // Runs until stop(). Each turn: wait, posted work, events, timers, end-of-turn work.
  void run();
  // Runs one turn, waiting at most `max_wait`. For tests.
  void run_once(Clock::duration max_wait);
  // Runs turns until `done()` or the limit; returns whether done() held. For tests.
  bool run_until(const std::function<bool()>& done, Clock::duration limit);
  void stop();  // any thread

  // Time at the start of the turn: cheap, good enough for time-outs.
  [[nodiscard]] Clock::time_point now() const { return now_; }
  [[nodiscard]] bool in_loop_thread() const;
  // The part of `full` that one of those that are ready should do in this turn: all of it while few are ready, less the more there
  // are, never below `least`.
  [[nodiscard]] size_t share(size_t full, size_t least) const;
  // The turn has taken longer than it should: whoever has more to do does it in the next.
  [[nodiscard]] bool overdue() const { return Clock::now() - now_ >= kTurnLimit; }
  static constexpr std::chrono::milliseconds kTurnLimit{2};

  // Longest turn within the last minute or so: how long what was ready had to wait for others. Any thread.
  [[nodiscard]] Clock::duration longest_turn() const;

 private:
  friend class Timer;
  static constexpr int kMaxEvents = 256;
  // As many may do all that they can in one turn: the sockets of a few dozen busy streams count here, and with 8 the tunnel that
  // they share was filled in small batches, which cost bulk over 32 connections 4 % of its processor time.
  static constexpr size_t kFullShares = 32;
  static constexpr std::chrono::seconds kLongestTurnPart{10};
  static constexpr size_t kLongestTurnParts = 7;  // the current one included

  void turn(int timeout_ms);
  void run_timers();
  void take_posted();
  void run_posted();
  void run_deferred();
  void note_turn(Clock::time_point end);
  [[nodiscard]] int wait_ms(Clock::time_point from) const;

  void timer_add(Timer& timer);
  void timer_remove(Timer& timer);
  void heap_swap(size_t a, size_t b);
  void heap_up(size_t index);
  void heap_down(size_t index);

  UniqueFd epoll_;
  UniqueFd wake_;  // eventfd; its epoll data is nullptr
  std::unique_ptr<epoll_event[]> events_;
  int event_count_ = 0;
  int event_index_ = 0;
  Clock::time_point now_ = Clock::now();
  Clock::time_point turn_end_ = now_;
  size_t ready_ = 0;  // watchers and work that have something to do in this turn
  std::array<std::atomic<Clock::rep>, kLongestTurnParts> longest_turns_{};
  size_t longest_turn_part_ = 0;
  Clock::time_point longest_turn_until_{};
  std::vector<Timer*> timers_;
  std::vector<Deferred*> deferred_;
  std::vector<Deferred*> deferred_running_;

  std::mutex mutex_;
  std::vector<std::move_only_function<void()>> posted_;  // guarded by mutex_
  bool wake_pending_ = false;                            // guarded by mutex_
  bool stopping_ = false;                                // guarded by mutex_
  std::vector<std::move_only_function<void()>> posted_running_;
  size_t posted_next_ = 0;  // of posted_running_
  bool stopped_ = false;
  unsigned long thread_ = 0;
};

}  // namespace zt
