#pragma once
#include <array>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "redirection/redirector.h"

// The rules of an enrolled pod as text for iptables-restore and ip6tables-restore, and what their -save say of them. Pure
// functions; golden tests hold them against the rules of the real agent. Redirection contract §2.1-2.2, §9.4.
namespace zt::redirection {

inline constexpr std::array<std::string_view, 3> kIptablesTables{"raw", "nat", "mangle"};

// What is ours in what -save printed, without counters: by table, the jumps into our chains, and these with their rules, in order.
// A peer's agent calls them the same.
using IptablesRules = std::map<std::string, std::vector<std::string>, std::less<>>;
[[nodiscard]] IptablesRules parse_iptables_save(std::string_view text);

// All for -restore --noflush: one transaction a table.
//
// Makes the pod's rules out of whatever is there of ours (`present`), without a gap.
[[nodiscard]] std::string render_iptables_rules(const RedirectionOptions& options, bool v6, const IptablesRules& present);
// Empties the chains that redirect; address translation of the connections that were redirected before goes on.
[[nodiscard]] std::string render_iptables_stop_capturing();
// Removes what is there of ours.
[[nodiscard]] std::string render_iptables_removal(const IptablesRules& present);

}  // namespace zt::redirection
