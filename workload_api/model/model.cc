#include "workload_api/model/model.h"

#include <algorithm>
#include <unordered_set>

#include <fmt/format.h>

namespace zt::workload_api {

std::string NetworkAddress::to_string() const { return fmt::format("{}/{}", network.view(), ip.to_string()); }
std::string NetworkCidr::to_string() const { return fmt::format("{}/{}", network.view(), cidr.to_string()); }
std::string NamespacedHostname::to_string() const { return fmt::format("{}/{}", ns.view(), hostname.view()); }

std::string GatewayAddress::destination_text() const {
  return std::visit([](const auto& target) { return target.to_string(); }, destination);
}

const ServiceMembership* Workload::membership(std::string_view service_key) const {
  const auto found = std::ranges::find_if(services, [&](const auto& entry) { return entry.service == service_key; });
  return found == services.end() ? nullptr : &*found;
}

bool Workload::has_address(const IpAddress& ip) const { return std::ranges::find(addresses, ip) != addresses.end(); }

void canonicalize(Workload& workload) {
  if (workload.services.size() > 1) {
    std::ranges::sort(workload.services, {}, [](const ServiceMembership& membership) { return membership.service.view(); });
    const auto repeated = std::ranges::unique(workload.services, {}, &ServiceMembership::service);
    workload.services.erase(repeated.begin(), repeated.end());
  }
  // The first of each stays: their order says which is preferred.
  if (workload.addresses.size() > 1) {
    std::unordered_set<IpAddress> seen;
    std::erase_if(workload.addresses, [&](const IpAddress& ip) { return !seen.insert(ip).second; });
  }
}

}  // namespace zt::workload_api
