#include "ztunnel/proxy/pod_units.h"

#include <algorithm>
#include <cassert>
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
    if (auto frozen = freeze({.tunnel = &held->tunnel, .server = &held->owner, .users = {}, .inner = {}}, std::move(unit), stuck))
      return frozen;
  }
  while (const auto held = dialler_.pool().next_leaving()) {
    TunnelUnit unit;
    unit.key = held->key;
    unit.idle = held->idle;
    if (auto frozen = freeze({.tunnel = &held->tunnel, .server = nullptr, .users = {}, .inner = {}}, std::move(unit), stuck))
      return frozen;
  }
  while (Connection* const connection = pairs_.next()) {
    if (auto* const relay = dynamic_cast<SpliceRelay*>(connection->relay.get())) {
      if (relay->movable()) return freeze(*connection, *relay);
      stuck("it is about to end");
    } else if (auto* const rest = dynamic_cast<StreamRelay*>(connection->relay.get())) {
      // Others go with their tunnels.
      if (rest->movable() && rest->stream()->outlived_tunnel()) return freeze(*connection, *rest);
    }
  }
  return std::nullopt;
}

std::optional<handover::UnitSource::Frozen> PodUnits::freeze(LeavingTunnel leaving, TunnelUnit unit, const Stuck& stuck) {
  if (const auto movable = make_movable(leaving); !movable) {
    stuck(movable.error().text);
    return std::nullopt;
  }
  Frozen frozen;
  frozen.descriptors.push_back(leaving.tunnel->socket());
  unit.pod = uid_;
  unit.tunnel = leaving.tunnel->freeze();
  freeze_users(leaving.users, unit.tunnel, unit.users, frozen);
  for (const LeavingInner& inner : leaving.inner) {
    handover::InnerTunnel& to = unit.inner.emplace_back();
    to.tunnel = inner.held.tunnel.freeze();
    to.key = inner.held.key;
    to.connect = inner.held.key.gateway->connect;
    to.idle = inner.held.idle;
    auto carrier = inner.carrier->export_state();
    to.queued = std::move(carrier.queued);
    to.ended = carrier.ended;
    freeze_users(inner.users, to.tunnel, to.users, frozen);
  }
  frozen.bytes = handover::encode(unit);
  leaving_ = std::move(leaving);
  return frozen;
}

// The tunnel with what is in it is as it may be frozen. What is done for the inner ones may have given the outer one something to do, which
// is seen last.
Result<> PodUnits::make_movable(LeavingTunnel& leaving) {
  const auto settled = [](hbone::Tunnel& tunnel) -> Result<> {
    tunnel.prepare_handover();  // one that has come meanwhile
    tunnel.settle();
    if (const auto why = tunnel.unmovable()) return fail(Reason::kInternal, std::string(hbone::unmovable_text(*why)));
    return {};
  };
  ZT_TRY(settled(*leaving.tunnel));
  ZT_ASSIGN(leaving.users, users_of(*leaving.tunnel));
  for (const LeavingUser& user : leaving.users) {
    if (user.carrier == nullptr) continue;
    hbone::Tunnel* const tunnel = user.carrier->tunnel();
    const auto held = tunnel != nullptr ? dialler_.inner().find(*tunnel) : std::nullopt;
    if (!held) return fail(Reason::kInternal, "a handshake through a gateway is going on");
    ZT_TRY(settled(*tunnel));
    ZT_ASSIGN(auto users, users_of(*tunnel));
    leaving.inner.push_back({.held = *held, .carrier = user.carrier, .users = std::move(users)});
  }
  if (leaving.inner.empty()) return {};
  if (const auto why = leaving.tunnel->unmovable()) return fail(Reason::kInternal, std::string(hbone::unmovable_text(*why)));
  return {};
}

// One for each stream, in their order.
Result<std::vector<PodUnits::LeavingUser>> PodUnits::users_of(hbone::Tunnel& tunnel) const {
  std::vector<LeavingUser> users;
  for (const auto& [id, user] : tunnel.users()) {
    if (auto* const carrier = dynamic_cast<hbone::StreamTransport*>(user)) {
      users.push_back({.carrier = carrier});
      continue;
    }
    auto* const relay = dynamic_cast<StreamRelay*>(user);
    if (relay == nullptr) return fail(Reason::kInternal, "a stream is about to end");
    if (relay->connection != nullptr) {
      if (!relay->movable()) return fail(Reason::kInternal, "a stream is about to end");
      users.push_back({.relay = relay});
      continue;
    }
    RequestOnItsWay* const request = relay->request;
    const bool known = request != nullptr && request->known();
    const bool ours = known && request->application >= 0;
    // An answer that has come is passed on in this turn.
    if (!known || relay->stream() == nullptr || relay->answer() != nullptr || (patient_ && !ours)) {
      return fail(Reason::kInternal, "a request is on its way");
    }
    users.push_back({.request = request});
  }
  return users;
}

