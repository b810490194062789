#include "workload_api/xds/convert_common.h"

#include <fmt/format.h>

#include <utility>

#include "mesh/reason.h"

namespace zt::workload_api {

std::unexpected<Error> refuse(std::string text) { return fail(Reason::kInvalidInput, std::move(text)); }

std::unexpected<Error> unknown_enum(int number) {
  return refuse(fmt::format("decode error: unknown enumeration value {}", number));
}

Result<IpAddress> address_of(std::string_view bytes) {
  if (const auto ip = IpAddress::from_bytes(bytes)) return *ip;
  return refuse(fmt::format("failed to parse address, had {} bytes", bytes.size()));
}

std::optional<Cidr> block_of(std::string_view bytes, uint32_t length) {
  constexpr uint32_t kMappedBits = 96;
  const auto base = IpAddress::from_bytes(bytes);
  if (!base) return std::nullopt;
  const bool mapped = base->is_v4() && bytes.size() == 16;
  if (mapped && (length < kMappedBits || length > 128)) return std::nullopt;
  return Cidr::make(*base, mapped ? length - kMappedBits : length);
}

}  // namespace zt::workload_api
