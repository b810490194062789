// What the control plane must be asked for before a route can be trusted (XDS_ON_DEMAND, contract §6.4).
#include "ztunnel/decide/route.h"

namespace zt::ztunnel {

// Waypoints and gateways are named by the route that lacks them, not sought here: only it knows which
// endpoint was chosen.
std::optional<std::string> unknown_on_route(const workload_api::Snapshot& snapshot, const OutboundRequest& request,
                                            const Route& way) {
  const IpAddress& ip = request.destination.ip;
  const std::string_view network = request.source.network.view();
  if (!ip.is_loopback() && snapshot.workload(network, ip) == nullptr &&
      snapshot.service_by_vip(network, ip, request.source.ns.view()) == nullptr)
    return std::string(network) + "/" + ip.to_string();
  const auto* refused = std::get_if<Deny>(&way);
  if (refused == nullptr || refused->unknown.empty()) return std::nullopt;
  return refused->unknown;
}

}  // namespace zt::ztunnel
