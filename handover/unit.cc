// Format 1. docs/handover.md says the same in words; tests/golden/handover/ holds units of it, which every release must read.
#include "handover/unit.h"

#include <openssl/x509.h>

#include <algorithm>

#include "mesh/reason.h"

namespace zt::handover {

namespace {

// Of a Tunnel and of a pair.
constexpr uint8_t kTunnel = 1, kPair = 2;

constexpr size_t kMaxName = 4096;  // of a text: names of Kubernetes, SPIFFE ids and authorities are shorter
constexpr size_t kMaxHeaders = 256;
constexpr size_t kMaxHeader = 64 * 1024;
constexpr size_t kMaxIds = 1024;
constexpr size_t kMaxCertificates = 32;
constexpr size_t kMaxCertificate = 64 * 1024;

// ---- Writing and reading are one list of fields each; `Put` and `Get` make the two from it.

struct Put {
  Writer& to;
  template <class T>
  void number(const T& value) {
    to.number(value);
  }
  void time(const std::chrono::milliseconds& value) {
    to.number(static_cast<uint32_t>(std::clamp<int64_t>(value.count(), 0, UINT32_MAX)));
  }
  void text(const std::string& value, size_t = kMaxName) { to.text(value); }
  void bytes(const std::vector<uint8_t>& value, size_t) { to.bytes(value); }
  template <class T, class Fields>
  void optional(const std::optional<T>& value, Fields fields) {
    to.optional(value, [&fields](Writer& w, const T& inside) {
      Put put{w};
      fields(put, inside);
    });
  }
  template <class T, class Fields>
  void list(const std::vector<T>& values, size_t, Fields fields) {
    to.list(values, [&fields](Writer& w, const T& inside) {
      Put put{w};
      fields(put, inside);
    });
  }
  template <class T, class Fields>
  void record(const T& value, Fields fields) {
    to.record([&](Writer& w) {
      Put put{w};
      fields(put, value);
    });
  }
};

struct Get {
  Reader& from;
  template <class T>
  void number(T& value) {
    from.number(value);
  }
  void time(std::chrono::milliseconds& value) {
    uint32_t count = 0;
    from.number(count);
    value = std::chrono::milliseconds(count);
  }
  void text(std::string& value, size_t most = kMaxName) { from.text(value, most); }
  void bytes(std::vector<uint8_t>& value, size_t most) { from.bytes(value, most); }
  template <class T, class Fields>
  void optional(std::optional<T>& value, Fields fields) {
    from.optional(value, [&fields](Reader& r, T& inside) {
      Get get{r};
      fields(get, inside);
    });
  }
  template <class T, class Fields>
  void list(std::vector<T>& values, size_t most, Fields fields) {
    from.list(values, most, [&fields](Reader& r, T& inside) {
      Get get{r};
      fields(get, inside);
    });
  }
  template <class T, class Fields>
  void record(T& value, Fields fields) {
    from.record([&](Reader& r) {
      Get get{r};
      fields(get, value);
    });
  }
};

template <class E>
E checked(Reader& from, uint8_t value, E lowest, E highest) {
  if (value < static_cast<uint8_t>(lowest) || value > static_cast<uint8_t>(highest))
    from.fail("a value that is none of its kind");
  return static_cast<E>(value);
}

// ---- Small ones

void address(Put& put, const SocketAddress& value) {
  const auto ip = value.ip.bytes();
  put.to.bytes(ip);
  put.number(value.port);
}
void address(Get& get, SocketAddress& value) {
  const auto ip = IpAddress::from_bytes(get.from.bytes(16));
  if (!ip) return get.from.fail("an address that is none");
  value.ip = *ip;
  get.number(value.port);
}
void ip(Put& put, const IpAddress& value) { put.to.bytes(value.bytes()); }
void ip(Get& get, IpAddress& value) {
  const auto read = IpAddress::from_bytes(get.from.bytes(16));
  if (!read) return get.from.fail("an address that is none");
  value = *read;
}

void id(Put& put, const identity::SpiffeId& value) { put.text(value.to_string()); }
void id(Get& get, identity::SpiffeId& value) {
  std::string text;
  get.text(text);
  auto parsed = identity::SpiffeId::parse(text);
  if (!parsed) return get.from.fail("an identity that is none");
  value = std::move(*parsed);
}

void certificates(Put& put, const hbone::PeerChain& value) {
  put.to.number(static_cast<uint32_t>(value == nullptr ? 0 : value->size()));
  if (value == nullptr) return;
  for (const auto& each : *value) {
    unsigned char* der = nullptr;
    const int size = i2d_X509(each.get(), &der);
    put.to.bytes({der, static_cast<size_t>(std::max(size, 0))});
    OPENSSL_free(der);
  }
}
void certificates(Get& get, hbone::PeerChain& value) {
  std::vector<std::vector<uint8_t>> all;
  get.from.list(all, kMaxCertificates, [](Reader& from, std::vector<uint8_t>& each) { from.bytes(each, kMaxCertificate); });
  if (all.empty()) return;
  auto chain = std::make_shared<std::vector<identity::X509Ptr>>();
  for (const auto& each : all) {
    const unsigned char* at = each.data();
    identity::X509Ptr read(d2i_X509(nullptr, &at, static_cast<long>(each.size())));
    if (read == nullptr || at != each.data() + each.size()) return get.from.fail("a certificate that is none");
    chain->push_back(std::move(read));
  }
  value = std::move(chain);
}

void suite(Put& put, const hbone::CipherSuite& value) { put.number(static_cast<uint16_t>(value)); }
void suite(Get& get, hbone::CipherSuite& value) {
  uint16_t number = 0;
  get.number(number);
  value = static_cast<hbone::CipherSuite>(number);
  if (value != hbone::CipherSuite::kAes128GcmSha256 && value != hbone::CipherSuite::kAes256GcmSha384) {
    get.from.fail("a cipher suite that is not ours");
  }
}
void secret(Put& put, const hbone::TrafficSecret& value) { put.to.bytes(value.bytes()); }
void secret(Get& get, hbone::TrafficSecret& value) {
  value = hbone::TrafficSecret(get.from.bytes(hbone::TrafficSecret::kMaxBytes));
}

void header(Put& put, const std::pair<std::string, std::string>& value) {
  put.text(value.first, kMaxHeader);
  put.text(value.second, kMaxHeader);
}
void header(Get& get, std::pair<std::string, std::string>& value) {
  get.text(value.first, kMaxHeader);
  get.text(value.second, kMaxHeader);
}

template <class E>
void choice(Put& put, const E& value, E, E) {
  put.number(static_cast<uint8_t>(value));
}
template <class E>
void choice(Get& get, E& value, E lowest, E highest) {
  uint8_t number = 0;
  get.number(number);
  value = checked(get.from, number, lowest, highest);
}

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

constexpr auto kUser = [](auto& io, auto& it) {
  io.record(it, [](auto& in, auto& user) {
    in.number(user.stream);
    choice(in, user.phase, StreamUser::Phase::kMoving, StreamUser::Phase::kRequested);
    if (user.phase == StreamUser::Phase::kMoving) {
      in.number(user.relay.source_ended);
      in.number(user.relay.socket_hung_up);
      in.number(user.relay.sink_ended);
      in.number(user.relay.source_proven);
      in.number(user.relay.sink_proven);
      in.number(user.relay.sink_stopped);
    }
    if (user.phase != StreamUser::Phase::kRequested) kConnection(in, user.connection);
  });
};

constexpr auto kKey = [](auto& io, auto& it) {
  id(io, it.source);
  io.list(it.expected, kMaxIds, [](auto& in, auto& each) { id(in, each); });
  address(io, it.destination);
  ip(io, it.source_ip);
  io.text(it.workload);
  io.number(it.spread);
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

// What the fields cannot say of each other.
const char* contradiction(const TunnelUnit& unit) {
  const hbone::TunnelState& tunnel = unit.tunnel;
  const bool client = tunnel.role == hbone::TunnelRole::kClient;
  if (client != unit.key.has_value()) return "a server's tunnel with a key, or a client's without";
  if (unit.users.size() != tunnel.streams.size()) return "streams without users, or users without streams";
  for (size_t i = 0; i < unit.users.size(); ++i) {
    const StreamUser& user = unit.users[i];
    const hbone::StreamState& stream = tunnel.streams[i];
    if (user.stream != stream.id) return "a user of another stream";
    if (stream.id <= 0 || (i > 0 && stream.id <= tunnel.streams[i - 1].id)) return "streams that are not in order";
    if (user.phase == StreamUser::Phase::kAsked && (!client || stream.headers_complete))
      return "a stream that waits for no answer";
    if ((user.phase == StreamUser::Phase::kRequested) == stream.request.empty())
      return "a request without headers, or headers without a request";
    if (user.phase == StreamUser::Phase::kRequested && client) return "a request to a client";
    if (user.phase == StreamUser::Phase::kMoving && !(stream.sending || stream.end_sent))
      return "bytes that move before an answer";
  }
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
  if (const auto* pair = std::get_if<PairUnit>(&unit)) return 2 + 2 * (size_t{pair->flows[0].pipe} + size_t{pair->flows[1].pipe});
  const auto& users = std::get<TunnelUnit>(unit).users;
  return 1 + static_cast<size_t>(std::ranges::count_if(
                 users, [](const StreamUser& user) { return user.phase != StreamUser::Phase::kRequested; }));
}

SecretBytes encode(const Unit& unit) {
  Writer writer;
  Put put{writer};
  if (const auto* tunnel = std::get_if<TunnelUnit>(&unit)) {
    put.number(kTunnel);
    put.record(*tunnel, kTunnelUnit);
  } else {
    put.number(kPair);
    put.record(std::get<PairUnit>(unit), kPairUnit);
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
  return fail(Reason::kInvalidInput, "a unit of kind " + std::to_string(kind) + ", which is not known here");
}

}  // namespace zt::handover
