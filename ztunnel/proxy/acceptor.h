#pragma once
#include <cstdint>
#include <functional>

#include "base/address.h"
#include "base/backoff.h"
#include "base/event_loop.h"
#include "ztunnel/proxy/sockets.h"
#include "ztunnel/telemetry/metrics_families.h"

namespace zt::ztunnel {

enum class ListenerKind : uint8_t { kOutbound, kInboundPlain, kInboundTunnel };

// Accepts on one listening socket; lives on one worker. When the process is out of descriptors it waits a moment instead of
// spinning, and says so.
class Acceptor final : private Watcher, private Deferred {
 public:
  using Accepted = std::function<void(UniqueFd fd, SocketAddress peer)>;

  // `errors` counts failures to accept.
  Acceptor(EventLoop& loop, ListenSocket listener, Accepted accepted, Counter& errors);
  ~Acceptor();
  Result<> start();
  // Another proxy's listener on the same port, if there is one, gets the new connections from now on.
  void step_back() { steer_to_second(listener_.fd.get()); }
  // Some of those that wait in the socket's queue: closing the socket would reset them. False when there are none left, or none can be
  // accepted now.
  bool accept_some();
  [[nodiscard]] bool transparent() const { return listener_.transparent; }

 private:
  void on_ready(uint32_t events) noexcept override;
  void on_turn_end() noexcept override;

  EventLoop& loop_;
  ListenSocket listener_;
  Accepted accepted_;
  Counter& errors_;
  Timer retry_;
  Backoff exhausted_;
};

}  // namespace zt::ztunnel
