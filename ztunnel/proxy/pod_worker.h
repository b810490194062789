#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ztunnel/proxy/acceptor.h"
#include "ztunnel/proxy/connection_table.h"
#include "ztunnel/proxy/dialler.h"
#include "ztunnel/proxy/inbound.h"
#include "ztunnel/proxy/local_pod.h"
#include "ztunnel/proxy/outbound.h"

namespace zt::ztunnel {

// What one worker does for one pod: its listeners, its connections, its tunnels to other pods, those from other pods to it.
// Made, used and destroyed on the worker's thread. The life of a connection is told in outbound.cc and inbound.cc.
class PodWorker {
 public:
  // `hand_over` gives an accepted socket to the worker that should have it (maybe this one).
  using HandOver = std::function<void(ListenerKind kind, UniqueFd fd, SocketAddress client, bool transparent)>;

  PodWorker(Worker& worker, const std::string& uid, PodName workload, SocketOptions sockets);
  ~PodWorker();
  PodWorker(const PodWorker&) = delete;

  // Accepts on `listener` from now on.
  Result<> serve(ListenerKind kind, ListenSocket listener, HandOver hand_over);
  // Takes a connection for life. `transparent`: its listener may preserve source addresses.
  void accept(ListenerKind kind, UniqueFd fd, SocketAddress client, bool transparent);
  [[nodiscard]] Outbound& outbound() { return outbound_; }

  // Leaves new connections to another proxy on the same ports, and stops accepting a moment later; peers are told to open no
  // more streams; what is there goes on.
  void drain();
  // Ends everything that is there: applications and peers see resets.
  void kill_all(Reason reason, const std::string& text) { connections_.kill_all(reason, text); }

  // Closes the tunnels whose peer is revoked by now.
  void close_revoked();

  [[nodiscard]] size_t connection_count() const { return connections_.count(); }
  // What may become a connection yet: handshakes, requests that are being dealt with, tunnels whose peers have not left,
  // listeners that are still open.
  [[nodiscard]] size_t unfinished() const { return outbound_.unfinished() + inbound_.unfinished() + acceptors_.size(); }
  [[nodiscard]] PodConnections connections() const { return connections_.lines(); }

 private:
  Worker& worker_;
  LocalPod pod_;
  Timer linger_timer_;
  ConnectionTable connections_;
  Dialler dialler_;
  Inbound inbound_;
  Outbound outbound_;
  uint64_t policy_generation_;
  StateView::Listener on_snapshot_;
  std::vector<std::unique_ptr<Acceptor>> acceptors_;
};

}  // namespace zt::ztunnel
