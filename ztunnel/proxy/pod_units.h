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
  struct LeavingTunnel {
    hbone::Tunnel* tunnel;
    Inbound::InboundTunnel* server;  // null: the pool's
    std::vector<StreamRelay*> relays;
    std::vector<RequestOnItsWay*> requests;  // while it is being frozen
  };
  struct LeavingPair {
    Connection* connection;
  };
  struct ComingUser {
    handover::StreamUser state;
    std::unique_ptr<StreamRelay> relay;  // null: a request, which is begun anew
    UniqueFd socket;
    ConnectionInfo info;
  };
  struct ComingTunnel {
    handover::TunnelUnit unit;
    std::vector<ComingUser> users;
    std::unique_ptr<hbone::Tunnel> client;
    std::unique_ptr<Inbound::InboundTunnel> server;
  };
  struct ComingPair {
    handover::PairUnit unit;
    std::vector<UniqueFd> descriptors;
    ConnectionInfo info;
    // Of two pods of this node: the server's.
    ConnectionInfo server_info;
    std::shared_ptr<LocalPeers::Entry> server;
  };
  using Coming = std::variant<ComingTunnel, ComingPair>;

  std::optional<handover::UnitSource::Frozen> freeze(LeavingTunnel leaving, handover::TunnelUnit unit, const Stuck& stuck);
  std::optional<handover::UnitSource::Frozen> freeze(Connection& connection, SpliceRelay& relay);
  [[nodiscard]] Result<> add_users(LeavingTunnel& leaving) const;
  [[nodiscard]] RequestOnItsWay* frozen_request() const;
  static handover::ConnectionState leaving_state(Connection& connection);
  Result<Coming> prepare_tunnel(handover::TunnelUnit unit, std::vector<UniqueFd> descriptors);
  Result<Coming> prepare_pair(handover::PairUnit unit, std::vector<UniqueFd> descriptors);
  Connection& adopt(ConnectionInfo info, const handover::ConnectionState& state);
  [[nodiscard]] std::optional<Coming> take_coming(Bringer from);
  static void drop(Coming coming);
  size_t run_tunnel(ComingTunnel coming);
  size_t run_pair(ComingPair coming);

  LocalPod& pod_;
  const std::string uid_;
  ConnectionTable& connections_;
  Dialler& dialler_;
  Inbound& inbound_;
  Outbound& outbound_;

  bool prepare_clients_ = false;
  bool patient_ = false;
  ConnectionTable::Walk pairs_;
  std::variant<std::monostate, LeavingTunnel, LeavingPair> leaving_;
  std::map<Bringer, Coming> coming_;  // prepared, until run() or drop()
};

}  // namespace zt::ztunnel
