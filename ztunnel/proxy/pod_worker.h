#pragma once
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "base/task.h"
#include "hbone/tls/handshake.h"
#include "hbone/tunnel_pool.h"
#include "ztunnel/decide/authorize.h"
#include "ztunnel/decide/route.h"
#include "ztunnel/proxy/acceptor.h"
#include "ztunnel/proxy/connection.h"
#include "ztunnel/proxy/worker.h"

namespace zt::ztunnel {

class InboundTunnel;

// One line of the admin dump's `connections` (contract §10.6).
struct ConnectionLine {
  SocketAddress source;
  std::string original_destination;  // inbound: host of `forwarded`, may be empty
  SocketAddress actual_destination;
  std::string protocol;  // HBONE, TCP
};
struct PodConnections {
  std::vector<ConnectionLine> inbound, outbound;
};

// What one worker does for one pod: its connections, its tunnels to other pods, those from other pods to it. Made, used and
// destroyed on the worker's thread. The life of a connection is told by the coroutines outbound(), inbound_tunnel(),
// inbound_connect() and inbound_plain().
class PodWorker {
 public:
  // `hand_over` gives an accepted socket to the worker that should have it (maybe this one).
  using HandOver = std::function<void(ListenerKind kind, UniqueFd fd, SocketAddress client, bool transparent)>;

  PodWorker(Worker& worker, std::string uid, PodName workload, SocketOptions sockets);
  ~PodWorker();
  PodWorker(const PodWorker&) = delete;

  // Accepts on `listener` from now on.
  Result<> serve(ListenerKind kind, ListenSocket listener, HandOver hand_over);
  // Takes a connection for life. `transparent`: its listener may preserve source addresses.
  void accept(ListenerKind kind, UniqueFd fd, SocketAddress client, bool transparent);

  // Leaves new connections to another proxy on the same ports, and stops accepting a moment later; peers are told to open no
  // more streams; what is there goes on.
  void drain();
  // Ends everything that is there: applications and peers see resets.
  void kill_all(Reason reason, const std::string& text);

  // Closes the tunnels whose peer is revoked by now.
  void close_revoked();

  [[nodiscard]] size_t connection_count() const { return count_; }
  // What may become a connection yet: handshakes, requests that are being dealt with, tunnels whose peers have not left,
  // listeners that are still open.
  [[nodiscard]] size_t unfinished() const { return tasks_.size() + inbound_tunnels_.size() + acceptors_.size(); }
  [[nodiscard]] PodConnections connections() const;

 private:
  friend class InboundTunnel;

  // outbound.cc
  Task<void> outbound(UniqueFd fd, SocketAddress client);
  Task<void> outbound_plain(UniqueFd fd, ConnectionInfo info, Plain to);
  Task<void> outbound_tunnel(UniqueFd fd, ConnectionInfo info, Hbone via);

  // inbound.cc
  Task<void> inbound_tunnel(UniqueFd fd, SocketAddress client, bool transparent);
  Task<void> inbound_connect(InboundTunnel& tunnel, hbone::Stream& stream, hbone::Headers headers);
  Task<void> inbound_plain(UniqueFd fd, SocketAddress client, bool transparent);
  // What the policies say, with our workload as it is in `snapshot`: its own list of policies may have changed since the
  // connection came.
  [[nodiscard]] Verdict judge(const workload_api::Snapshot& snapshot, const ConnectionInfo& info) const;
  // Waits a moment for policies that the workload names and that have not come (then fails closed).
  Task<Verdict> authorize_inbound(const ConnectionInfo& info);
  // Asks the policies, connects to the application, and asks again: they may have changed while it was being reached.
  Task<Result<UniqueFd>> connect_if_allowed(const ConnectionInfo& info, bool transparent);
  void count_bytes();
  // Asks the policies again for some more of the connections that are open; true when all have been asked.
  bool recheck_policies(const workload_api::Snapshot& snapshot);

  // dial.cc
  Task<Result<std::unique_ptr<hbone::Tunnel>>> dial(hbone::TunnelKey key, hbone::TunnelOwner& owner);
  Task<Result<std::unique_ptr<hbone::Tunnel>>> dial_uncounted(hbone::TunnelKey key, hbone::TunnelOwner& owner);
  struct Handshaken {
    hbone::TlsEstablished tls;
    std::vector<uint8_t> early;  // records that came with the last flight
  };
  Task<Result<Handshaken>> handshake(int fd, hbone::TlsRole role, hbone::TlsHandshake handshake);
  Task<Result<Handshaken>> shake_hands(int fd, hbone::TlsHandshake handshake, Clock::time_point deadline);

  Task<Result<workload_api::WorkloadPtr>> local_workload();
  // On demand: the route once the control plane was asked for what it needs, each key once, all within one limit.
  Task<Route> route_on_demand(const OutboundRequest& request);
  Connection& adopt(std::unique_ptr<Connection> connection);
  void remove(Connection& connection);
  Relay::Done when_done(Connection& connection);
  void retire_tunnels(const workload_api::Snapshot& snapshot);

  Worker& worker_;
  const std::string uid_;
  const PodName workload_;
  const SocketOptions sockets_;
  RoundRobin round_robin_;
  NumberFor number_;
  uint64_t policy_generation_ = 0;
  bool draining_ = false;
  Timer count_timer_;
  Timer linger_timer_;

  std::vector<std::unique_ptr<Acceptor>> acceptors_;
  Connection* first_ = nullptr;  // new ones come in front: they were judged by the snapshot of their time
  Connection* recheck_next_ = nullptr;
  size_t count_ = 0;
  std::list<std::unique_ptr<InboundTunnel>> inbound_tunnels_;
  hbone::TunnelPool pool_;
  TaskScope tasks_;  // last: coroutines end before what they use
};

// A tunnel that a peer opened to this pod. Owned by the PodWorker's list.
class InboundTunnel final : public hbone::TunnelOwner {
 public:
  InboundTunnel(PodWorker& pod, SocketAddress peer, SocketAddress local, bool transparent)
      : pod_(pod), peer_(peer), local_(local), transparent_(transparent) {}

  void on_request(hbone::Stream& stream, hbone::Headers headers) noexcept override;
  void on_streams_changed(hbone::Tunnel&) noexcept override {}
  void on_tunnel_closed(hbone::Tunnel& tunnel, const Error& why) noexcept override;

 private:
  friend class PodWorker;
  PodWorker& pod_;
  SocketAddress peer_, local_;
  bool transparent_;
  std::shared_ptr<const ProvenPeer> identity_;  // null: TLS without a SPIFFE id
  std::unique_ptr<hbone::Tunnel> tunnel_;
};

}  // namespace zt::ztunnel
