#pragma once
// Units with something in each of their fields.
#include <algorithm>
#include <array>

#include "handover/unit.h"
#include "mesh/reason.h"

namespace zt::handover::testing {

inline SocketAddress at(std::string_view text) { return *SocketAddress::parse(text); }

inline ConnectionState some_connection() {
  ConnectionState it;
  it.inbound = true;
  it.source = at("10.0.0.1:40000");
  it.destination = at("[2001:db8::1]:15008");
  it.upstream = at("10.0.0.2:80");
  it.hbone_address = "10.0.0.2:80";
  it.requested_host = "web.default.svc.cluster.local";
  it.mutual_tls = true;
  it.source_party = Party{.uid = "cluster//Pod/default/client",
                          .name = "client",
                          .ns = "default",
                          .cluster = "Kubernetes",
                          .identity = "spiffe://cluster.local/ns/default/sa/client",
                          .workload_name = "client",
                          .canonical_name = "client",
                          .canonical_revision = "v1",
                          .region = "r",
                          .zone = "z"};
  it.destination_party = it.source_party;
  it.destination_party->uid = "cluster//Pod/default/web";
  it.service = ServiceName{.ns = "default", .name = "web", .hostname = "web.default.svc.cluster.local"};
  it.peer = "spiffe://cluster.local/ns/default/sa/client";
  it.baggage = hbone::Baggage{};
  it.baggage->workload_name = "client";
  it.age = std::chrono::milliseconds(123'456);
  it.client_to_server = 1'000'000'000'000;
  it.server_to_client = 2;
  it.counted_client_to_server = 900'000'000'000;
  it.counted_server_to_client = 1;
  return it;
}

inline TunnelUnit some_tunnel(hbone::TunnelRole role) {
  const bool server = role == hbone::TunnelRole::kServer;
  TunnelUnit unit;
  unit.pod = "6f1c…uid";
  hbone::TunnelState& state = unit.tunnel;
  state.role = role;
  state.peer = *identity::SpiffeId::parse("spiffe://cluster.local/ns/default/sa/client");
  std::array<uint8_t, 48> secret{};
  for (size_t i = 0; i < secret.size(); ++i) secret[i] = static_cast<uint8_t>(i + 1);
  state.sealer.suite = hbone::CipherSuite::kAes256GcmSha384;
  state.sealer.secret = hbone::TrafficSecret(secret);
  state.sealer.sequence = 0x0102030405060708;
  state.opener = state.sealer;
  std::ranges::reverse(secret);
  state.opener.secret = hbone::TrafficSecret(secret);
  state.opener.from_server = !server;
  state.opener.key_update_due = true;
  state.opener.handshake_header = {4, 0, 1, 0};
  state.opener.handshake_header_size = 4;
  state.opener.handshake_left = 100;
  state.opener.ticket_bytes = 57;
  state.partial = {23, 3, 3, 1};
  state.unsent = {23, 3, 3, 0, 40, 99};
  state.stuck = std::chrono::milliseconds(15);
  state.cursor = {.held = {}, .data_left = 77, .data_stream = 1, .data_flags = 1, .largest_stream = 5};
  state.announced = {.stream_window = 65536,
                     .connection_window = 16 << 20,
                     .max_frame_bytes = 1 << 20,
                     .max_header_bytes = 65536,
                     .max_concurrent_streams = 200};
  state.peer_settings = {.header_table_bytes = 4096,
                         .max_concurrent_streams = 100,
                         .initial_window = 1 << 20,
                         .max_frame_bytes = 16384,
                         .max_header_list_bytes = 8192,
                         .connect_protocol = true};
  state.next_stream = server ? 1 : 7;
  state.send_credit = 1000;
  state.receive_credit = 16'000'000;
  state.draining = true;
  state.goaway_unheard = server;
  state.goaway_received = !server;
  state.goaway_last_stream = 5;
  state.goaway_code = 0;
  state.goaway_left = std::chrono::milliseconds(800);
  state.ping_outstanding = true;
  state.silent = std::chrono::milliseconds(9'000);
  state.batch_bytes = 131072;
  hbone::StreamState moving;
  moving.id = 1;
  moving.headers_complete = moving.sending = moving.bulk = true;
  moving.header_bytes = 300;
  moving.window = {.bytes = 131072, .taken = 5, .withheld = 6, .stopped = true};
  moving.send_credit = 12;
  moving.receive_credit = 100'000;
  moving.kept = {'k', 'e', 'p', 't'};
  state.streams.push_back(moving);
  hbone::StreamState fresh;
  fresh.id = 3;
  fresh.window.bytes = 65536;
  fresh.send_credit = 1 << 20;
  fresh.receive_credit = 65536;
  if (server) {
    fresh.headers_complete = true;
    fresh.request = {{":method", "CONNECT"}, {":authority", "10.0.0.2:80"}};
  }
  state.streams.push_back(fresh);
  if (server) {
    unit.peer = at("10.0.0.1:40000");
    unit.local = at("10.0.0.2:15008");
    unit.transparent = true;
  } else {
    unit.key = hbone::TunnelKey{.source = *state.peer,
                                .expected = {*state.peer, *identity::SpiffeId::parse("spiffe://cluster.local/ns/default/sa/web")},
                                .destination = at("10.0.0.2:15008"),
                                .source_ip = *IpAddress::parse("10.0.0.1"),
                                .workload = "cluster//Pod/default/web",
                                .spread = true};
    unit.idle = std::chrono::milliseconds(42);
  }
  StreamUser user{.stream = 1, .phase = StreamUser::Phase::kMoving, .relay = {}, .connection = some_connection()};
  user.relay = {.source_ended = true,
                .socket_hung_up = true,
                .sink_ended = false,
                .source_proven = true,
                .sink_proven = false,
                .sink_stopped = true};
  unit.users.push_back(user);
  user = {.stream = 3,
          .phase = server ? StreamUser::Phase::kRequested : StreamUser::Phase::kAsked,
          .relay = {},
          .connection = server ? ConnectionState{} : some_connection()};
  unit.users.push_back(user);
  return unit;
}

// With another one in it.
inline TunnelUnit some_nested_tunnel() {
  TunnelUnit unit = some_tunnel(hbone::TunnelRole::kClient);
  InnerTunnel inner;
  inner.tunnel = unit.tunnel;
  inner.key = *unit.key;
  inner.key.authority = "web.default.svc.cluster.local:80";
  inner.connect = {{":method", "CONNECT"}, {":authority", "web.default.svc.cluster.local:80"}};
  inner.idle = std::chrono::milliseconds(43);
  inner.queued = {23, 3, 3, 0, 9};
  inner.ended = true;
  inner.users = unit.users;
  inner.users[1].socks = true;
  unit.inner.push_back(std::move(inner));
  unit.users[0] = {.stream = 1, .phase = StreamUser::Phase::kTunnel, .relay = {}, .connection = {}};
  return unit;
}

inline RestUnit some_rest() {
  RestUnit unit;
  unit.pod = "uid";
  unit.connection = some_connection();
  unit.relay = {.source_ended = true,
                .socket_hung_up = false,
                .sink_ended = false,
                .source_proven = false,
                .sink_proven = true,
                .sink_stopped = true};
  unit.rest = {.kept = {'r', 'e', 's', 't'}, .reason = Reason::kStreamReset, .code = hbone::H2Error::kNoError};
  return unit;
}

inline PairUnit some_pair() {
  PairUnit unit;
  unit.pod = "uid";
  unit.connection = some_connection();
  unit.connection.service.reset();
  unit.connection.baggage.reset();
  unit.flows[0] = {.pipe = true, .in_pipe = 5000, .source_ended = true, .sink_ended = false};
  unit.flows[1] = {.pipe = false, .in_pipe = 0, .source_ended = true, .sink_ended = true};
  return unit;
}

inline PairUnit some_local_pair() {
  PairUnit unit = some_pair();
  unit.server = PairUnit::Server{.connection = some_connection(), .client_chain = nullptr, .server_chain = nullptr};
  unit.connection.inbound = false;
  return unit;
}

}  // namespace zt::handover::testing
