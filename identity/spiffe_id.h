#pragma once
#include <compare>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace zt::identity {

// Who a workload is: a SPIFFE id (mesh/spiffe.h) that owns its parts. Plain value; any thread.
struct SpiffeId {
  std::string trust_domain;
  std::string namespace_;
  std::string service_account;

  // As SpiffeView::parse().
  static Result<SpiffeId> parse(std::string_view text);

  // "spiffe://td/ns/namespace/sa/account"
  [[nodiscard]] std::string to_string() const;

  friend auto operator<=>(const SpiffeId&, const SpiffeId&) = default;
  friend bool operator==(const SpiffeId&, const SpiffeId&) = default;
};

}  // namespace zt::identity

template <>
struct std::hash<zt::identity::SpiffeId> {
  size_t operator()(const zt::identity::SpiffeId& id) const noexcept {
    const std::hash<std::string_view> part;
    size_t seed = part(id.trust_domain);
    for (const std::string_view text : {std::string_view(id.namespace_), std::string_view(id.service_account)})
      seed ^= part(text) + 0x9e3779b97f4a7c15u + (seed << 6) + (seed >> 2);
    return seed;
  }
};
