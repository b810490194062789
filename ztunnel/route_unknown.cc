// What the control plane must be asked for before a route can be trusted (XDS_ON_DEMAND, contract §6.4).
#include <algorithm>

#include "ztunnel/route.h"

namespace zt::ztunnel {

using workload_api::GatewayAddress;
using workload_api::NetworkAddress;
using workload_api::Snapshot;

namespace {

bool knows(const Snapshot& snapshot, std::string_view network, const IpAddress& ip) {
  return snapshot.workload(network, ip) != nullptr ||
         snapshot.service_by_vip(network, ip, std::nullopt) != nullptr;
}

bool knows(const Snapshot& snapshot, const GatewayAddress& reference) {
  if (const auto* address = std::get_if<NetworkAddress>(&reference.destination))
    return knows(snapshot, address->network.view(), address->ip);
  const auto& name = std::get<workload_api::NamespacedHostname>(reference.destination);
  return snapshot.service(name.ns.view(), name.hostname.view()) != nullptr ||
         snapshot.workload_by_hostname(name.ns.view(), name.hostname.view()) != nullptr;
}

}  // namespace

std::vector<std::string> unknown_on_route(const Snapshot& snapshot, const OutboundRequest& request) {
  std::vector<std::string> keys;
  const auto note = [&](const GatewayAddress& reference) {
    if (!knows(snapshot, reference)) keys.push_back(reference.destination_text());
  };
  const IpAddress& ip = request.destination.ip;
  if (ip.is_loopback()) return keys;
  const std::string_view network = request.source.network.view();
  if (const auto* workload = snapshot.workload(network, ip)) {
    if (workload->waypoint) note(*workload->waypoint);
    if (workload->network_gateway) note(*workload->network_gateway);
  } else if (const auto* entry = snapshot.service_by_vip(network, ip, request.source.ns.view())) {
    const auto& service = entry->service();
    if (service.waypoint) note(*service.waypoint);
    for (const auto& weighted : service.weighted_waypoints)
      if (weighted.weight > 0) note(weighted.destination);
  } else {
    keys.push_back(std::string(network) + "/" + ip.to_string());
  }
  return keys;
}

}  // namespace zt::ztunnel
