#include "workload_api/model/model.h"

#include <algorithm>

#include <absl/container/flat_hash_set.h>
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

// There may be a million: with the allocator's 8 bytes it fits a class of 224.
static_assert(sizeof(Workload) <= 216);

bool Workload::has_address(const IpAddress& ip) const { return std::ranges::find(addresses, ip) != addresses.end(); }

void canonicalize(Workload& workload) {
  if (workload.services.size() > 1) {
    std::ranges::sort(workload.services, {}, [](const ServiceMembership& membership) { return membership.service.view(); });
    const auto repeated = std::ranges::unique(workload.services, {}, &ServiceMembership::service);
    workload.services.erase(repeated.begin(), repeated.end());
  }
  // The first of each stays: their order says which is preferred.
  if (workload.addresses.size() > 1) {
    absl::flat_hash_set<IpAddress, std::hash<IpAddress>> seen;
    const auto again = std::ranges::remove_if(workload.addresses, [&](const IpAddress& ip) { return !seen.insert(ip).second; });
    workload.addresses.erase(again.begin(), again.end());
  }
}

}  // namespace zt::workload_api
