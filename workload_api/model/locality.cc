#include "workload_api/model/locality.h"

#include <cstring>
#include <string>

namespace zt::workload_api {

Locality::Locality(std::string_view region, std::string_view zone, std::string_view subzone) {
  if (region.empty() && zone.empty() && subzone.empty()) return;
  const Lengths lengths{static_cast<uint32_t>(region.size()), static_cast<uint32_t>(zone.size())};
  std::string packed(reinterpret_cast<const char*>(&lengths), sizeof lengths);
  packed_ = Str(packed.append(region).append(zone).append(subzone));
}

std::string_view Locality::part(int which) const {
  if (packed_.empty()) return {};
  Lengths lengths;
  std::memcpy(&lengths, packed_.view().data(), sizeof lengths);
  const std::string_view texts = packed_.view().substr(sizeof lengths);
  if (which == 0) return texts.substr(0, lengths.region);
  if (which == 1) return texts.substr(lengths.region, lengths.zone);
  return texts.substr(size_t{lengths.region} + lengths.zone);
}

}  // namespace zt::workload_api
