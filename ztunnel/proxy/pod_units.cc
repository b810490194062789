#include "ztunnel/proxy/pod_units.h"

#include <algorithm>
#include <cassert>
#include <unordered_map>
#include <utility>

#include "mesh/reason.h"
#include "ztunnel/proxy/connection_handover.h"
#include "ztunnel/proxy/handshaking.h"
#include "ztunnel/proxy/inbound_tunnel.h"

namespace zt::ztunnel {

using handover::StreamUser;
using handover::TunnelUnit;

namespace {

// The request again, as far as anything in it is looked at. What the connection has of it is not in `request` any more.
hbone::Headers headers_of(const RequestOnItsWay& of) {
  const hbone::ReceivedConnect& request = *of.request;
  const ConnectionInfo* const info = of.connection != nullptr ? &of.connection->record.info() : nullptr;
  hbone::ConnectRequest again{.authority = request.authority,
                              .source = request.baggage.value_or(hbone::Baggage{}),
                              .client = {},
                              .service_host = request.forwarded_host.value_or(""),
                              .traceparent = request.trace.render(),
                              .from_network = request.from_network};
  if (info != nullptr && info->baggage) again.source = *info->baggage;
  if (info != nullptr && info->requested_host) again.service_host = *info->requested_host;
  return hbone::render_connect(again);
}

}  // namespace

PodUnits::PodUnits(LocalPod& pod, std::string uid, ConnectionTable& connections, Dialler& dialler, Inbound& inbound,
                   Outbound& outbound)
    : pod_(pod), uid_(std::move(uid)), connections_(connections), dialler_(dialler), inbound_(inbound), outbound_(outbound) {}

PodUnits::~PodUnits() { assert(std::holds_alternative<std::monostate>(leaving_) && coming_.empty()); }

// ---- Leaving

bool PodUnits::prepare_some(bool anew) {
  if (anew) prepare_clients_ = true;
  return inbound_.prepare_some_handover(anew) && dialler_.prepare_some_handover(std::exchange(prepare_clients_, false));
}

void PodUnits::begin(bool patient) {
  patient_ = patient;
  inbound_.begin_leaving();
  dialler_.pool().begin_leaving();
  pairs_.begin(connections_.all());
}

std::optional<handover::UnitSource::Frozen> PodUnits::next(const Stuck& stuck) {
  assert(std::holds_alternative<std::monostate>(leaving_));
  while (const auto held = inbound_.next_leaving()) {
    TunnelUnit unit;
    unit.peer = held->peer;
    unit.local = held->local;
    unit.transparent = held->transparent;
    if (auto frozen =
            freeze({.tunnel = &held->tunnel, .server = &held->owner, .relays = {}, .requests = {}}, std::move(unit), stuck))
      return frozen;
  }
  while (const auto held = dialler_.pool().next_leaving()) {
    TunnelUnit unit;
    unit.key = held->key;
    unit.idle = held->idle;
    if (auto frozen = freeze({.tunnel = &held->tunnel, .server = nullptr, .relays = {}, .requests = {}}, std::move(unit), stuck))
      return frozen;
  }
  while (Connection* const connection = pairs_.next()) {
    auto* const relay = dynamic_cast<SpliceRelay*>(connection->relay.get());
    if (relay == nullptr) continue;  // it goes with its tunnel, or is on its way
    if (relay->movable()) return freeze(*connection, *relay);
    stuck("it is about to end");
  }
  return std::nullopt;
}

std::optional<handover::UnitSource::Frozen> PodUnits::freeze(LeavingTunnel leaving, TunnelUnit unit, const Stuck& stuck) {
  hbone::Tunnel& tunnel = *leaving.tunnel;
  tunnel.prepare_handover();  // one that has come meanwhile
  tunnel.settle();
  if (const auto why = tunnel.unmovable()) {
    stuck(hbone::unmovable_text(*why));
    return std::nullopt;
  }
  if (const auto added = add_users(leaving); !added) {
    stuck(added.error().text);
    return std::nullopt;
  }
  handover::UnitSource::Frozen frozen;
  frozen.descriptors.push_back(tunnel.socket());
  unit.pod = uid_;
  unit.tunnel = tunnel.freeze();
  for (size_t i = 0; i < leaving.relays.size(); ++i) {
    hbone::StreamState& stream = unit.tunnel.streams[i];
    StreamUser& user = unit.users.emplace_back();
    user.stream = stream.id;
    if (StreamRelay* const relay = leaving.relays[i]) {
      user.phase = StreamUser::Phase::kMoving;
      user.relay = relay->freeze();
      user.connection = leaving_state(*relay->connection);
      frozen.descriptors.push_back(relay->socket());
      continue;
    }
    RequestOnItsWay& request = *leaving.requests[i];
    request.freeze();
    if (request.application >= 0) {
      user.phase = StreamUser::Phase::kAsked;
      user.connection = leaving_state(*request.connection);
      frozen.descriptors.push_back(request.application);
    } else {
      user.phase = StreamUser::Phase::kRequested;
      stream.request = headers_of(request);
    }
  }
  frozen.bytes = handover::encode(unit);
  leaving_ = std::move(leaving);
  return frozen;
}

std::optional<handover::UnitSource::Frozen> PodUnits::freeze(Connection& connection, SpliceRelay& relay) {
  handover::PairUnit unit;
  unit.pod = uid_;
  handover::UnitSource::Frozen frozen;
  relay.freeze(unit, frozen.descriptors);
  unit.connection = leaving_state(connection);
  if (const Shadow* const shadow = relay.shadow()) {
    unit.server = {.connection = leaving_state(*shadow->connection),
                   .client_chain = shadow->client_chain(),
                   .server_chain = shadow->server_chain()};
  }
  frozen.bytes = handover::encode(unit);
  leaving_ = LeavingPair{&connection};
  return frozen;
}

// One for each stream, in their order: a relay, or a request.
Result<> PodUnits::add_users(LeavingTunnel& leaving) const {
  std::unordered_map<const StreamRelay*, RequestOnItsWay*> requests;
  for (RequestOnItsWay& each : pod_.requests) requests[&each.relay] = &each;
  for (const auto& [id, user] : leaving.tunnel->users()) {
    auto* const relay = dynamic_cast<StreamRelay*>(user);
    if (relay == nullptr && user != nullptr) return fail(Reason::kInternal, "a tunnel inside it is in use");
    const auto known = requests.find(relay);
    if (relay == nullptr) return fail(Reason::kInternal, "a stream is about to end");
    if (relay->connection == nullptr) {
      const bool ours = known != requests.end() && known->second->application >= 0;
      // An answer that has come is passed on in this turn.
      if (known == requests.end() || relay->stream() == nullptr || relay->answer() != nullptr || (patient_ && !ours)) {
        return fail(Reason::kInternal, "a request is on its way");
      }
    } else if (!relay->movable()) {
      return fail(Reason::kInternal, "a stream is about to end");
    }
    leaving.relays.push_back(relay->connection != nullptr ? relay : nullptr);
    leaving.requests.push_back(relay->connection != nullptr ? nullptr : known->second);
  }
  return {};
}

// What moved so far is counted here, and only what moves from here on there.
handover::ConnectionState PodUnits::leaving_state(Connection& connection) {
  const RelayBytes bytes = connection.relay ? connection.relay->bytes() : RelayBytes{};
  connection.record.progress(bytes);
  return state_of(connection.record.info(), bytes, bytes);
}

// It is the other's. Relays first: they let go of their streams without a word, then nobody knows the tunnel's any more.
size_t PodUnits::gone() {
  size_t count = 0;
  const auto forget = [&](Connection& connection) {
    connection.relay->discard();
    connections_.forget(connection);
    ++count;
  };
  if (auto* pair = std::get_if<LeavingPair>(&leaving_)) {
    if (static_cast<const SpliceRelay&>(*pair->connection->relay).shadow() != nullptr) ++count;
    forget(*pair->connection);
  } else if (auto* tunnel = std::get_if<LeavingTunnel>(&leaving_)) {
    for (StreamRelay* relay : tunnel->relays) {
      if (relay != nullptr) forget(*relay->connection);
    }
    while (RequestOnItsWay* const request = frozen_request()) {
      if (request->application >= 0) {
        request->connection->record.forget();
        ++count;
      } else if (request->connection != nullptr) {
        request->connection->record.begun_anew();
      }
      request->leave();
    }
    tunnel->tunnel->discard();
    if (tunnel->server != nullptr) {
      inbound_.forget(*tunnel->server);
    } else {
      dialler_.pool().forget(*tunnel->tunnel);
    }
  }
  leaving_ = {};
  return count;
}

void PodUnits::stays() {
  if (auto* pair = std::get_if<LeavingPair>(&leaving_)) {
    pair->connection->relay->thaw();
  } else if (auto* tunnel = std::get_if<LeavingTunnel>(&leaving_)) {
    tunnel->tunnel->thaw();
    for (StreamRelay* relay : tunnel->relays) {
      if (relay != nullptr) relay->thaw();
    }
    while (RequestOnItsWay* const request = frozen_request()) request->go_on();
  }
  leaving_ = {};
}

// One of the frozen unit's. They may have ended meanwhile, and more may end when one is told to go on.
RequestOnItsWay* PodUnits::frozen_request() const {
  const auto found = std::ranges::find_if(pod_.requests, &RequestOnItsWay::frozen);
  return found != pod_.requests.end() ? &*found : nullptr;
}

PodUnits::Departed PodUnits::departed() const {
  Departed all;
  for (const RequestOnItsWay& each : pod_.requests) {
    if (!each.gone) continue;
    ++all.requests;
    all.connections += each.connection != nullptr ? 1 : 0;
  }
  return all;
}

// ---- Coming

Result<> PodUnits::prepare(Bringer from, handover::Unit unit, std::vector<UniqueFd> descriptors) {
  assert(!coming_.contains(from));
  // Its policies decide on what comes to it.
  if (pod_.known() == nullptr) return fail(Reason::kNoWorkload, "the pod's workload is not known here yet");
  auto* const pair = std::get_if<handover::PairUnit>(&unit);
  auto coming = pair != nullptr ? prepare_pair(std::move(*pair), std::move(descriptors))
                                : prepare_tunnel(std::move(std::get<TunnelUnit>(unit)), std::move(descriptors));
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

Result<PodUnits::Coming> PodUnits::prepare_tunnel(TunnelUnit unit, std::vector<UniqueFd> descriptors) {
  if (pod_.worker.settings().tls.keep_peer_chain && !unit.tunnel.peer_chain) {
    return fail(Reason::kInvalidInput, "whether its peer is revoked cannot be asked: its certificates were not kept");
  }
  const bool client = unit.tunnel.role == hbone::TunnelRole::kClient;
  const auto side = client ? StreamRelay::Side::kSocketIsClient : StreamRelay::Side::kSocketIsServer;
  ComingTunnel coming;
  auto next = descriptors.begin();
  UniqueFd socket = std::move(*next++);
  for (StreamUser& user : unit.users) {
    if (user.phase == StreamUser::Phase::kRequested) {
      coming.users.push_back({.state = std::move(user), .relay = nullptr, .socket = {}, .info = {}});
      continue;
    }
    ZT_ASSIGN(auto info, info_of(user.connection, *pod_.worker.snapshot()));
    coming.users.push_back({.state = std::move(user),
                            .relay = std::make_unique<StreamRelay>(pod_.worker.io(), side),
                            .socket = std::move(*next++),
                            .info = std::move(info)});
  }
  const hbone::AttachStream attach = [at = coming.users.begin()](hbone::Stream& stream,
                                                                 const hbone::StreamState&) mutable -> hbone::StreamHandler* {
    StreamRelay* const relay = (at++)->relay.get();
    if (relay != nullptr) relay->attach(stream);
    return relay;
  };
  const auto take = [&]() -> Result<> {
    if (client) {
      ZT_ASSIGN(coming.client, dialler_.resume(*unit.key, std::move(socket), unit.tunnel, attach));
    } else {
      ZT_ASSIGN(coming.server, inbound_.resume(std::move(socket), unit, attach));
    }
    return {};
  };
  if (auto taken = take(); !taken) {
    // Their streams are gone.
    for (ComingUser& user : coming.users) {
      if (user.relay) user.relay->detach();
    }
    return std::unexpected(taken.error());
  }
  coming.unit = std::move(unit);
  return coming;
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
  if (server == nullptr) {  // its pod has ended meanwhile
    moving.thaw();
    moving.kill(Reason::kUpstreamReset, {});
    return 1;
  }
  const auto& theirs = *coming.unit.server;
  Connection& other = server->adopt_local(
      std::move(coming.server_info), {theirs.connection.counted_client_to_server, theirs.connection.counted_server_to_client},
      theirs, moving);
  moving.thaw();
  server->cut_if_revoked(*moving.shadow());
  server->judge_open(other);
  return 2;
}

size_t PodUnits::run_tunnel(ComingTunnel coming) {
  size_t count = 0;
  std::vector<Connection*> moving;
  std::vector<std::pair<Connection*, ComingUser*>> asked;
  for (ComingUser& user : coming.users) {
    if (!user.relay) continue;
    const auto& state = user.state.connection;
    Connection& connection = adopt(std::move(user.info), state);
    ++count;
    if (!state.inbound) connection.accepted = OpenSocket(pod_.worker.traffic(), Reporter::kSource);
    if (user.state.phase == StreamUser::Phase::kAsked) {
      asked.emplace_back(&connection, &user);
      continue;
    }
    user.relay->resume(user.state.relay, {state.client_to_server, state.server_to_client}, std::move(user.socket),
                       connections_.done(connection));
    user.relay->connection = &connection;
    connection.relay = std::move(user.relay);
    moving.push_back(&connection);
  }
  hbone::Tunnel& tunnel = coming.client != nullptr ? dialler_.adopt(*coming.unit.key, std::move(coming.client), coming.unit.idle)
                                                   : inbound_.keep(std::move(coming.server));
  for (Connection* connection : moving) connection->relay->thaw();
  for (auto& [connection, user] : asked) {
    outbound_.go_on(*connection, std::move(user->socket), *coming.unit.key, std::move(user->relay));
  }
  // What has changed since the other process asked.
  if (peer_revoked(pod_.worker, tunnel)) tunnel.close(Reason::kCertRevoked);
  for (Connection* connection : moving) inbound_.judge_open(*connection);
  return count;
}

void PodUnits::drop(Bringer from) {
  if (auto coming = take_coming(from)) drop(std::move(*coming));
}

void PodUnits::drop_all() {
  for (auto& [from, coming] : std::exchange(coming_, {})) drop(std::move(coming));
  leaving_ = {};
}

void PodUnits::drop(Coming coming) {
  if (auto* tunnel = std::get_if<ComingTunnel>(&coming)) {
    for (ComingUser& user : tunnel->users) {
      if (user.relay) user.relay->detach();
    }
  }
}

}  // namespace zt::ztunnel
