#pragma once
#include <coroutine>
#include <exception>
#include <list>
#include <optional>
#include <type_traits>
#include <utility>

#include "base/event_loop.h"

// Coroutines for the parts of a connection's life that wait (accept, dial, handshake, CONNECT), on one EventLoop.
//
// Ownership is the cancellation: a Task owns its frame, a frame owns the Tasks it awaits, and TaskScope owns the roots.
// Destroying a suspended Task unwinds it: destructors run, awaitables forget their waits. Nothing is ever resumed after that.
namespace zt {

namespace detail {
struct FinalAwaiter {
  [[nodiscard]] bool await_ready() const noexcept { return false; }
  template <class Promise>
  std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> handle) const noexcept {
    return handle.promise().continuation ? handle.promise().continuation : std::noop_coroutine();
  }
  void await_resume() const noexcept {}
};
struct PromiseBase {
  std::coroutine_handle<> continuation;
  [[nodiscard]] std::suspend_always initial_suspend() const noexcept { return {}; }
  [[nodiscard]] FinalAwaiter final_suspend() const noexcept { return {}; }
  // No exception crosses a module's edge; one that gets here is a bug or out of memory.
  [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }
};
template <class T>
struct Promise : PromiseBase {
  std::optional<T> value;
  template <class U>
  void return_value(U&& result) {
    value.emplace(std::forward<U>(result));
  }
  T take() { return std::move(*value); }
};
template <>
struct Promise<void> : PromiseBase {
  void return_void() const noexcept {}
  void take() const noexcept {}
};
}  // namespace detail

template <class T = void>
class [[nodiscard]] Task {
 public:
  struct promise_type : detail::Promise<T> {
    Task get_return_object() { return Task(std::coroutine_handle<promise_type>::from_promise(*this)); }
  };
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, {})) {}
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      if (handle_) handle_.destroy();
      handle_ = std::exchange(other.handle_, {});
    }
    return *this;
  }
  ~Task() {
    if (handle_) handle_.destroy();
  }

  [[nodiscard]] bool await_ready() const noexcept { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> caller) noexcept {
    handle_.promise().continuation = caller;
    return handle_;
  }
  T await_resume() { return handle_.promise().take(); }

 private:
  friend class TaskScope;
  explicit Task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
  std::coroutine_handle<promise_type> handle_;
};

// Owns root coroutines. A finished one is freed at the end of the turn; destroying the scope cancels the rest.
class TaskScope final : private Deferred {
 public:
  explicit TaskScope(EventLoop& loop) : loop_(loop) {}
  ~TaskScope() { loop_.cancel_deferred(*this); }

  // Starts `task` at once (it runs until its first wait inside this call).
  void spawn(Task<void> task) {
    roots_.emplace_back();
    auto root = std::prev(roots_.end());
    root->place = root;
    root->task.emplace(run(std::move(task), *root));
    root->task->handle_.resume();
  }
  // Ends all of them where they wait. Not from inside one.
  void cancel() { roots_.clear(); }
  [[nodiscard]] size_t size() const { return roots_.size() + done_.size(); }

 private:
  struct Root {
    std::optional<Task<void>> task;
    std::list<Root>::iterator place;
  };
  Task<void> run(Task<void> task, Root& root) {
    co_await task;
    done_.splice(done_.end(), roots_, root.place);
    loop_.defer(*this);
  }
  void on_turn_end() noexcept override { done_.clear(); }
  EventLoop& loop_;
  std::list<Root> roots_;
  std::list<Root> done_;
};

// co_await Sleep(loop, d).
class Sleep {
 public:
  Sleep(EventLoop& loop, Clock::duration duration) : timer_(loop), duration_(duration) {}
  [[nodiscard]] bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) {
    timer_.start_after(duration_, [handle] { handle.resume(); });
  }
  void await_resume() const noexcept {}

 private:
  Timer timer_;
  Clock::duration duration_;
};

// A latch that coroutines wait for with a limit. Waiters are resumed by set(), in order: as many as the turn has time for, the others in
// the next turns. One thread.
class Event {
 public:
  class Wait {
   public:
    Wait(EventLoop& loop, Event& event, Clock::duration limit) : loop_(loop), timer_(loop), event_(&event), limit_(limit) {}
    Wait(const Wait&) = delete;
    ~Wait() { unlink(); }
    [[nodiscard]] bool await_ready() const noexcept { return event_->set_; }
    void await_suspend(std::coroutine_handle<> handle) {
      handle_ = handle;
      place_ = event_->waiters_.insert(event_->waiters_.end(), this);
      linked_ = true;
      timer_.start_after(limit_, [this] {
        unlink();
        handle_.resume();
      });
    }
    // Whether the event was set (false: the limit passed first).
    bool await_resume() const noexcept { return fired_ || event_->set_; }

