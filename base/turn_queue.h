#pragma once
#include <boost/intrusive/list.hpp>
#include <coroutine>

#include "base/event_loop.h"

namespace zt {

// Where coroutines wait before a step that takes long (a part of a TLS handshake is a millisecond): one of them goes on per turn of the
// loop, so that whatever else is ready in between waits for one step and not for all of them. In order of arrival. One thread.
class TurnQueue final : private Deferred {
 public:
  explicit TurnQueue(EventLoop& loop) : loop_(loop) {}
  ~TurnQueue() { loop_.cancel_deferred(*this); }
  TurnQueue(const TurnQueue&) = delete;

  // co_await queue.turn(). Who is destroyed while it waits leaves the queue.
  class Wait : public boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>> {
   public:
    explicit Wait(TurnQueue& queue) : queue_(queue) {}
    Wait(const Wait&) = delete;
    [[nodiscard]] bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) {
      handle_ = handle;
      queue_.waiting_.push_back(*this);
      queue_.loop_.defer(queue_);
    }
    void await_resume() const noexcept {}

   private:
    friend class TurnQueue;
    TurnQueue& queue_;
    std::coroutine_handle<> handle_;
  };
  [[nodiscard]] Wait turn() { return Wait(*this); }

 private:
  void on_turn_end() noexcept override {
    if (waiting_.empty()) return;  // who asked has gone
    Wait& next = waiting_.front();
    waiting_.pop_front();
    if (!waiting_.empty()) loop_.defer(*this);
    next.handle_.resume();
  }

  EventLoop& loop_;
  boost::intrusive::list<Wait, boost::intrusive::constant_time_size<false>> waiting_;
};

}  // namespace zt
