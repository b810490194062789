#include <fmt/format.h>

#include <algorithm>

#include "mesh/reason.h"
#include "ztunnel/decide/route.h"

namespace zt::ztunnel {

using workload_api::ApplicationTunnel;
using workload_api::GatewayAddress;
using workload_api::NamespacedHostname;
using workload_api::NetworkAddress;
using workload_api::Service;
using workload_api::ServiceEntry;
using workload_api::ServiceMembership;
using workload_api::ServicePtr;
using workload_api::Snapshot;
using workload_api::Workload;

namespace {

// The reference leads to `workload`: to a service it is an endpoint of, or to whoever owns `local_ip`.
bool leads_to(const Snapshot& snapshot, const GatewayAddress& reference, const Workload& workload, const IpAddress& local_ip) {
  const ServiceEntry* service = nullptr;
  const Workload* target = nullptr;
  if (const auto* address = std::get_if<NetworkAddress>(&reference.destination)) {
    target = snapshot.workload(address->network.view(), address->ip);
    if (target == nullptr) service = snapshot.service_by_vip(address->network.view(), address->ip, std::nullopt);
  } else {
    const auto& name = std::get<NamespacedHostname>(reference.destination);
    service = snapshot.service(name.ns.view(), name.hostname.view());
    if (service == nullptr) target = snapshot.workload_by_hostname(name.ns.view(), name.hostname.view());
  }
  if (service != nullptr) return workload.membership(service->service().key.view()) != nullptr;
  return target != nullptr && target->has_address(local_ip);
}

// A waypoint of the service, weighted ones included.
bool is_waypoint_for(const Snapshot& snapshot, const InboundRequest& request, const Service& service) {
  const auto leads_here = [&](const GatewayAddress& reference) {
    return leads_to(snapshot, reference, request.workload, request.local.ip);
  };
  return (service.waypoint && leads_here(*service.waypoint)) ||
         std::ranges::any_of(service.weighted_waypoints,
                             [&](const auto& waypoint) { return waypoint.weight > 0 && leads_here(waypoint.destination); });
}

// A waypoint that is captured itself gets traffic for the addresses it is the waypoint of (contract §4.2 item
// 4).
bool is_waypoint_for(const Snapshot& snapshot, const InboundRequest& request, const IpAddress& asked) {
  if (const Workload* workload = snapshot.workload(request.network, asked))
    return workload->waypoint && leads_to(snapshot, *workload->waypoint, request.workload, request.local.ip);
  const ServiceEntry* entry = snapshot.service_by_vip(request.network, asked, std::nullopt);
  return entry != nullptr && is_waypoint_for(snapshot, request, entry->service());
}

// Where a service's port leads on this workload.
std::optional<uint16_t> target_port(const Service& service, const Workload& workload, uint16_t port) {
  if (const ServiceMembership* membership = workload.membership(service.key.view()))
    if (const auto own = membership->ports.find(port)) return own;
  const auto target = service.ports.find(port);
  return target && *target != 0 ? target : std::nullopt;
}

// The VIP that a PROXY header names for a hostname: of our network, else of the client's family, else IPv4.
std::optional<IpAddress> proxy_vip(const Service& service, std::string_view network, const IpAddress& client_ip) {
  std::optional<IpAddress> best;
  int best_rank = -1;
  for (const NetworkAddress& vip : service.vips) {
    const int rank = (vip.network == network ? 4 : 0) + (vip.ip.is_v4() == client_ip.is_v4() ? 2 : 0) + (vip.ip.is_v4() ? 1 : 0);
    if (rank <= best_rank) continue;
    best = vip.ip;
    best_rank = rank;
  }
  return best;
}

}  // namespace

Result<InboundTarget> inbound_target(const Snapshot& snapshot, const InboundRequest& request) {
  const Workload& workload = request.workload;
  const auto* address = std::get_if<SocketAddress>(&request.authority);
  const auto* name = std::get_if<HostPort>(&request.authority);

  if (address != nullptr && address->ip != request.local.ip && !workload.application_tunnel &&
      !is_waypoint_for(snapshot, request, address->ip))
    return fail(Reason::kIpMismatch, fmt::format("ip mismatch: {} != {}", request.local.ip.to_string(), address->ip.to_string()));

  InboundTarget target{.upstream = {request.local.ip, address != nullptr ? address->port : uint16_t{0}},
                       .proxy_destination = std::nullopt,
                       .service = nullptr};
  uint16_t asked_port = target.upstream.port;
  if (name != nullptr) {
    const ServiceEntry* entry = snapshot.service_by_hostname(name->host, workload.ns.view());
    if (entry == nullptr) return fail(Reason::kNoService, fmt::format("no service or workload for hostname: {}", name->host));
    const Service& service = entry->service();
    // The peer lets any pod answer for any service (§14.2 item 19).
    if (workload.membership(service.key.view()) == nullptr && !workload.application_tunnel &&
        !is_waypoint_for(snapshot, request, service))
      return fail(Reason::kNoService, fmt::format("this workload is no endpoint of the service for hostname: {}", name->host));
    const auto port = target_port(service, workload, name->port);
    if (!port)
      return fail(Reason::kNoUpstream,
                  fmt::format("requested service {} found, but cannot resolve port {}", service.key.view(), name->port));
    target.upstream.port = *port;
    target.service = entry->service_ptr();
    asked_port = name->port;
  }
  if (std::ranges::find(request.illegal_ports, target.upstream.port) != request.illegal_ports.end())
    return fail(Reason::kRecursiveCall, "attempted recursive call to ourselves");

  if (!workload.application_tunnel) return target;
  const ApplicationTunnel& tunnel = *workload.application_tunnel;
  if (tunnel.port != 0) target.upstream.port = tunnel.port;
  if (tunnel.protocol == ApplicationTunnel::Protocol::kProxy) {
    std::optional<IpAddress> ip =
        address != nullptr ? std::optional(address->ip) : proxy_vip(*target.service, request.network, request.client_ip);
    if (!ip) return fail(Reason::kNoUpstream, fmt::format("service {} has no IP addresses", target.service->key.view()));
    target.proxy_destination = SocketAddress{*ip, asked_port};
    target.proxy_service = target.service;
    if (address != nullptr && snapshot.workload(request.network, address->ip) == nullptr)
      if (const ServiceEntry* entry = snapshot.service_by_vip(request.network, address->ip, std::nullopt))
        target.proxy_service = entry->service_ptr();
  }
  return target;
}

ServicePtr inbound_service(const Snapshot& snapshot, const Workload& workload, const InboundTarget& target,
                           std::string_view forwarded_host) {
  if (target.service) return target.service;
  const uint16_t port = target.upstream.port;
  const ServiceEntry* by_port = nullptr;
  for (const ServiceMembership& membership : workload.services) {
    const ServiceEntry* entry = snapshot.service(membership.service.view());
    if (entry == nullptr) continue;
    const Service& service = entry->service();
    if (!forwarded_host.empty() && service.hostname == forwarded_host) return entry->service_ptr();
    if (by_port == nullptr && (service.ports.leads_to(port) || membership.ports.leads_to(port))) by_port = entry;
  }
  return by_port == nullptr ? nullptr : by_port->service_ptr();
}

}  // namespace zt::ztunnel
