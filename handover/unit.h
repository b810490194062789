#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/address.h"
#include "base/result.h"
#include "handover/wire.h"
#include "hbone/connect_headers.h"
#include "hbone/tunnel_pool.h"
#include "hbone/tunnel_state.h"
#include "identity/spiffe_id.h"

// What goes from one process to the next in one piece, as plain data: a tunnel with all its streams and what is at their other ends; two sockets
// between which bytes are passed on; or a socket and what it has yet to take of a stream that is gone. Descriptors are not in it; they come with it, in the order that is said here.
namespace zt::handover {

// The formats that this release writes (the highest) and reads (all). A release reads its own and the one before.
inline constexpr uint16_t kLowestFormat = 1;
inline constexpr uint16_t kHighestFormat = 1;

// A unit is refused beyond these. What streams keep is bounded by their windows, so real ones are far below.
inline constexpr size_t kMaxUnitBytes = 64 * 1024 * 1024;
inline constexpr size_t kMaxUnitStreams = 4096;

// A workload as metrics and logs show it, for a process that does not know it by its uid.
struct Party {
  std::string uid;
  std::string name, ns, cluster, identity;
  std::string workload_name, canonical_name, canonical_revision;
  std::string region, zone;
};
struct ServiceName {
  std::string ns, name, hostname;
};

// One connection's life so far.
struct ConnectionState {
  bool inbound = false;
  SocketAddress source, destination, upstream;
  std::string hbone_address;
  std::string requested_host;
  bool mutual_tls = false;
  std::optional<Party> source_party, destination_party;
  std::optional<ServiceName> service;
  std::optional<std::string> peer;  // the SPIFFE id that it proved
  std::optional<hbone::Baggage> baggage;
  std::chrono::milliseconds age{};
  // Bytes in all, and those that the metrics of processes before have.
  uint64_t client_to_server = 0, server_to_client = 0;
  uint64_t counted_client_to_server = 0, counted_server_to_client = 0;
};

// A stream and a socket.
struct StreamRelayState {
  bool source_ended = false;
  bool socket_hung_up = false;
  bool sink_ended = false;
  bool source_proven = false;
  bool sink_proven = false;
  bool sink_stopped = false;
};

// What is at a stream's other end.
struct StreamUser {
  enum class Phase : uint8_t {
    kMoving = 1,     // bytes move: one descriptor, the application's socket
    kAsked = 2,      // client: the CONNECT is not answered: one descriptor, the application's socket
    kRequested = 3,  // server: the request is begun anew: none
    kTunnel = 4,     // client: another tunnel inside it: those of that one's users
  };
  int32_t stream = 0;
  Phase phase = Phase::kMoving;
  StreamRelayState relay;      // kMoving
  bool socks = false;          // kAsked: the application waits for a SOCKS5 reply
  ConnectionState connection;  // kMoving, kAsked
};

// In a stream of a tunnel to a gateway (contract §2.9).
struct InnerTunnel {
  hbone::TunnelState tunnel;
  hbone::TunnelKey key;    // without `gateway`: that is the tunnel around it, and
  hbone::Headers connect;  // what it was asked for
  std::chrono::milliseconds idle{};
  std::vector<uint8_t> queued;  // ciphertext, in front of the tunnel's
  bool ended = false;           // the gateway sends no more
  std::vector<StreamUser> users;
};

// Descriptors: the tunnel's socket, then those of the users in order, then those of the users of each tunnel in it.
struct TunnelUnit {
  std::string pod;  // uid
  hbone::TunnelState tunnel;
  // Client: the key of its pool, and how long it has been unused.
  std::optional<hbone::TunnelKey> key;
  std::chrono::milliseconds idle{};
  // Server: where it came from, and to.
  SocketAddress peer, local;
  bool transparent = false;
  std::vector<StreamUser> users;   // ascending streams
  std::vector<InnerTunnel> inner;  // of the users that are one, in their order
};

// Descriptors: client, server, then for each direction with `pipe` its read and its write end.
struct PairUnit {
  // Of two pods of one node that need no tunnel: the server's connection, and what each has proved to the other, if it was kept.
  struct Server {
    ConnectionState connection;
    hbone::PeerChain client_chain, server_chain;
  };
  struct Flow {
    bool pipe = false;
    uint32_t in_pipe = 0;
    bool source_ended = false;
    bool sink_ended = false;
  };
  std::string pod;
  ConnectionState connection;
  Flow flows[2];  // [0] client → server
  std::optional<Server> server;
};

// A stream that has outlived its tunnel: bytes that the socket has not taken, and how the connection ends when it has. One descriptor.
struct RestUnit {
  std::string pod;
  ConnectionState connection;
  StreamRelayState relay;
  hbone::Stream::Rest rest;
};

using Unit = std::variant<TunnelUnit, PairUnit, RestUnit>;

// Descriptors that belong to it.
[[nodiscard]] size_t descriptors(const Unit& unit);

[[nodiscard]] SecretBytes encode(const Unit& unit);
// Errors (kInvalidInput) say what is wrong with it. `format`: as was agreed on.
Result<Unit> decode(std::span<const uint8_t> bytes, uint16_t format);

}  // namespace zt::handover