   private:
    friend class Event;
    void unlink() {
      if (std::exchange(linked_, false)) event_->waiters_.erase(place_);
    }
    EventLoop& loop_;
    Timer timer_;
    Event* event_;
    Clock::duration limit_;
    std::coroutine_handle<> handle_;
    std::list<Wait*>::iterator place_;
    bool linked_ = false;
    bool fired_ = false;
  };

  Event() = default;
  ~Event() {
    if (gone_ != nullptr) *gone_ = true;
  }
  Event(const Event&) = delete;
  [[nodiscard]] Wait wait(EventLoop& loop, Clock::duration limit) { return {loop, *this, limit}; }
  // Whoever is resumed may destroy the event.
  void set() {
    set_ = true;
    bool gone = false, first = true;
    bool* const outer = std::exchange(gone_, &gone);
    while (!gone && !waiters_.empty()) {
      Wait* wait = waiters_.front();
      wait->unlink();
      wait->fired_ = true;
      if (!std::exchange(first, false) && wait->loop_.overdue()) {
        wait->timer_.start(Clock::now(), [wait] { wait->handle_.resume(); });
        continue;
      }
      wait->timer_.cancel();
      wait->handle_.resume();
    }
    if (!gone) {
      gone_ = outer;
    } else if (outer != nullptr) {
      *outer = true;
    }
  }
  void clear() { set_ = false; }
  [[nodiscard]] bool is_set() const { return set_; }

 private:
  std::list<Wait*> waiters_;
  bool* gone_ = nullptr;  // of the set() that is running
  bool set_ = false;
};

// Awaits readiness of one descriptor, edge-triggered: `readable`/`writable` say whether an edge came since it was consumed.
class FdWaiter final : private Watcher {
 public:
  explicit FdWaiter(EventLoop& loop) : loop_(loop) {}
  ~FdWaiter() { detach(); }
  FdWaiter(const FdWaiter&) = delete;

  Result<> attach(int fd) {
    seen_ = 0;
    ZT_TRY(loop_.watch(fd, *this));
    fd_ = fd;
    return {};
  }
  void detach() {
    if (fd_ >= 0) loop_.unwatch(std::exchange(fd_, -1), *this);
  }

  // Waits for one of `events` (EPOLLIN/EPOLLOUT; hang-up and error always count). False: `deadline` passed.
  class Wait {
   public:
    Wait(FdWaiter& waiter, uint32_t events, Clock::time_point deadline)
        : waiter_(waiter), events_(events | EPOLLHUP | EPOLLERR), deadline_(deadline), timer_(waiter.loop_) {}
    ~Wait() {
      if (waiter_.waiting_ == this) waiter_.waiting_ = nullptr;
    }
    [[nodiscard]] bool await_ready() const noexcept { return (waiter_.seen_ & events_) != 0; }
    void await_suspend(std::coroutine_handle<> handle) {
      handle_ = handle;
      waiter_.waiting_ = this;
      timer_.start(deadline_, [this] {
        waiter_.waiting_ = nullptr;
        handle_.resume();
      });
    }
    bool await_resume() const noexcept {
      const bool ready = (waiter_.seen_ & events_) != 0;
      waiter_.seen_ &= ~(events_ & (EPOLLIN | EPOLLOUT));
      return ready;
    }

   private:
    friend class FdWaiter;
    FdWaiter& waiter_;
    uint32_t events_;
    Clock::time_point deadline_;
    Timer timer_;
    std::coroutine_handle<> handle_;
  };
  [[nodiscard]] Wait wait(uint32_t events, Clock::time_point deadline) { return {*this, events, deadline}; }

 private:
  void on_ready(uint32_t events) noexcept override {
    seen_ |= events;
    if (waiting_ != nullptr && (seen_ & waiting_->events_) != 0) {
      Wait* wait = std::exchange(waiting_, nullptr);
      wait->timer_.cancel();
      wait->handle_.resume();
    }
  }
  EventLoop& loop_;
  int fd_ = -1;
  uint32_t seen_ = 0;
  Wait* waiting_ = nullptr;
};

}  // namespace zt
