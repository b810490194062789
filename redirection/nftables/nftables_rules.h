#pragma once
#include <array>
#include <string>
#include <string_view>

#include "base/result.h"
#include "redirection/redirector.h"

// The rules of an enrolled pod as text for nft: one transaction each. Pure functions; golden tests hold them
// against the rules of the real agent. Redirection contract §2.1-2.5, §9.4.
namespace zt::redirection {

inline constexpr std::string_view kNatTable = "istio-ambient-nat";
inline constexpr std::string_view kMangleTable = "istio-ambient-mangle";
inline constexpr std::string_view kRawTable = "istio-ambient-raw";  // only with DNS capture
inline constexpr std::array<std::string_view, 3> kAllTables{kNatTable, kMangleTable, kRawTable};

// Replaces whatever our tables hold by the pod's rules, without a gap.
[[nodiscard]] std::string render_pod_rules(const RedirectionOptions& options);
// Empties the chains that redirect. The base chains stay, and with them the kernel's address translation of
// connections that were redirected before.
[[nodiscard]] std::string render_stop_capturing();
// Removes our tables, whether they are there or not.
[[nodiscard]] std::string render_removal();

}  // namespace zt::redirection
