// What comes from another process: prepared without touching a socket, then run, or dropped without a word.
#include <cassert>
#include <utility>

#include "hbone/socket_transport.h"
#include "mesh/reason.h"
#include "ztunnel/proxy/connection_handover.h"
#include "ztunnel/proxy/handshaking.h"
#include "ztunnel/proxy/inbound_tunnel.h"
#include "ztunnel/proxy/pod_units.h"

namespace zt::ztunnel {

using handover::StreamUser;
using handover::TunnelUnit;

Result<> PodUnits::prepare(Bringer from, handover::Unit unit, std::vector<UniqueFd> descriptors) {
  assert(!coming_.contains(from));
  // Its policies decide on what comes to it.
  if (pod_.known() == nullptr) return fail(Reason::kNoWorkload, "the pod's workload is not known here yet");
  auto coming = [&]() -> Result<Coming> {
    if (auto* const pair = std::get_if<handover::PairUnit>(&unit)) return prepare_pair(std::move(*pair), std::move(descriptors));
    if (auto* const rest = std::get_if<handover::RestUnit>(&unit))
      return prepare_rest(std::move(*rest), std::move(descriptors.front()));
    return prepare_tunnel(std::move(std::get<TunnelUnit>(unit)), std::move(descriptors));
  }();
  if (!coming) return std::unexpected(coming.error());
  coming_.emplace(from, std::move(*coming));
  return {};
}

Result<PodUnits::Coming> PodUnits::prepare_pair(handover::PairUnit unit, std::vector<UniqueFd> descriptors) {
  ZT_ASSIGN(auto info, info_of(unit.connection, *pod_.worker.snapshot()));
  ComingPair coming{.unit = std::move(unit),
                    .descriptors = std::move(descriptors),
                    .info = std::move(info),
                    .server_info = {},
                    .server = nullptr};
  if (const auto& server = coming.unit.server) {
    if (pod_.worker.settings().tls.keep_peer_chain && (!server->client_chain || !server->server_chain)) {
      return fail(Reason::kInvalidInput, "whether its peers are revoked cannot be asked: their certificates were not kept");
    }
    ZT_ASSIGN(coming.server_info, info_of(server->connection, *pod_.worker.snapshot()));
    coming.info.local = coming.server_info.local = true;
    coming.server = pod_.worker.local_peers().find(*coming.server_info.destination_workload);
    if (!coming.server || !coming.server->inbound->owns(coming.server_info.destination.ip)) {
      return fail(Reason::kNoWorkload, "the pod at its other end is not served here");
    }
  }
  return coming;
}

Result<PodUnits::Coming> PodUnits::prepare_rest(handover::RestUnit unit, UniqueFd socket) {
  ZT_ASSIGN(auto info, info_of(unit.connection, *pod_.worker.snapshot()));
  return ComingRest{.unit = std::move(unit), .socket = std::move(socket), .info = std::move(info)};
}

Result<> PodUnits::has_proof(const hbone::TunnelState& tunnel) const {
  if (!pod_.worker.settings().tls.keep_peer_chain || tunnel.peer_chain) return {};
  return fail(Reason::kInvalidInput, "whether its peer is revoked cannot be asked: its certificates were not kept");
}

Result<std::vector<PodUnits::ComingUser>> PodUnits::take_users(std::vector<StreamUser> users, StreamRelay::Side side,
                                                               Descriptors& next) {
  std::vector<ComingUser> coming;
  coming.reserve(users.size());
  for (StreamUser& user : users) {
    if (user.phase == StreamUser::Phase::kRequested || user.phase == StreamUser::Phase::kTunnel) {
      coming.push_back({.state = std::move(user), .relay = nullptr, .socket = {}, .info = {}});
      continue;
    }
    ZT_ASSIGN(auto info, info_of(user.connection, *pod_.worker.snapshot()));
    coming.push_back({.state = std::move(user),
                      .relay = std::make_unique<StreamRelay>(pod_.worker.io(), side),
                      .socket = std::move(*next++),
                      .info = std::move(info)});
  }
  return coming;
}

Result<PodUnits::Coming> PodUnits::prepare_tunnel(TunnelUnit unit, std::vector<UniqueFd> descriptors) {
  ZT_TRY(has_proof(unit.tunnel));
  const bool client = unit.tunnel.role == hbone::TunnelRole::kClient;
  const auto side = client ? StreamRelay::Side::kSocketIsClient : StreamRelay::Side::kSocketIsServer;
  ComingTunnel coming;
  auto next = descriptors.begin();
  UniqueFd socket = std::move(*next++);
  ZT_ASSIGN(coming.users, take_users(std::move(unit.users), side, next));
  for (handover::InnerTunnel& inner : unit.inner) {
    ZT_TRY(has_proof(inner.tunnel));
    ComingInner& to = coming.inner.emplace_back();
    to.key = std::move(inner.key);
    to.key.gateway = std::make_shared<hbone::TunnelKey::Gateway>(
        hbone::TunnelKey::Gateway{.tunnel = *unit.key, .connect = std::move(inner.connect)});
    to.idle = inner.idle;
    to.fresh = std::make_unique<hbone::StreamTransport>();
    to.fresh->resume({.queued = std::move(inner.queued), .ended = inner.ended});
    to.carrier = to.fresh.get();
    ZT_ASSIGN(to.users, take_users(std::move(inner.users), side, next));
  }
  coming.unit = std::move(unit);
  if (auto resumed = resume_tunnel(coming, std::move(socket)); !resumed) {
    let_go(coming);
    return std::unexpected(resumed.error());
  }
  return coming;
}

Result<> PodUnits::resume_tunnel(ComingTunnel& coming, UniqueFd socket) {
  const TunnelUnit& unit = coming.unit;
  const auto attach_to = [](std::vector<ComingUser>& users, auto inner) {
    return [at = users.begin(), inner](hbone::Stream& stream, const hbone::StreamState&) mutable -> hbone::StreamHandler* {
      ComingUser& user = *at++;
      if (user.relay != nullptr) user.relay->attach(stream);
      if (user.state.phase != StreamUser::Phase::kTunnel) return user.relay.get();
      hbone::StreamTransport& carrier = *(inner++)->fresh;
      carrier.use(stream);
      return &carrier;
    };
  };
  const hbone::AttachStream attach = attach_to(coming.users, coming.inner.begin());
  if (unit.key) {
    auto transport = std::make_unique<hbone::SocketTransport>(pod_.worker.loop(), std::move(socket));
    ZT_ASSIGN(coming.client, dialler_.resume(*unit.key, std::move(transport), unit.tunnel, attach));
  } else {
    ZT_ASSIGN(coming.server, inbound_.resume(std::move(socket), unit, attach));
  }
  for (size_t i = 0; i < coming.inner.size(); ++i) {
    ComingInner& inner = coming.inner[i];
    auto resumed =
        dialler_.resume(inner.key, std::move(inner.fresh), unit.inner[i].tunnel, attach_to(inner.users, coming.inner.end()));
    if (!resumed) {
      inner.carrier = nullptr;  // gone with what was made of it
      return std::unexpected(resumed.error());
    }
    inner.tunnel = std::move(*resumed);
    inner.carrier->carry(*inner.tunnel);
  }
  return {};
}

std::optional<PodUnits::Coming> PodUnits::take_coming(Bringer from) {
  auto node = coming_.extract(from);
  if (node.empty()) return std::nullopt;
  return std::move(node.mapped());
}

size_t PodUnits::run(Bringer from) {
  auto coming = take_coming(from);
  if (!coming) return 0;  // its pod has ended meanwhile
  if (auto* pair = std::get_if<ComingPair>(&*coming)) return run_pair(std::move(*pair));
  if (auto* rest = std::get_if<ComingRest>(&*coming)) return run_rest(std::move(*rest));
  return run_tunnel(std::move(std::get<ComingTunnel>(*coming)));
}

Connection& PodUnits::adopt(ConnectionInfo info, const handover::ConnectionState& state) {
  return connections_.adopt(std::move(info), {state.counted_client_to_server, state.counted_server_to_client});
}

size_t PodUnits::run_pair(ComingPair coming) {
  const auto& state = coming.unit.connection;
  const auto& peer = state.inbound ? state.source : state.destination;
  Connection& connection = adopt(std::move(coming.info), state);
  connection.accepted = OpenSocket(pod_.worker.traffic(), state.inbound ? Reporter::kDestination : Reporter::kSource);
  auto relay = std::make_unique<SpliceRelay>(pod_.worker.io(), pod_.peers.of(peer.ip));
  relay->resume(coming.unit, std::move(coming.descriptors), connections_.done(connection));
  relay->connection = &connection;
  SpliceRelay& moving = *relay;
  connection.relay = std::move(relay);
  if (!coming.server) {
    moving.thaw();
    inbound_.judge_open(connection);
    return 1;
  }
  Inbound* const server = coming.server->inbound;
  const auto& theirs = *coming.unit.server;
  if (server == nullptr) {
    // Its pod has ended meanwhile, and its connections with it: this one too, which somebody has opened.
    ConnectionRecord(pod_.worker, std::move(coming.server_info),
                     {theirs.connection.counted_client_to_server, theirs.connection.counted_server_to_client})
        .finish(Reason::kDrained, "connection closed due to connection drain",
                {theirs.connection.client_to_server, theirs.connection.server_to_client}, &pod_.worker.ended());
    moving.thaw();
    moving.kill(Reason::kUpstreamReset, {});
    return 2;
  }
  Connection& other = server->adopt_local(
      std::move(coming.server_info), {theirs.connection.counted_client_to_server, theirs.connection.counted_server_to_client},
      theirs, moving);
  moving.thaw();
  server->cut_if_revoked(*moving.shadow());
  server->judge_open(other);
  return 2;
}

size_t PodUnits::run_rest(ComingRest coming) {
  const auto& state = coming.unit.connection;
  const PeerAccounts::Ptr memory = pod_.peers.of(peer_of(state.inbound, state));
  Connection& connection = adopt(std::move(coming.info), state);
  if (!state.inbound) connection.accepted = OpenSocket(pod_.worker.traffic(), Reporter::kSource);
  const auto side = state.inbound ? StreamRelay::Side::kSocketIsServer : StreamRelay::Side::kSocketIsClient;
  auto relay = std::make_unique<StreamRelay>(pod_.worker.io(), side);
  hbone::Stream& stream = hbone::Stream::resume_rest(coming.unit.rest, *memory, *relay);
  relay->attach(stream);
  relay->resume(coming.unit.relay, {state.client_to_server, state.server_to_client}, std::move(coming.socket),
                connections_.done(connection));
  relay->connection = &connection;
  connection.relay = std::move(relay);
  connection.relay->thaw();
  stream.thaw_rest();
  inbound_.judge_open(connection);
  return 1;
}

// What is made of the users of one tunnel while it is not running yet.
struct PodUnits::Running {
  size_t count = 0;
  std::vector<Connection*> moving;
  std::vector<std::pair<Connection*, ComingUser*>> asked;
};

void PodUnits::adopt_users(std::vector<ComingUser>& users, Running& running) {
  for (ComingUser& user : users) {
    if (!user.relay) continue;
    const auto& state = user.state.connection;
    Connection& connection = adopt(std::move(user.info), state);
    ++running.count;
    if (!state.inbound) connection.accepted = OpenSocket(pod_.worker.traffic(), Reporter::kSource);
    if (user.state.phase == StreamUser::Phase::kAsked) {
      running.asked.emplace_back(&connection, &user);
      continue;
    }
    user.relay->resume(user.state.relay, {state.client_to_server, state.server_to_client}, std::move(user.socket),
                       connections_.done(connection));
    user.relay->connection = &connection;
    connection.relay = std::move(user.relay);
    running.moving.push_back(&connection);
  }
}

void PodUnits::run_users(Running& running, hbone::Tunnel& tunnel, const hbone::TunnelKey* key) {
  for (Connection* connection : running.moving) connection->relay->thaw();
  for (auto& [connection, user] : running.asked) {
    outbound_.go_on(*connection, std::move(user->socket), *key, std::move(user->relay), user->state.socks);
  }
  // What has changed since the other process asked.
  if (peer_revoked(pod_.worker, tunnel)) tunnel.close(Reason::kCertRevoked);
  for (Connection* connection : running.moving) inbound_.judge_open(*connection);
}

size_t PodUnits::run_tunnel(ComingTunnel coming) {
  const auto& key = coming.unit.key;
  Running outer;
  adopt_users(coming.users, outer);
  hbone::Tunnel& tunnel =
      key ? dialler_.adopt(*key, std::move(coming.client), coming.unit.idle) : inbound_.keep(std::move(coming.server));
  run_users(outer, tunnel, key ? &*key : nullptr);
  size_t count = outer.count;
  for (ComingInner& each : coming.inner) {
    Running inner;
    adopt_users(each.users, inner);
    run_users(inner, dialler_.adopt(each.key, std::move(each.tunnel), each.idle), &each.key);
    count += inner.count;
  }
  return count;
}

void PodUnits::drop(Bringer from) {
  auto coming = take_coming(from);
  if (!coming) return;
  if (auto* tunnel = std::get_if<ComingTunnel>(&*coming)) let_go(*tunnel);
}

void PodUnits::drop_all() {
  for (auto& [from, coming] : std::exchange(coming_, {})) {
    if (auto* tunnel = std::get_if<ComingTunnel>(&coming)) let_go(*tunnel);
  }
  if (auto* rest = std::get_if<LeavingRest>(&leaving_)) drop_rest(*rest->relay);
  leaving_ = {};
  frozen_requests_.clear();
}

// Its streams go with it, untold.
void PodUnits::let_go(ComingTunnel& coming) {
  const auto detach = [](std::vector<ComingUser>& users) {
    for (ComingUser& user : users) {
      if (user.relay) user.relay->detach();
    }
  };
  detach(coming.users);
  for (ComingInner& inner : coming.inner) {
    if (inner.carrier != nullptr) inner.carrier->let_go();
    detach(inner.users);
  }
}

}  // namespace zt::ztunnel
