#include "base/event_loop.h"

#include <pthread.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <utility>

// Why not Asio: waiting one operation at a time costs it 3.9 us of CPU a hop of a small request against 3.2, and 447 bytes of heap an
// idle socket against 31 (bench/loop_bench.cc; ARCHITECTURE.md says more).
namespace zt {

namespace {
// However long the events of a turn have taken.
constexpr std::chrono::microseconds kTimersAtLeast{500};
constexpr std::chrono::microseconds kSocketsAtLeast{500};

// Without epoll or eventfd there is no program: this can only happen at start, out of descriptors.
[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::abort();
}
}  // namespace

void Timer::start(Clock::time_point when, std::function<void()> fn) {
  cancel();
  when_ = when;
  fn_ = std::move(fn);
  loop_.timer_add(*this);
}

void Timer::start_after(Clock::duration delay, std::function<void()> fn) {
  // Not now(): a turn may have taken long, and nothing may fire early.
  start(Clock::now() + delay, std::move(fn));
}

void Timer::cancel() {
  if (armed()) loop_.timer_remove(*this);
}

EventLoop::EventLoop()
    : epoll_(epoll_create1(EPOLL_CLOEXEC)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      events_(std::make_unique<epoll_event[]>(kMaxEvents)) {
  if (!epoll_) die("epoll_create1");
  if (!wake_) die("eventfd");
  epoll_event event{.events = EPOLLIN | EPOLLET, .data = {.ptr = nullptr}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) die("epoll_ctl(eventfd)");
}

EventLoop::~EventLoop() {
  for (Timer* timer : timers_) timer->index_ = Timer::kIdle;
}

Result<> EventLoop::watch(int fd, Watcher& watcher) {
  assert((thread_ == 0 || in_loop_thread()) && "this loop belongs to another thread");
  epoll_event event{.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data = {.ptr = &watcher}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return fail_errno(Fault::kIo, "epoll_ctl");
  return {};
}

void EventLoop::unwatch(int fd, Watcher& watcher) {
  assert((thread_ == 0 || in_loop_thread()) && "this loop belongs to another thread");
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  for (int i = event_index_; i < event_count_; ++i) {
    if (events_[i].data.ptr == &watcher) events_[i].events = 0;
  }
}

void EventLoop::post(std::move_only_function<void()> fn) {
  bool wake = false;
  {
    std::lock_guard lock(mutex_);
    posted_.push_back(std::move(fn));
    wake = !std::exchange(wake_pending_, true);
  }
  if (wake) eventfd_write(wake_.get(), 1);
}

void EventLoop::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_pending_ = true;
  }
  eventfd_write(wake_.get(), 1);
}

void EventLoop::defer(Deferred& work) {
  assert((thread_ == 0 || in_loop_thread()) && "this loop belongs to another thread");
  if (std::exchange(work.queued_, true)) return;
  deferred_.push_back(&work);
}

void EventLoop::cancel_deferred(Deferred& work) {
  if (!std::exchange(work.queued_, false)) return;
  for (auto* list : {&deferred_, &deferred_running_})
    std::replace(list->begin(), list->end(), &work, static_cast<Deferred*>(nullptr));
}

bool EventLoop::in_loop_thread() const { return thread_ == pthread_self(); }

size_t EventLoop::share(size_t full, size_t least) const {
  return ready_ <= kFullShares ? full : std::max(least, full * kFullShares / ready_);
}

Clock::duration EventLoop::longest_turn() const {
  Clock::rep longest = 0;
  for (const auto& part : longest_turns_) longest = std::max(longest, part.load(std::memory_order_relaxed));
  return Clock::duration(longest);
}

void EventLoop::note_turn(Clock::time_point end) {
  turn_end_ = end;
  if (end >= longest_turn_until_) {
    // After a long wait more than one part may have passed, but nothing has happened in it.
    longest_turn_until_ = end + kLongestTurnPart;
    longest_turn_part_ = (longest_turn_part_ + 1) % kLongestTurnParts;
    longest_turns_[longest_turn_part_].store(0, std::memory_order_relaxed);
  }
  auto& longest = longest_turns_[longest_turn_part_];
  longest.store(std::max(longest.load(std::memory_order_relaxed), (end - now_).count()), std::memory_order_relaxed);
}

void EventLoop::run() {
  thread_ = pthread_self();
  stopped_ = false;
  turn_end_ = Clock::now();
  while (!stopped_) turn(wait_ms(turn_end_));
  thread_ = 0;  // from here on it is whoever ends what is left
  std::lock_guard lock(mutex_);
  stopping_ = false;
}

void EventLoop::run_once(Clock::duration max_wait) {
  thread_ = pthread_self();
  const auto limit = std::chrono::ceil<std::chrono::milliseconds>(max_wait).count();
  const int wait = wait_ms(Clock::now());
  turn(wait < 0 ? static_cast<int>(limit) : std::min(wait, static_cast<int>(limit)));
}

bool EventLoop::run_until(const std::function<bool()>& done, Clock::duration limit) {
  const auto deadline = Clock::now() + limit;
  while (!done()) {
    const auto left = deadline - Clock::now();
    if (left <= Clock::duration::zero()) return false;
    run_once(left);
  }
  return true;
}

int EventLoop::wait_ms(Clock::time_point from) const {
  if (!deferred_.empty() || event_index_ < event_count_ || posted_next_ < posted_running_.size()) return 0;
  if (timers_.empty()) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(timers_.front()->when_ - from).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
}

void EventLoop::turn(int timeout_ms) {
  // What the last turn left comes before what is new.
  const int left = event_count_ - event_index_;
  if (event_index_ > 0) std::copy(events_.get() + event_index_, events_.get() + event_count_, events_.get());
  event_index_ = 0;
  event_count_ = left;
  if (left < kMaxEvents) {
    event_count_ += std::max(0, epoll_wait(epoll_.get(), events_.get() + left, kMaxEvents - left, timeout_ms));
  }
  now_ = Clock::now();
  ready_ = static_cast<size_t>(event_count_) + deferred_.size();
  for (int i = left; i < event_count_; ++i) {
    if (events_[i].data.ptr == nullptr) take_posted();
  }
  const bool posted = !posted_running_.empty();
  run_posted();  // before what it may have caused elsewhere: who saw that state was published must be served by it
  const auto begun = posted ? Clock::now() : now_;
  while (event_index_ < event_count_) {
    const epoll_event event = events_[event_index_++];
    if (event.data.ptr == nullptr || event.events == 0) continue;
    static_cast<Watcher*>(event.data.ptr)->on_ready(event.events);
    // Posted work may have used the turn up: sockets have a part of each in any case.
    if (event_index_ < event_count_ && overdue() && Clock::now() - begun >= kSocketsAtLeast) break;
  }
  run_timers();
  run_deferred();
  note_turn(Clock::now());
}

void EventLoop::take_posted() {
  eventfd_t ignored;
  eventfd_read(wake_.get(), &ignored);
  std::lock_guard lock(mutex_);
  wake_pending_ = false;
  if (posted_running_.empty()) {
    posted_running_.swap(posted_);
  } else {
    std::move(posted_.begin(), posted_.end(), std::back_inserter(posted_running_));
    posted_.clear();
  }
  if (stopping_) stopped_ = true;
}

void EventLoop::run_posted() {
  while (posted_next_ < posted_running_.size()) {
    posted_running_[posted_next_++]();
    if (posted_next_ < posted_running_.size() && !stopped_ && overdue()) break;
  }
  if (posted_next_ == posted_running_.size()) {
    posted_running_.clear();
    posted_next_ = 0;
  }
}

void EventLoop::run_deferred() {
  // Work that asks for another turn gets one: it must not starve the sockets.
  deferred_running_.swap(deferred_);
  size_t i = 0;
  while (i < deferred_running_.size()) {
    if (Deferred* work = deferred_running_[i++]) {
      work->queued_ = false;
      work->on_turn_end();
      if (i < deferred_running_.size() && overdue()) break;
    }
  }
  if (i < deferred_running_.size()) {
    // Before what this turn has asked for.
    deferred_running_.erase(deferred_running_.begin(), deferred_running_.begin() + static_cast<ptrdiff_t>(i));
    deferred_running_.insert(deferred_running_.end(), deferred_.begin(), deferred_.end());
    deferred_.swap(deferred_running_);
  }
  deferred_running_.clear();
}

void EventLoop::run_timers() {
  // Those that are due now, once: one that is started again for a time that has passed waits for the next turn. Events may have used up
  // the turn: timers have a little of their own, since many of them are what ends others.
  if (timers_.empty() || timers_.front()->when_ > now_) return;
  const auto begun = Clock::now();
  for (size_t left = timers_.size(); left > 0 && !timers_.empty() && timers_.front()->when_ <= now_; --left) {
    Timer& timer = *timers_.front();
    timer_remove(timer);
    auto fn = std::exchange(timer.fn_, nullptr);  // fn may restart or destroy the timer
    fn();
    const auto now = Clock::now();
    if (now - now_ >= kTurnLimit && now - begun >= kTimersAtLeast) break;
  }
}

void EventLoop::timer_add(Timer& timer) {
  assert((thread_ == 0 || in_loop_thread()) && "this loop belongs to another thread");
  timer.index_ = timers_.size();
  timers_.push_back(&timer);
  heap_up(timer.index_);
}

void EventLoop::timer_remove(Timer& timer) {
  const size_t index = timer.index_;
  heap_swap(index, timers_.size() - 1);
  timers_.pop_back();
  timer.index_ = Timer::kIdle;
  if (index < timers_.size()) {
    heap_up(index);
    heap_down(index);
  }
}

void EventLoop::heap_swap(size_t a, size_t b) {
  std::swap(timers_[a], timers_[b]);
  timers_[a]->index_ = a;
  timers_[b]->index_ = b;
}

void EventLoop::heap_up(size_t index) {
  while (index > 0) {
    const size_t parent = (index - 1) / 2;
    if (timers_[parent]->when_ <= timers_[index]->when_) return;
    heap_swap(parent, index);
    index = parent;
  }
}

void EventLoop::heap_down(size_t index) {
  for (;;) {
    size_t least = index;
    for (size_t child : {2 * index + 1, 2 * index + 2}) {
      if (child < timers_.size() && timers_[child]->when_ < timers_[least]->when_) least = child;
    }
    if (least == index) return;
    heap_swap(index, least);
    index = least;
  }
}

}  // namespace zt
