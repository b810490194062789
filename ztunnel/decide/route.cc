#include "ztunnel/decide/route.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "mesh/reason.h"
#include "workload_api/store/tables.h"

namespace zt::ztunnel {

using workload_api::Choice;
using workload_api::GatewayAddress;
using workload_api::IpFamilies;
using workload_api::NamespacedHostname;
using workload_api::NetworkAddress;
using workload_api::ResolutionMode;
using workload_api::Service;
using workload_api::ServiceEntry;
using workload_api::ServicePtr;
using workload_api::Snapshot;
using workload_api::Str;
using workload_api::TunnelProtocol;
using workload_api::Workload;
using workload_api::WorkloadPtr;

namespace {

// A workload to connect to, the port of it, and the service it was chosen from (null: its own address was
// asked for).
struct Upstream {
  const Workload* workload = nullptr;
  uint16_t port = 0;
  const Service* service = nullptr;
  SocketAddress target;  // what was asked for: decides which of the workload's addresses is taken
};

struct OriginalDestination {};  // a PASSTHROUGH service: no endpoint is chosen
struct NotFound {};
using UpstreamResult = std::variant<NotFound, OriginalDestination, Upstream>;

// What a choice among equals needs to know about the connection.
struct Client {
  const Workload& source;
  const NumberFor& number;
  const workload_api::Avoid* avoid;
};

UpstreamResult choose(const ServiceEntry& entry, const Client& client, uint16_t port, const SocketAddress& target,
                      ResolutionMode mode) {
  if (entry.service().passthrough()) return OriginalDestination{};
  const Choice choice = entry.choose(client.source, port, mode, client.number(entry.service()), client.avoid);
  if (!choice) return NotFound{};
  return Upstream{choice.endpoint->workload.get(), choice.port, &entry.service(), target};
}

// Whoever an address belongs to.
struct Owners {
  const Workload* workload = nullptr;
  const ServiceEntry* service = nullptr;
};

Owners owners_of(const Snapshot& snapshot, std::string_view network, const IpAddress& ip, const Client& client) {
  return {snapshot.workload(network, ip), snapshot.service_by_vip(network, ip, client.source.ns.view())};
}

// Service before workload (contract §3.2 step 5).
UpstreamResult find_upstream(const Owners& owners, const SocketAddress& target, const Client& client, ResolutionMode mode) {
  if (owners.service != nullptr) return choose(*owners.service, client, target.port, target, mode);
  if (owners.workload != nullptr) return Upstream{owners.workload, target.port, nullptr, target};
  return NotFound{};
}

// A waypoint or gateway reference (§3.3). Null if it leads nowhere.
std::optional<Upstream> find_gateway(const Snapshot& snapshot, const GatewayAddress& reference, const Client& client,
                                     const SocketAddress& dialled, ResolutionMode mode) {
  const uint16_t port = reference.hbone_mtls_port;
  UpstreamResult found;
  if (const auto* address = std::get_if<NetworkAddress>(&reference.destination)) {
    found = find_upstream(owners_of(snapshot, address->network.view(), address->ip, client), {address->ip, port}, client, mode);
  } else {
    const auto& name = std::get<NamespacedHostname>(reference.destination);
    // The address family follows what the client dialled.
    if (const ServiceEntry* entry = snapshot.service(name.ns.view(), name.hostname.view())) {
      found = choose(*entry, client, port, dialled, mode);
    } else if (const Workload* workload = snapshot.workload_by_hostname(name.ns.view(), name.hostname.view())) {
      found = Upstream{workload, port, nullptr, dialled};
    }
  }
  const auto* upstream = std::get_if<Upstream>(&found);
  return upstream == nullptr ? std::nullopt : std::optional(*upstream);
}

// The service's waypoint for this connection: one of the weighted ones in proportion, else the plain one.
// Null: it has none.
const GatewayAddress* service_waypoint(const Service& service, const NumberFor& number) {
  uint64_t total = 0;
  for (const auto& waypoint : service.weighted_waypoints) total += waypoint.weight;
  if (total == 0) return service.waypoint.get();
  // Spread as in load balancing: each series of turns holds both in proportion.
  const uint64_t spread = number(service) * 0x9e3779b97f4a7c15;
  auto share = static_cast<uint64_t>((static_cast<unsigned __int128>(spread) * total) >> 64);
  for (const auto& waypoint : service.weighted_waypoints) {
    if (share < waypoint.weight) return &waypoint.destination;
    share -= waypoint.weight;
  }
  return service.waypoint.get();
}

// The reference leads to the source itself: what it sends has been through the waypoint already (§3.2 step 7).
// Asked of what the source says it serves, so it costs nothing that grows with the waypoint's replicas.
bool leads_to_source(const Snapshot& snapshot, const GatewayAddress& reference, const Workload& source,
                     const IpAddress& client_ip) {
  if (!source.has_address(client_ip)) return false;
  const ServiceEntry* service = nullptr;
  const Workload* workload = nullptr;
  if (const auto* address = std::get_if<NetworkAddress>(&reference.destination)) {
    workload = snapshot.workload(address->network.view(), address->ip);
    if (workload == nullptr) service = snapshot.service_by_vip(address->network.view(), address->ip, std::nullopt);
  } else {
    const auto& name = std::get<NamespacedHostname>(reference.destination);
    service = snapshot.service(name.ns.view(), name.hostname.view());
    if (service == nullptr) workload = snapshot.workload_by_hostname(name.ns.view(), name.hostname.view());
  }
  if (service != nullptr) return source.membership(service->service().key.view()) != nullptr;
  return workload != nullptr && workload->identity == source.identity && workload->has_address(client_ip);
}

// A captured waypoint that calls the service it stands for: through itself again that would never end. (The peer asks this for
// workloads only.)
bool is_waypoint_of(const Snapshot& snapshot, const Service& service, const Workload& source, const IpAddress& client_ip) {
  const auto leads_here = [&](const GatewayAddress& reference) {
    return leads_to_source(snapshot, reference, source, client_ip);
  };
  return (service.waypoint && leads_here(*service.waypoint)) ||
         std::ranges::any_of(service.weighted_waypoints, [&](const auto& waypoint) { return leads_here(waypoint.destination); });
}

// ---- Identities

void add_identity(std::vector<identity::SpiffeId>& ids, identity::SpiffeId id) {
  if (std::ranges::find(ids, id) == ids.end()) ids.push_back(std::move(id));
}

// A SAN that is not a workload's SPIFFE id can never be presented, so it is left out.
std::vector<identity::SpiffeId> service_identities(const Service* service) {
  std::vector<identity::SpiffeId> ids;
  if (service == nullptr) return ids;
  for (const Str& san : service->subject_alt_names)
    if (auto id = identity::SpiffeId::parse(san.view())) add_identity(ids, std::move(*id));
  return ids;
}

std::vector<identity::SpiffeId> expected_identities(const Upstream& upstream) {
  auto ids = service_identities(upstream.service);
  const Workload& workload = *upstream.workload;
  add_identity(ids, {workload.trust_domain.str(), workload.ns.str(), workload.service_account.str()});
  return ids;
}

// ---- Addresses

Deny no_destination(const Workload& workload) {
  return {Reason::kNoRoute, fmt::format("no valid routing destination for workload: {}", workload.uid.view())};
}

bool family_allowed(IpFamilies families, const IpAddress& ip) {
  if (families == IpFamilies::kIpv4Only) return ip.is_v4();
  if (families == IpFamilies::kIpv6Only) return ip.is_v6();
  return true;
}

// Which of its addresses (§3.4): the one asked for; else one that the service's families allow, best in the
// family asked for.
std::optional<IpAddress> pick_address(const Upstream& upstream) {
  const Workload& workload = *upstream.workload;
  if (workload.has_address(upstream.target.ip)) return upstream.target.ip;
  const IpFamilies families = upstream.service != nullptr ? upstream.service->ip_families : IpFamilies::kAutomatic;
  std::optional<IpAddress> picked;
  for (const IpAddress& ip : workload.addresses) {
    if (!family_allowed(families, ip)) continue;
    if (ip.is_v4() == upstream.target.ip.is_v4()) return ip;
    if (!picked) picked = ip;
  }
  return picked;
}

void set_dial_ip(auto& route, const IpAddress& ip) {
  if constexpr (requires { route.dial; }) {
    route.dial.ip = ip;
  } else {
    route.address.ip = ip;
  }
}

// Completes a route that lacks only the upstream's address. With `authority_port` the authority is that
// address with this port.
template <class Kind>
Route with_address(const Upstream& upstream, Kind kind, uint16_t authority_port) {
  if (const auto ip = pick_address(upstream)) {
    set_dial_ip(kind, *ip);
    if constexpr (requires { kind.authority; })
      if (authority_port != 0) kind.authority = SocketAddress{*ip, authority_port}.to_string();
    return kind;
  }
  const Workload& workload = *upstream.workload;
  if (workload.hostname.empty()) return no_destination(workload);
  return NeedsResolution{workload.hostname, workload.uid, upstream.target.ip.is_v6(), authority_port, std::move(kind)};
}

Deny unknown(Reason reason, std::string_view what, const GatewayAddress& reference) {
  std::string key = reference.destination_text();
  return {reason, fmt::format("unknown {}: {}", what, key), std::move(key)};
}

// ---- Ways

Route through_waypoint(const Upstream& waypoint, const SocketAddress& dialled, const Service* service) {
  return with_address(waypoint,
                      Hbone{.dial = {{}, waypoint.port},
                            .authority = dialled.to_string(),
                            .expected = expected_identities(waypoint),
                            .to = {WorkloadPtr(waypoint.workload), ServicePtr(service)},
                            .waypoint = true},
                      0);
}

// §3.5. `remote` is what the gateway stands for: an endpoint of the service, or its waypoint.
Route through_gateway(const Snapshot& snapshot, const Workload& remote, const Service& service, const Client& client,
                      const SocketAddress& dialled) {
  if (!remote.network_gateway) return no_destination(remote);
  const auto gateway = find_gateway(snapshot, *remote.network_gateway, client, dialled, ResolutionMode::kStandard);
  if (!gateway) return unknown(Reason::kUnknownGateway, "network gateway", *remote.network_gateway);
  return with_address(*gateway,
                      DoubleHbone{.dial = {{}, gateway->port},
                                  .authority = fmt::format("{}:{}", service.hostname.view(), dialled.port),
                                  .expected = expected_identities(*gateway),
                                  .inner_expected = service_identities(&service),
                                  .to = {WorkloadPtr(gateway->workload), ServicePtr(&service)},
                                  .remote = WorkloadPtr(&remote)},
                      0);
}

Route direct(const Upstream& upstream) {
  Destination to{WorkloadPtr(upstream.workload), ServicePtr(upstream.service)};
  if (upstream.workload->protocol == TunnelProtocol::kHbone) {
    return with_address(
        upstream,
        Hbone{.dial = {{}, kHbonePort}, .authority = {}, .expected = expected_identities(upstream), .to = std::move(to)},
        upstream.port);
  }
  return with_address(upstream, Plain{.address = {{}, upstream.port}, .to = std::move(to)}, 0);
}

bool illegal(std::span<const uint16_t> ports, uint16_t port) { return std::ranges::find(ports, port) != ports.end(); }

}  // namespace

RoundRobin::RoundRobin(uint64_t seed) {
  for (uint32_t& counter : counters_) {
    seed = workload_api::hashing::mix(seed + 1, seed);
    counter = static_cast<uint32_t>(seed);
  }
}

uint64_t RoundRobin::operator()(const Service& service) {
  return counters_[workload_api::hashing::of(service.key.view()) % counters_.size()]++;
}

Route route(const Snapshot& snapshot, const OutboundRequest& request) {
  const SocketAddress& dialled = request.destination;
  const Workload& source = request.source;
  const Client client{source, request.number, request.avoid};

  if ((dialled.ip.is_loopback() || dialled.ip == request.client_ip) && illegal(request.illegal_ports, dialled.port))
    return Deny{Reason::kRecursiveCall, "attempted recursive call to ourselves"};

  // Was a service meant? Here a workload's own address comes first, below a service's (§3.2 steps 3 and 5).
  const Owners ours = owners_of(snapshot, request.network, dialled.ip, client);
  const ServiceEntry* const meant = ours.workload != nullptr ? nullptr : ours.service;
  if (meant != nullptr) {
    const Service& service = meant->service();
    const GatewayAddress* const reference = service_waypoint(service, request.number);
    if (reference != nullptr && !is_waypoint_of(snapshot, service, source, request.client_ip)) {
      const auto waypoint = find_gateway(snapshot, *reference, client, dialled, ResolutionMode::kWaypoint);
      if (!waypoint) return unknown(Reason::kUnknownWaypoint, "waypoint", *reference);
      if (waypoint->workload->network != source.network)
        return through_gateway(snapshot, *waypoint->workload, service, client, dialled);
      return through_waypoint(*waypoint, dialled, &service);
    }
  }

  const Owners there =
      request.network == source.network.view() ? ours : owners_of(snapshot, source.network.view(), dialled.ip, client);
  const UpstreamResult found = find_upstream(there, dialled, client, ResolutionMode::kStandard);
  if (std::holds_alternative<OriginalDestination>(found)) return Plain{.address = dialled, .to = {}};
  if (std::holds_alternative<NotFound>(found)) {
    if (meant != nullptr && !meant->service().passthrough())
      return Deny{Reason::kNoUpstream, fmt::format("no healthy upstream: {}", dialled.to_string())};
    return Plain{.address = dialled, .to = {}};
  }
  const auto& upstream = std::get<Upstream>(found);
  const Workload& workload = *upstream.workload;

  if (workload.network != source.network) {
    if (meant == nullptr) return Deny{Reason::kNoService, fmt::format("no service for target address: {}", dialled.to_string())};
    return through_gateway(snapshot, workload, meant->service(), client, dialled);
  }
  if (meant == nullptr && workload.waypoint && !leads_to_source(snapshot, *workload.waypoint, source, request.client_ip)) {
    const auto waypoint = find_gateway(snapshot, *workload.waypoint, client, dialled, ResolutionMode::kWaypoint);
    if (!waypoint) return unknown(Reason::kUnknownWaypoint, "waypoint", *workload.waypoint);
    return through_waypoint(*waypoint, dialled, upstream.service);
  }
  return direct(upstream);
}

bool can_spare_tunnel(const Hbone& hbone) {
  if (!hbone.to.workload || hbone.dial.port != kHbonePort) return false;
  const auto authority = SocketAddress::parse(hbone.authority);
  return authority && authority->ip == hbone.dial.ip && !hbone.to.workload->application_tunnel &&
         !hbone.to.workload->native_tunnel;
}

Route resolved(NeedsResolution pending, std::span<const IpAddress> addresses, uint64_t number) {
  std::vector<IpAddress> same, other;
  for (const IpAddress& ip : addresses) (ip.is_v6() == pending.prefer_v6 ? same : other).push_back(ip);
  const auto& among = same.empty() ? other : same;
  if (among.empty())
    return Deny{Reason::kNoRoute, fmt::format("no ip addresses were resolved for workload: {}", pending.workload_uid.view())};
  const IpAddress ip = among[number % among.size()];
  return std::visit(
      [&](auto& kind) -> Route {
        set_dial_ip(kind, ip);
        if constexpr (requires { kind.authority; })
          if (pending.authority_port != 0) kind.authority = SocketAddress{ip, pending.authority_port}.to_string();
        return std::move(kind);
      },
      pending.then);
}

}  // namespace zt::ztunnel