void PodUnits::freeze_users(const std::vector<LeavingUser>& users, hbone::TunnelState& tunnel, std::vector<StreamUser>& states,
                            Frozen& frozen) {
  states.reserve(users.size());
  for (size_t i = 0; i < users.size(); ++i) {
    hbone::StreamState& stream = tunnel.streams[i];
    StreamUser& state = states.emplace_back();
    state.stream = stream.id;
    if (StreamRelay* const relay = users[i].relay) {
      state.phase = StreamUser::Phase::kMoving;
      state.relay = relay->freeze();
      state.connection = leaving_state(*relay->connection);
      frozen.descriptors.push_back(relay->socket());
    } else if (RequestOnItsWay* const request = users[i].request) {
      request->freeze(frozen_requests_);
      if (request->application >= 0) {
        state.phase = StreamUser::Phase::kAsked;
        state.socks = request->socks;
        state.connection = leaving_state(*request->connection);
        frozen.descriptors.push_back(request->application);
      } else {
        state.phase = StreamUser::Phase::kRequested;
        stream.request = headers_of(*request);
      }
    } else {
      state.phase = StreamUser::Phase::kTunnel;
    }
  }
}

handover::UnitSource::Frozen PodUnits::freeze(Connection& connection, SpliceRelay& relay) {
  handover::PairUnit unit;
  unit.pod = uid_;
  Frozen frozen;
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

handover::UnitSource::Frozen PodUnits::freeze(Connection& connection, StreamRelay& relay) {
  const ConnectionInfo& info = connection.record.info();
  LeavingRest leaving{.relay = &relay, .memory = pod_.peers.of(peer_of(info.direction == Direction::kInbound, info))};
  handover::RestUnit unit;
  unit.pod = uid_;
  unit.relay = relay.freeze();
  unit.rest = relay.stream()->freeze_rest();
  unit.connection = leaving_state(connection);
  Frozen frozen;
  frozen.descriptors.push_back(relay.socket());
  frozen.bytes = handover::encode(unit);
  leaving_ = std::move(leaving);
  return frozen;
}

// While its account is there.
void PodUnits::drop_rest(StreamRelay& relay) {
  hbone::Stream& stream = *relay.stream();
  relay.detach();
  stream.abandon(hbone::H2Error::kNoError);
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
  const auto forget_all = [&](const std::vector<LeavingUser>& users) {
    for (const LeavingUser& user : users) {
      if (user.relay != nullptr) forget(*user.relay->connection);
    }
  };
  if (auto* pair = std::get_if<LeavingPair>(&leaving_)) {
    if (static_cast<const SpliceRelay&>(*pair->connection->relay).shadow() != nullptr) ++count;
    forget(*pair->connection);
  } else if (auto* rest = std::get_if<LeavingRest>(&leaving_)) {
    StreamRelay& relay = *rest->relay;
    drop_rest(relay);
    forget(*relay.connection);
  } else if (auto* tunnel = std::get_if<LeavingTunnel>(&leaving_)) {
    forget_all(tunnel->users);
    for (const LeavingInner& inner : tunnel->inner) forget_all(inner.users);
    while (!frozen_requests_.empty()) {
      RequestOnItsWay& request = frozen_requests_.front();
      if (request.application >= 0) {
        request.connection->record.forget();
        ++count;
      } else if (request.connection != nullptr) {
        request.connection->record.begun_anew();
      }
      request.leave();
    }
    for (const LeavingInner& inner : tunnel->inner) {
      inner.carrier->let_go();
      inner.held.tunnel.discard();
      dialler_.inner().forget(inner.held.tunnel);
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
  const auto thaw_all = [](const std::vector<LeavingUser>& users) {
    for (const LeavingUser& user : users) {
      if (user.relay != nullptr) user.relay->thaw();
    }
  };
  if (auto* pair = std::get_if<LeavingPair>(&leaving_)) {
    pair->connection->relay->thaw();
  } else if (auto* rest = std::get_if<LeavingRest>(&leaving_)) {
    rest->relay->thaw();
    if (hbone::Stream* const stream = rest->relay->stream()) stream->thaw_rest();
  } else if (auto* tunnel = std::get_if<LeavingTunnel>(&leaving_)) {
    tunnel->tunnel->thaw();
    for (const LeavingInner& inner : tunnel->inner) inner.held.tunnel.thaw();
    thaw_all(tunnel->users);
    for (const LeavingInner& inner : tunnel->inner) thaw_all(inner.users);
    while (!frozen_requests_.empty()) frozen_requests_.front().go_on();
  }
  leaving_ = {};
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

}  // namespace zt::ztunnel
