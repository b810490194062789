#pragma once
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/address.h"
#include "base/result.h"

// What the conversions of workloads, services and policies have in common.
namespace zt::workload_api {

[[nodiscard]] std::unexpected<Error> refuse(std::string text);
[[nodiscard]] std::unexpected<Error> unknown_enum(int number);

[[nodiscard]] Result<IpAddress> address_of(std::string_view bytes);

// An address block of `length` bits (Cidr::from_bytes, which texts go through too). Nothing if address or length are malformed.
[[nodiscard]] std::optional<Cidr> block_of(std::string_view bytes, uint32_t length);

// Ports are 32 bits on the wire; like the peer we take the lower 16.
[[nodiscard]] constexpr uint16_t port_of(uint32_t number) { return static_cast<uint16_t>(number); }

}  // namespace zt::workload_api
