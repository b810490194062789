#include "workload_api/model/model.h"

#include <algorithm>

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

}  // namespace zt::workload_api
