#pragma once
#include <cstdint>
#include <string_view>

namespace zt::workload_api {

// The two types that a node proxy asks for, in the order in which it asks (contract §6.3).
enum class ResourceType : uint8_t { kAddress, kAuthorization, kOther };
inline constexpr size_t kResourceTypes = 2;  // without kOther

inline constexpr std::string_view kAddressTypeUrl = "type.googleapis.com/istio.workload.Address";
inline constexpr std::string_view kAuthorizationTypeUrl = "type.googleapis.com/istio.security.Authorization";

[[nodiscard]] constexpr ResourceType resource_type(std::string_view url) {
  if (url == kAddressTypeUrl) return ResourceType::kAddress;
  if (url == kAuthorizationTypeUrl) return ResourceType::kAuthorization;
  return ResourceType::kOther;
}

[[nodiscard]] constexpr std::string_view type_url(ResourceType type) {
  return type == ResourceType::kAddress ? kAddressTypeUrl : kAuthorizationTypeUrl;
}

}  // namespace zt::workload_api
