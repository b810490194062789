#pragma once
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "handover/protocol.h"
#include "hbone/stream_transport.h"
#include "ztunnel/proxy/connection_table.h"
#include "ztunnel/proxy/dialler.h"
#include "ztunnel/proxy/inbound.h"
#include "ztunnel/proxy/local_pod.h"
#include "ztunnel/proxy/outbound.h"

namespace zt::ztunnel {

// What one pod has on one worker that can go to another process, unit by unit, and what comes from one (docs/handover.md). Worker's thread.
class PodUnits {
 public:
  PodUnits(LocalPod& pod, std::string uid, ConnectionTable& connections, Dialler& dialler, Inbound& inbound, Outbound& outbound);
  ~PodUnits();
  PodUnits(const PodUnits&) = delete;

  // --- Leaving
  // Tells the tunnels' peers what they have to know before. In pieces: `anew` begins; true when nothing is left.
  bool prepare_some(bool anew);
  // Every unit is to be tried (again). `patient`: those with a request of a peer's, which is mostly answered in a moment, later.
  void begin(bool patient);
  // The next that can be moved, frozen, until gone() or stays(). What cannot be moved now is passed over, and `stuck` is told why.
  using Stuck = std::function<void(std::string_view why)>;
  std::optional<handover::UnitSource::Frozen> next(const Stuck& stuck);
  // Returns how many connections went along.
  size_t gone();
  void stays();
  // Requests that are gone, whose waits have not ended yet; nobody needs to wait for these.
  struct Departed {
    size_t requests = 0, connections = 0;
  };
  [[nodiscard]] Departed departed() const;

  // --- Coming
  // As handover::UnitSink, for each of several who bring units at a time: another process has more workers, or there are two of them.
  // `from` tells them apart. run() returns how many connections have come.
  using Bringer = const void*;
  Result<> prepare(Bringer from, handover::Unit unit, std::vector<UniqueFd> descriptors);
  size_t run(Bringer from);
  void drop(Bringer from);
  void drop_all();  // the pod ends

 private:
  // Of a stream: one of these.
  struct LeavingUser {
    StreamRelay* relay = nullptr;
    RequestOnItsWay* request = nullptr;  // while it is being frozen
    hbone::StreamTransport* carrier = nullptr;
  };
  struct LeavingInner {
    hbone::TunnelPool::Held held;
    hbone::StreamTransport* carrier;
    std::vector<LeavingUser> users;
  };
  struct LeavingTunnel {
    hbone::Tunnel* tunnel;
    Inbound::InboundTunnel* server;  // null: the pool's
    std::vector<LeavingUser> users;
    std::vector<LeavingInner> inner;
  };
  struct LeavingPair {
    Connection* connection;
  };
  struct LeavingRest {
    StreamRelay* relay;
    PeerAccounts::Ptr memory;  // that charges nothing for it meanwhile
  };
  struct ComingUser {
    handover::StreamUser state;
    std::unique_ptr<StreamRelay> relay;  // null: a request, which is begun anew, or a tunnel
    UniqueFd socket;
    ConnectionInfo info;
  };
  struct ComingInner {
    hbone::TunnelKey key;
    std::chrono::milliseconds idle{};
    std::unique_ptr<hbone::StreamTransport> fresh;  // until the tunnel has it
    hbone::StreamTransport* carrier = nullptr;
    std::vector<ComingUser> users;
    std::unique_ptr<hbone::Tunnel> tunnel;
  };
  struct ComingTunnel {
    handover::TunnelUnit unit;
    std::vector<ComingUser> users;
    std::unique_ptr<hbone::Tunnel> client;
    std::unique_ptr<Inbound::InboundTunnel> server;
    std::vector<ComingInner> inner;  // goes first
  };
  struct ComingPair {
    handover::PairUnit unit;
    std::vector<UniqueFd> descriptors;
    ConnectionInfo info;
    // Of two pods of this node: the server's.
    ConnectionInfo server_info;
    std::shared_ptr<LocalPeers::Entry> server;
  };
  struct ComingRest {
    handover::RestUnit unit;
    UniqueFd socket;
    ConnectionInfo info;
  };
  using Coming = std::variant<ComingTunnel, ComingPair, ComingRest>;
  using Frozen = handover::UnitSource::Frozen;
  using Descriptors = std::vector<UniqueFd>::iterator;

  // --- pod_units.cc
  std::optional<Frozen> freeze(LeavingTunnel leaving, handover::TunnelUnit unit, const Stuck& stuck);
  Frozen freeze(Connection& connection, SpliceRelay& relay);
  Frozen freeze(Connection& connection, StreamRelay& relay);
  [[nodiscard]] Result<> make_movable(LeavingTunnel& leaving);
  [[nodiscard]] Result<std::vector<LeavingUser>> users_of(hbone::Tunnel& tunnel) const;
  void freeze_users(const std::vector<LeavingUser>& users, hbone::TunnelState& tunnel, std::vector<handover::StreamUser>& states,
                    Frozen& frozen);
  static handover::ConnectionState leaving_state(Connection& connection);
  static void drop_rest(StreamRelay& relay);
  // Whose account a stream's bytes are charged to.
  template <class Addresses>
  static const IpAddress& peer_of(bool inbound, const Addresses& of) {
    return (inbound ? of.source : of.destination).ip;
  }

  // --- pod_units_coming.cc
  Result<Coming> prepare_tunnel(handover::TunnelUnit unit, std::vector<UniqueFd> descriptors);
  Result<> resume_tunnel(ComingTunnel& coming, UniqueFd socket);
  Result<Coming> prepare_pair(handover::PairUnit unit, std::vector<UniqueFd> descriptors);
  Result<Coming> prepare_rest(handover::RestUnit unit, UniqueFd socket);
  Result<std::vector<ComingUser>> take_users(std::vector<handover::StreamUser> users, StreamRelay::Side side, Descriptors& next);
  [[nodiscard]] Result<> has_proof(const hbone::TunnelState& tunnel) const;
  Connection& adopt(ConnectionInfo info, const handover::ConnectionState& state);
  [[nodiscard]] std::optional<Coming> take_coming(Bringer from);
  static void let_go(ComingTunnel& coming);
  size_t run_tunnel(ComingTunnel coming);
  struct Running;
  void adopt_users(std::vector<ComingUser>& users, Running& running);
  void run_users(Running& running, hbone::Tunnel& tunnel, const hbone::TunnelKey* key);
  size_t run_pair(ComingPair coming);
  size_t run_rest(ComingRest coming);

  LocalPod& pod_;
  const std::string uid_;
  ConnectionTable& connections_;
  Dialler& dialler_;
  Inbound& inbound_;
  Outbound& outbound_;

  bool prepare_clients_ = false;
  bool patient_ = false;
  ConnectionTable::Walk pairs_;
  std::variant<std::monostate, LeavingTunnel, LeavingPair, LeavingRest> leaving_;
  RequestsOfUnit frozen_requests_;    // of `leaving_`: they may end meanwhile, and more may end when one is told to go on
  std::map<Bringer, Coming> coming_;  // prepared, until run() or drop()
};

}  // namespace zt::ztunnel
