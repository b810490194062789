#include "workload_api/xds/convert_common.h"

#include <fmt/format.h>

#include <span>
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
  return Cidr::from_bytes(std::span(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()), length);
}

}  // namespace zt::workload_api
