#pragma once
#include <compare>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace zt::identity {

// Longest accepted id in bytes, scheme included (SPIFFE-ID §2.3 asks implementations to support 2048 and no
// more).
inline constexpr size_t kMaxSpiffeIdBytes = 2048;

// Who a workload is: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` (contract §2.3). Plain
// value; any thread.
struct SpiffeId {
  std::string trust_domain;
  std::string namespace_;
  std::string service_account;

  // Accepts exactly five parts after the scheme, with literal `ns` and `sa`. Beyond the contract, a part must
  // not be empty and must be visible ASCII: an id that holds a NUL, a space or nothing at all is never one
  // that a CA gave to a workload, and reading it as an identity would only help somebody who forges names.
  // Fails with kInvalidInput.
  static Result<SpiffeId> parse(std::string_view text);

  // "spiffe://td/ns/namespace/sa/account"
  [[nodiscard]] std::string to_string() const;
  // The same without the scheme, as policies write principals: "td/ns/namespace/sa/account" (contract §5.3).
  [[nodiscard]] std::string principal() const;

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
