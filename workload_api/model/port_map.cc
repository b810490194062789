#include "workload_api/model/port_map.h"

#include <map>
#include <string>

namespace zt::workload_api {

PortMap::PortMap(std::span<const Pair> pairs) {
  std::map<uint16_t, uint16_t> sorted;
  for (const auto& [service_port, target_port] : pairs) sorted[service_port] = target_port;
  std::string packed;
  packed.reserve(sorted.size() * kPairBytes);
  for (const auto& [service_port, target_port] : sorted) {
    const uint16_t ports[2] = {service_port, target_port};
    packed.append(reinterpret_cast<const char*>(ports), kPairBytes);
  }
  packed_ = Str(packed);
}

std::optional<uint16_t> PortMap::find(uint16_t service_port) const {
  size_t low = 0, high = size();
  while (low < high) {
    const size_t middle = (low + high) / 2;
    if ((*this)[middle].first < service_port) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == size() || (*this)[low].first != service_port) return std::nullopt;
  return (*this)[low].second;
}

bool PortMap::leads_to(uint16_t target_port) const {
  for (size_t i = 0; i < size(); ++i)
    if ((*this)[i].second == target_port) return true;
  return false;
}

}  // namespace zt::workload_api
