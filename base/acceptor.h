#pragma once
#include <functional>

#include "base/address.h"
#include "base/backoff.h"
#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace zt {

// Accepts on one listening socket; lives on its loop's thread. When the process is out of descriptors it rests a moment, longer each
// time, instead of spinning. Whoever comes while it rests waits in the socket's queue.
class Acceptor final : private Watcher, private Deferred {
 public:
  using Accepted = std::function<void(UniqueFd fd, SocketAddress peer)>;
  using Failed = std::function<void(int error)>;  // to be counted and said; it is tried again

  // `listener`: listening and non-blocking. The callbacks may not destroy the acceptor.
  Acceptor(EventLoop& loop, UniqueFd listener, Accepted accepted, Failed failed);
  ~Acceptor();
  Acceptor(const Acceptor&) = delete;
  Result<> start();
  // Some of those that wait in the socket's queue: closing the socket would reset them. False when there are none left, or none can be
  // accepted now.
  bool accept_some();
  // Accepts nothing by itself for so long. From `Accepted`, or outside.
  void rest(Clock::duration time);
  [[nodiscard]] int fd() const { return listener_.get(); }

 private:
  void on_ready(uint32_t) noexcept override { accept_in_turn(); }
  void on_turn_end() noexcept override { accept_in_turn(); }
  void accept_in_turn();
  bool accept_up_to(int most, bool until_rest);

  EventLoop& loop_;
  const UniqueFd listener_;
  const Accepted accepted_;
  const Failed failed_;
  Timer rest_;
  Backoff exhausted_;
};

}  // namespace zt
