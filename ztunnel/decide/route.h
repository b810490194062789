#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/address.h"
#include "base/result.h"
#include "identity/spiffe_id.h"
#include "workload_api/store/snapshot.h"

// Where a connection goes (contract §3, §4.2, §4.3): pure functions of a snapshot and a request, no I/O, no
// clock. Any thread. Texts of refusals are those that operators grep for (§10.3).
namespace zt::ztunnel {

inline constexpr uint16_t kHbonePort = 15008;

// Gives the number that decides among the equal endpoints of a service (ServiceEntry::choose).
using NumberFor = std::function<uint64_t(const workload_api::Service&)>;

// A NumberFor that counts, per service, so that equal endpoints take turns. One per worker; `seed` keeps
// workers out of step. Services share a fixed table of counters by hash: two that collide only disturb each
// other's turns.
class RoundRobin {
 public:
  explicit RoundRobin(uint64_t seed);
  uint64_t operator()(const workload_api::Service& service);

 private:
  std::array<uint32_t, 4096> counters_;
};

// ---- Outbound

struct OutboundRequest {
  const workload_api::Workload& source;     // the local workload
  IpAddress client_ip;                      // the application's end of the captured connection
  SocketAddress destination;                // as the application dialled it
  std::string_view network;                 // NETWORK
  std::span<const uint16_t> illegal_ports;  // §1.7
  const NumberFor& number;
  const workload_api::Avoid* avoid = nullptr;  // endpoints that had better not be chosen; null: none
};

// Whom telemetry and the access log name. Null where nothing is known.
struct Destination {
  workload_api::WorkloadPtr workload;  // whom we connect to: a waypoint or gateway if there is one in between
  workload_api::ServicePtr service;    // the service the application meant
};

struct Deny {
  Reason reason;
  std::string text;
  std::string unknown{};  // the waypoint or gateway that nobody knows: a key for XdsClient::look_up
};

// TCP as it is.
struct Plain {
  SocketAddress address;
  Destination to;
};

// A CONNECT to `authority` on a tunnel to `dial`.
struct Hbone {
  SocketAddress dial;
  std::string authority;
  std::vector<identity::SpiffeId> expected;  // the peer must be one of these
  Destination to;
  bool waypoint = false;  // the peer is the waypoint of what was dialled
};

// A CONNECT to a network gateway, and inside its stream a second TLS connection with a CONNECT of the same
// authority (§2.9).
struct DoubleHbone {
  SocketAddress dial;
  std::string authority;
  std::vector<identity::SpiffeId> expected;        // of the gateway
  std::vector<identity::SpiffeId> inner_expected;  // of whoever answers inside
  Destination to;
  workload_api::WorkloadPtr remote;  // what the gateway stands for: an endpoint of the service, or its waypoint
};

// The workload is known by hostname only: resolve it, then continue with resolved().
struct NeedsResolution {
  workload_api::Str hostname;
  workload_api::Str workload_uid;
  bool prefer_v6 = false;                        // family of the address the application dialled
  uint16_t authority_port = 0;                   // not 0: the authority is the resolved address with this port
  std::variant<Plain, Hbone, DoubleHbone> then;  // lacks the address
};

using Route = std::variant<Deny, Plain, Hbone, DoubleHbone, NeedsResolution>;

[[nodiscard]] Route route(const workload_api::Snapshot& snapshot, const OutboundRequest& request);

// On demand: what to ask the control plane for before `way`, which came of this snapshot, is taken: the
// destination, or the waypoint or gateway that `way` lacks. After the answer the way is another one, which
// may lack something else. A key as XdsClient::look_up takes it.
[[nodiscard]] std::optional<std::string> unknown_on_route(const workload_api::Snapshot& snapshot, const OutboundRequest& request,
                                                          const Route& way);

// Whether a proxy that serves both pods may do without the tunnel (local.md): between them is no waypoint, and the other does not stand
// behind a proxy of its own.
[[nodiscard]] bool can_spare_tunnel(const Hbone& hbone);

// Fills in one of the addresses that the hostname resolved to: of the preferred family if there is one;
// `number` picks among them. No address is a Deny.
[[nodiscard]] Route resolved(NeedsResolution pending, std::span<const IpAddress> addresses, uint64_t number);

// ---- Inbound

struct HostPort {
  std::string host;
  uint16_t port = 0;
  friend bool operator==(const HostPort&, const HostPort&) = default;
};

// What a CONNECT asks for (hbone::parse_connect() reads it).
using Authority = std::variant<SocketAddress, HostPort>;

struct InboundRequest {
  const workload_api::Workload& workload;  // the local workload
  SocketAddress local;                     // the tunnel's local address, pod IP:15008
  IpAddress client_ip;                     // the tunnel's peer address
  const Authority& authority;
  std::string_view network;                 // NETWORK
  std::span<const uint16_t> illegal_ports;  // §1.7
};

struct InboundTarget {
  SocketAddress upstream;  // what policies see and, unless an application tunnel goes over loopback (§4.4),
                           // where we connect
  std::optional<SocketAddress> proxy_destination;  // send a PROXY header with this destination (§2.10)
  workload_api::ServicePtr service;                // the one a hostname authority named, else null
  workload_api::ServicePtr proxy_service{};        // whom a PROXY header names beside `proxy_destination`; null: no service
};

// Errors carry the reason whose HTTP status answers the CONNECT: kIpMismatch 400; kNoService, kNoUpstream,
// kRecursiveCall 503.
[[nodiscard]] Result<InboundTarget> inbound_target(const workload_api::Snapshot& snapshot, const InboundRequest& request);

// The service that telemetry names for an inbound connection (§4.8): the one in the `forwarded` header if the
// workload serves it, else the first of the workload's that leads to this port, else null.
[[nodiscard]] workload_api::ServicePtr inbound_service(const workload_api::Snapshot& snapshot,
                                                       const workload_api::Workload& workload, const InboundTarget& target,
                                                       std::string_view forwarded_host);

}  // namespace zt::ztunnel
