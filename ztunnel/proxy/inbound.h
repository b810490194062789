#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/task.h"
#include "base/unique_fd.h"
#include "base/walk_list.h"
#include "handover/unit.h"
#include "hbone/tunnel.h"
#include "ztunnel/decide/authorize.h"
#include "ztunnel/proxy/arrival.h"
#include "ztunnel/proxy/connection_table.h"
#include "ztunnel/proxy/local_peers.h"
#include "ztunnel/proxy/local_pod.h"
#include "ztunnel/proxy/relay.h"

namespace zt::ztunnel {

// What arrives at a pod, on one worker: tunnels and the CONNECTs in them (contract §4.1), and plain TCP (§4.6).
// Worker's thread.
class Inbound {
 public:
  // A tunnel that a peer opened to this pod. In `tunnels_`, which owns it, until it closes.
  class InboundTunnel;

  Inbound(LocalPod& pod, ConnectionTable& connections);
  ~Inbound();
  Inbound(const Inbound&) = delete;

  // Take a connection for life.
  void open_tunnel(Arrival arrival) { tasks_.spawn(accept_tunnel(std::move(arrival))); }
  void open_plain(Arrival arrival) { tasks_.spawn(accept_plain(std::move(arrival))); }

  // From another pod of this node. The answer is in the request.
  void open_local(std::shared_ptr<LocalRequest> request) { tasks_.spawn(accept_local(std::move(request))); }
  // The address is one of the pod's network namespace.
  [[nodiscard]] bool owns(const IpAddress& ip);
  // The server's connection of a pair that another process had, whose bytes `front` moves.
  Connection& adopt_local(ConnectionInfo info, const RelayBytes& counted, const handover::PairUnit::Server& server,
                          SpliceRelay& front);
  // Ends a connection without a tunnel if its peer is revoked, on either side.
  void cut_if_revoked(Shadow& shadow);
  // Ends connections without a tunnel whose peer is revoked, on either side. In pieces, as the next.
  bool cut_revoked_some(bool anew);

  // Peers are told to open no more streams; what is there goes on. In pieces, as the next: `anew` begins; true when none is left.
  bool drain_some(bool anew);
  bool close_some_if(bool anew, const std::function<bool(const hbone::Tunnel&)>& condition, Reason reason);
  // Takes nothing more, and what is being dealt with is dropped.
  void stop();
  // What may become a connection yet: handshakes, requests that are being dealt with, tunnels whose peers have not left.
  [[nodiscard]] size_t unfinished() const { return tasks_.size() + tunnel_count_; }

  // --- Hand-over to another process, and from one (inbound_handover.cc). All tunnels that are there, in pieces as above.
  bool prepare_some_handover(bool anew);
  struct Held {
    InboundTunnel& owner;
    hbone::Tunnel& tunnel;
    SocketAddress peer, local;
    bool transparent;
  };
  // One after the other; nothing: that was all.
  void begin_leaving() { leaving_.begin(tunnels_); }
  [[nodiscard]] std::optional<Held> next_leaving();
  // One whose tunnel has been discarded.
  void forget(InboundTunnel& tunnel);
  // One that another process froze, frozen and in no list until keep().
  Result<std::unique_ptr<InboundTunnel>> resume(UniqueFd socket, const handover::TunnelUnit& unit,
                                                const hbone::AttachStream& attach);
  // Ours from here on, and thawed.
  hbone::Tunnel& keep(std::unique_ptr<InboundTunnel> resumed);
  // Asks the policies for an open connection, as for all when they change: it ends if they refuse it now.
  void judge_open(Connection& connection) { judge_open(connection, *worker_.snapshot()); }

  // Policies changed: all open connections are to be asked for again.
  void recheck() { rechecked_.begin(connections_.all()); }
  // Asks for some more of them; true when all have been asked.
  bool recheck_some(const workload_api::Snapshot& snapshot);

 private:
  using Unused = boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;

  void enter(std::unique_ptr<InboundTunnel> tunnel, OpenSocket open, Counted in_pod);
  void judge_open(Connection& connection, const workload_api::Snapshot& snapshot);
  // Makes room if the pod has as many tunnels as it may: the oldest that nobody uses goes. False: there is none here.
  bool admit_tunnel();
  Task<void> accept_tunnel(Arrival arrival);
  Task<void> accept_connect(InboundTunnel& tunnel, hbone::Stream& stream, hbone::Headers headers);
  Task<void> accept_plain(Arrival arrival);
  Task<void> accept_local(std::shared_ptr<LocalRequest> request);
  // What the policies say, with our workload as it is in `snapshot`: its own list of policies may have changed since the
  // connection came.
  [[nodiscard]] Verdict judge(const workload_api::Snapshot& snapshot, const ConnectionInfo& info, MissingPolicy missing) const;
  // Waits a moment for policies that the workload names and that have not come (then fails closed).
  Task<Verdict> authorize_inbound(const ConnectionInfo& info);
  // Asks the policies, connects to the application, and asks again: they may have changed while it was being reached.
  Task<Result<UniqueFd>> connect_if_allowed(const ConnectionInfo& info, ConnectTarget target);

  LocalPod& pod_;
  Worker& worker_;
  ConnectionTable& connections_;
  bool draining_ = false, stopped_ = false;
  ConnectionTable::Walk rechecked_;
  WalkList<InboundTunnel> tunnels_;
  WalkList<InboundTunnel>::Walk drained_, looked_at_, prepared_, leaving_;
  boost::intrusive::list<Unused, boost::intrusive::constant_time_size<false>> unused_;  // without streams; the oldest in front
  size_t tunnel_count_ = 0;
  const std::shared_ptr<LocalPeers::Entry> local_;  // how other pods of this worker find us
  std::vector<IpAddress> own_addresses_;            // those that were asked for
  WalkList<Shadow> shadows_;
  WalkList<Shadow>::Walk shadows_looked_at_;
  static constexpr size_t kShadowsAtOnce = 64;
  TaskScope tasks_;  // last: coroutines end before what they use
};

}  // namespace zt::ztunnel
