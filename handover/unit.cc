// Format 1. docs/handover.md says the same in words; tests/golden/handover/ holds units of it, which every release must read.
#include "handover/unit.h"

#include <algorithm>

#include "handover/fields.h"
#include "mesh/reason.h"

namespace zt::handover {

using namespace fields;

namespace {

// What a unit is.
constexpr uint8_t kTunnel = 1, kPair = 2, kRest = 3;

constexpr size_t kMaxHeaders = 256;
constexpr size_t kMaxIds = 1024;
constexpr size_t kMaxInner = 1024;

// ---- Structs, field by field: for a Put the value is const

constexpr auto kRecordState = [](auto& io, auto& it) {
  suite(io, it.suite);
  secret(io, it.secret);
  io.number(it.sequence);
  io.number(it.closed);
  io.number(it.from_server);
  io.number(it.key_update_due);
  io.number(it.key_update_asked);
  for (auto& each : it.handshake_header) io.number(each);
  io.number(it.handshake_header_size);
  io.number(it.handshake_left);
  io.number(it.empty_records);
  io.number(it.key_updates);
  io.number(it.warning_alerts);
  io.number(it.ticket_bytes);
};

constexpr auto kCursor = [](auto& io, auto& it) {
  io.bytes(it.held, kMaxUnitBytes);
  io.number(it.data_left);
  io.number(it.data_stream);
  io.number(it.data_flags);
  io.number(it.largest_stream);
};

constexpr auto kAnnounced = [](auto& io, auto& it) {
  io.number(it.stream_window);
  io.number(it.connection_window);
  io.number(it.max_frame_bytes);
  io.number(it.max_header_bytes);
  io.number(it.max_concurrent_streams);
};

constexpr auto kPeerSettings = [](auto& io, auto& it) {
  io.number(it.header_table_bytes);
  io.number(it.max_concurrent_streams);
  io.number(it.initial_window);
  io.number(it.max_frame_bytes);
  io.number(it.max_header_list_bytes);
  io.number(it.connect_protocol);
};

constexpr auto kStream = [](auto& io, auto& it) {
  io.record(it, [](auto& in, auto& s) {
    in.number(s.id);
    in.number(s.headers_complete);
    in.number(s.sending);
    in.number(s.end_sent);
    in.number(s.end_received);
    in.number(s.end_delivered);
    in.number(s.bulk);
    in.number(s.header_bytes);
    in.number(s.window.bytes);
    in.number(s.window.taken);
    in.number(s.window.withheld);
    in.number(s.window.stopped);
    in.number(s.send_credit);
    in.number(s.receive_credit);
    in.bytes(s.kept, kMaxUnitBytes);
    in.list(s.request, kMaxHeaders, [](auto& h, auto& each) { header(h, each); });
  });
};

constexpr auto kTunnelState = [](auto& io, auto& it) {
  choice(io, it.role, hbone::TunnelRole::kClient, hbone::TunnelRole::kServer);
  io.optional(it.peer, [](auto& in, auto& peer) { id(in, peer); });
  certificates(io, it.peer_chain);
  io.record(it.sealer, kRecordState);
  io.record(it.opener, kRecordState);
  io.bytes(it.partial, kMaxUnitBytes);
  io.bytes(it.unsent, kMaxUnitBytes);
  io.time(it.stuck);
  io.record(it.cursor, kCursor);
  io.record(it.announced, kAnnounced);
  io.record(it.peer_settings, kPeerSettings);
  io.number(it.next_stream);
  io.number(it.send_credit);
  io.number(it.receive_credit);
  io.number(it.draining);
  io.number(it.goaway_unheard);
  io.number(it.goaway_received);
  io.number(it.goaway_last_stream);
  io.number(it.goaway_code);
  io.time(it.goaway_left);
  io.number(it.ping_outstanding);
  io.time(it.silent);
  io.number(it.batch_bytes);
  io.list(it.streams, kMaxUnitStreams, kStream);
};

constexpr auto kParty = [](auto& io, auto& it) {
  io.record(it, [](auto& in, auto& p) {
    for (auto* each : {&p.uid, &p.name, &p.ns, &p.cluster, &p.identity, &p.workload_name, &p.canonical_name,
                       &p.canonical_revision, &p.region, &p.zone}) {
      in.text(*each);
    }
  });
};

constexpr auto kBaggage = [](auto& io, auto& it) {
  io.record(it, [](auto& in, auto& b) {
    for (auto* each : {&b.cluster, &b.namespace_, &b.workload_type, &b.workload_name, &b.service_name, &b.service_version,
                       &b.region, &b.zone}) {
      in.text(*each, hbone::kMaxHintBytes);
    }
  });
};

constexpr auto kConnection = [](auto& io, auto& it) {
  io.record(it, [](auto& in, auto& c) {
    in.number(c.inbound);
    address(in, c.source);
    address(in, c.destination);
    address(in, c.upstream);
    in.text(c.hbone_address);
    in.text(c.requested_host, hbone::kMaxHintBytes);
    in.number(c.mutual_tls);
    in.optional(c.source_party, kParty);
    in.optional(c.destination_party, kParty);
    in.optional(c.service, [](auto& s, auto& service) {
      s.text(service.ns);
      s.text(service.name);
      s.text(service.hostname);
    });
    in.optional(c.peer, [](auto& p, auto& text) { p.text(text); });
    in.optional(c.baggage, kBaggage);
    in.time(c.age);
    in.number(c.client_to_server);
    in.number(c.server_to_client);
    in.number(c.counted_client_to_server);
    in.number(c.counted_server_to_client);
  });
};

constexpr auto kRelay = [](auto& io, auto& it) {
  io.number(it.source_ended);
  io.number(it.socket_hung_up);
  io.number(it.sink_ended);
  io.number(it.source_proven);
  io.number(it.sink_proven);
  io.number(it.sink_stopped);
};

bool has_descriptor(const StreamUser& user) {
  return user.phase == StreamUser::Phase::kMoving || user.phase == StreamUser::Phase::kAsked;
}

constexpr auto kUser = [](auto& io, auto& it) {
  io.record(it, [](auto& in, auto& user) {
    in.number(user.stream);
    choice(in, user.phase, StreamUser::Phase::kMoving, StreamUser::Phase::kTunnel);
    if (user.phase == StreamUser::Phase::kMoving) kRelay(in, user.relay);
    if (user.phase == StreamUser::Phase::kAsked) in.number(user.socks);
    if (has_descriptor(user)) kConnection(in, user.connection);
  });
};

constexpr auto kKey = [](auto& io, auto& it) {
  id(io, it.source);
  io.list(it.expected, kMaxIds, [](auto& in, auto& each) { id(in, each); });
  address(io, it.destination);
  ip(io, it.source_ip);
  io.text(it.authority);
  io.text(it.workload);
  io.number(it.spread);
};

constexpr auto kInner = [](auto& io, auto& it) {
  io.record(it, [](auto& in, auto& inner) {
    in.record(inner.tunnel, kTunnelState);
    kKey(in, inner.key);
    in.list(inner.connect, kMaxHeaders, [](auto& h, auto& each) { header(h, each); });
    in.time(inner.idle);
    in.bytes(inner.queued, kMaxUnitBytes);
    in.number(inner.ended);
    in.list(inner.users, kMaxUnitStreams, kUser);
  });
};

constexpr auto kTunnelUnit = [](auto& io, auto& it) {
  io.text(it.pod);
  io.record(it.tunnel, kTunnelState);
  io.optional(it.key, kKey);
  io.time(it.idle);
  address(io, it.peer);
  address(io, it.local);
  io.number(it.transparent);
  io.list(it.users, kMaxUnitStreams, kUser);
  io.list(it.inner, kMaxInner, kInner);
};

constexpr auto kPairUnit = [](auto& io, auto& it) {
  io.text(it.pod);
  kConnection(io, it.connection);
  for (auto& flow : it.flows) {
    io.number(flow.pipe);
    io.number(flow.in_pipe);
    io.number(flow.source_ended);
    io.number(flow.sink_ended);
  }
  io.optional(it.server, [](auto& in, auto& server) {
    kConnection(in, server.connection);
    certificates(in, server.client_chain);
    certificates(in, server.server_chain);
  });
};

constexpr auto kRestUnit = [](auto& io, auto& it) {
  io.text(it.pod);
  kConnection(io, it.connection);
  kRelay(io, it.relay);
  io.bytes(it.rest.kept, kMaxUnitBytes);
  reason(io, it.rest.reason);
  code(io, it.rest.code);
};

// What the fields cannot say of each other.
const char* contradiction(const hbone::TunnelState& tunnel, const std::vector<StreamUser>& users) {
  const bool client = tunnel.role == hbone::TunnelRole::kClient;
  if (users.size() != tunnel.streams.size()) return "streams without users, or users without streams";
  for (size_t i = 0; i < users.size(); ++i) {
    const StreamUser& user = users[i];
    const hbone::StreamState& stream = tunnel.streams[i];
    if (user.stream != stream.id) return "a user of another stream";
    if (stream.id <= 0 || (i > 0 && stream.id <= tunnel.streams[i - 1].id)) return "streams that are not in order";
    if (user.phase == StreamUser::Phase::kAsked && (!client || stream.headers_complete))
      return "a stream that waits for no answer";
    if ((user.phase == StreamUser::Phase::kRequested) == stream.request.empty())
      return "a request without headers, or headers without a request";
    if (user.phase == StreamUser::Phase::kRequested && client) return "a request to a client";
    if (user.phase == StreamUser::Phase::kTunnel && !client) return "a tunnel inside a server's";
    if ((user.phase == StreamUser::Phase::kMoving || user.phase == StreamUser::Phase::kTunnel) &&
        !(stream.sending || stream.end_sent))
      return "bytes that move before an answer";
  }
  return nullptr;
}

const char* contradiction(const TunnelUnit& unit) {
  if ((unit.tunnel.role == hbone::TunnelRole::kClient) != unit.key.has_value())
    return "a server's tunnel with a key, or a client's without";
  if (const char* const wrong = contradiction(unit.tunnel, unit.users)) return wrong;
  const auto is_tunnel = [](const StreamUser& user) { return user.phase == StreamUser::Phase::kTunnel; };
  if (static_cast<size_t>(std::ranges::count_if(unit.users, is_tunnel)) != unit.inner.size())
    return "streams of tunnels without these, or tunnels without a stream";
  for (const InnerTunnel& inner : unit.inner) {
    if (inner.tunnel.role != hbone::TunnelRole::kClient) return "a server's tunnel inside another";
    if (std::ranges::any_of(inner.users, is_tunnel)) return "a tunnel inside one that is inside another";
    if (const char* const wrong = contradiction(inner.tunnel, inner.users)) return wrong;
  }
  return nullptr;
}

const char* contradiction(const RestUnit& unit) {
  if (unit.rest.kept.empty()) return "a stream that is gone, without bytes";
  if (unit.relay.sink_ended) return "an end before the last byte";
  return nullptr;
}

const char* contradiction(const PairUnit& unit) {
  for (const auto& flow : unit.flows) {
    if (flow.in_pipe > 0 && !flow.pipe) return "bytes in a pipe that is not there";
    if (flow.sink_ended && (!flow.source_ended || flow.in_pipe > 0)) return "an end before the last byte";
  }
  if (unit.server && (unit.connection.inbound || !unit.server->connection.inbound)) return "two clients, or two servers";
  return nullptr;
}

template <class U, class Fields>
Result<Unit> decode_as(Reader& reader, Fields fields) {
  U unit;
  Get get{reader};
  get.record(unit, fields);
  if (reader.wrong() == nullptr && !reader.at_end()) reader.fail("bytes behind the unit's end");
  const char* wrong = reader.wrong() != nullptr ? reader.wrong() : contradiction(unit);
  if (wrong != nullptr) return fail(Reason::kInvalidInput, std::string("a unit of a hand-over cannot be read: ") + wrong);
  return Unit(std::move(unit));
}

}  // namespace

size_t descriptors(const Unit& unit) {
  if (std::holds_alternative<RestUnit>(unit)) return 1;
  if (const auto* pair = std::get_if<PairUnit>(&unit)) return 2 + 2 * (size_t{pair->flows[0].pipe} + size_t{pair->flows[1].pipe});
  const auto& tunnel = std::get<TunnelUnit>(unit);
  auto count = 1 + std::ranges::count_if(tunnel.users, has_descriptor);
  for (const InnerTunnel& inner : tunnel.inner) count += std::ranges::count_if(inner.users, has_descriptor);
  return static_cast<size_t>(count);
}

SecretBytes encode(const Unit& unit) {
  Writer writer;
  Put put{writer};
  if (const auto* tunnel = std::get_if<TunnelUnit>(&unit)) {
    put.number(kTunnel);
    put.record(*tunnel, kTunnelUnit);
  } else if (const auto* pair = std::get_if<PairUnit>(&unit)) {
    put.number(kPair);
    put.record(*pair, kPairUnit);
  } else {
    put.number(kRest);
    put.record(std::get<RestUnit>(unit), kRestUnit);
  }
  return writer.take();
}

Result<Unit> decode(std::span<const uint8_t> bytes, uint16_t format) {
  if (format < kLowestFormat || format > kHighestFormat) {
    return fail(Reason::kInvalidInput, "a unit of format " + std::to_string(format) + ", which is not known here");
  }
  Reader reader(bytes);
  uint8_t kind = 0;
  reader.number(kind);
  if (kind == kTunnel) return decode_as<TunnelUnit>(reader, kTunnelUnit);
  if (kind == kPair) return decode_as<PairUnit>(reader, kPairUnit);
  if (kind == kRest) return decode_as<RestUnit>(reader, kRestUnit);
  return fail(Reason::kInvalidInput, "a unit of kind " + std::to_string(kind) + ", which is not known here");
}

}  // namespace zt::handover
