#pragma once
#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"

// SPIFFE ids of workloads, "spiffe://<trust domain>/ns/<namespace>/sa/<service account>" (contract §2.3): the one place that
// reads and writes them. Pure; any thread.
namespace zt {

inline constexpr std::string_view kSpiffeScheme = "spiffe://";
// Longest accepted id in bytes, scheme included (SPIFFE-ID §2.3 asks implementations to support 2048 and no
// more).
inline constexpr size_t kMaxSpiffeIdBytes = 2048;

// Who somebody proved to be; views into the text it was parsed from. All empty: nobody.
struct SpiffeView {
  std::string_view principal;  // the id without the scheme, as policies write it: "td/ns/NS/sa/SA" (contract §5.3)
  std::string_view trust_domain;
  std::string_view ns;
  std::string_view service_account;

  // Accepts exactly five parts after the scheme, with literal `ns` and `sa`. Beyond the contract, a part must
  // not be empty and must be visible ASCII: an id that holds a NUL, a space or nothing at all is never one
  // that a CA gave to a workload, and reading it as an identity would only help somebody who forges names.
  // Fails with kInvalidInput.
  static Result<SpiffeView> parse(std::string_view id);
};

// Why the text can be no part of an identity (trust domain, namespace, service account): nobody can then prove to be it. Null if
// it can. Static text, to follow "… ".
[[nodiscard]] const char* identity_part_fault(std::string_view text);

// Appends the id.
void append_spiffe_id(std::string& out, std::string_view trust_domain, std::string_view ns, std::string_view service_account);
[[nodiscard]] std::string spiffe_id(std::string_view trust_domain, std::string_view ns, std::string_view service_account);

}  // namespace zt
