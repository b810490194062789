#include "workload_api/model/port_map.h"

#include <algorithm>
#include <string>
#include <vector>

namespace zt::workload_api {

PortMap::PortMap(std::span<const Pair> pairs) {
  struct Placed {
    uint16_t ports[2];
    size_t place;
  };
  std::vector<Placed> sorted;
  sorted.reserve(pairs.size());
  for (const auto& [service_port, target_port] : pairs) sorted.push_back({{service_port, target_port}, sorted.size()});
  std::ranges::sort(sorted, {}, [](const Placed& pair) { return std::pair(pair.ports[0], pair.place); });
  std::string packed;
  packed.reserve(sorted.size() * kPairBytes);
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (i + 1 < sorted.size() && sorted[i + 1].ports[0] == sorted[i].ports[0]) continue;
    packed.append(reinterpret_cast<const char*>(sorted[i].ports), kPairBytes);
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
