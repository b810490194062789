#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/acceptor.h"
#include "ztunnel/proxy/arrival.h"
#include "ztunnel/proxy/connection_table.h"
#include "ztunnel/proxy/dialler.h"
#include "ztunnel/proxy/inbound.h"
#include "ztunnel/proxy/local_pod.h"
#include "ztunnel/proxy/outbound.h"
#include "ztunnel/proxy/pod_units.h"

namespace zt::ztunnel {

// What one worker does for one pod: its listeners, its connections, its tunnels to other pods, those from other pods to it.
// Made, used and destroyed on the worker's thread. The life of a connection is told in outbound.cc and inbound.cc.
class PodWorker {
 public:
  // `hand_over` gives an accepted socket to the worker that should have it (maybe this one).
  using HandOver = std::function<void(Arrival arrival)>;

  // `counts`: of this pod, shared by all workers.
  PodWorker(Worker& worker, const std::string& uid, PodName workload, SocketOptions sockets, std::shared_ptr<PodCounts> counts);
  ~PodWorker();
  PodWorker(const PodWorker&) = delete;

  // Accepts on `listener` from now on.
  Result<> serve(ListenerKind kind, ListenSocket listener, HandOver hand_over);
  // Takes a connection for life.
  void accept(Arrival arrival);
  [[nodiscard]] Outbound& outbound() { return outbound_; }

  // Leaves new connections to another proxy on the same ports, and stops accepting a moment later.
  void step_back();
  // These are done in pieces: `anew` begins; true when nothing is left.
  // Peers are told to open no more streams; what is there goes on.
  bool drain_some(bool anew) { return inbound_.drain_some(anew); }
  // Closes the tunnels whose peer is revoked by now.
  bool close_revoked_some(bool anew);
  // The pod is gone: nothing is accepted any more, and what there is ends. To be destroyed when nothing is left.
  bool end_some(bool anew);
  // What goes to another process, and comes from one.
  [[nodiscard]] PodUnits& units() { return units_; }

  [[nodiscard]] size_t connection_count() const { return connections_.count() - units_.departed().connections; }
  // What may become a connection yet: handshakes, requests that are being dealt with, tunnels whose peers have not left,
  // listeners that are still open.
  [[nodiscard]] size_t unfinished() const {
    return outbound_.unfinished() + inbound_.unfinished() + acceptors_.size() + (handshakes_ ? handshakes_->waiting() : 0) -
           units_.departed().requests;
  }
  // Says what is held for the pod here now.
  void publish_memory() { pod_.counts->memory[worker_.index()].store(memory_.used(), std::memory_order_relaxed); }
  // Nothing of it that another process could be given, now or in a moment.
  [[nodiscard]] bool empty() const { return connection_count() + unfinished() + dialler_.tunnels() == 0; }
  [[nodiscard]] ConnectionTable& connections() { return connections_; }

 private:
  // Whether the pod may have one more connection; else it is refused.
  bool admit(ListenerKind kind, const UniqueFd& fd, const SocketAddress& client);

  void close_listeners(size_t batches);

  Worker& worker_;
  MemoryAccount memory_;
  PeerAccounts peers_;
  LocalPod pod_;
  Timer linger_timer_;
  ConnectionTable connections_;
  Dialler dialler_;
  Inbound inbound_;
  Outbound outbound_;
  PodUnits units_;
  uint64_t policy_generation_;
  bool retire_anew_ = false, look_at_clients_ = false, end_server_tunnels_ = false, end_client_tunnels_ = false;
  std::optional<StateView::Listener> on_snapshot_;  // until end_some()
  std::optional<PodHandshakes> handshakes_;         // where its listener is
  size_t crowded_ = 0;                              // for how many it had no room
  std::vector<std::unique_ptr<Acceptor>> acceptors_;
  bool stepped_back_ = false;
};

}  // namespace zt::ztunnel
