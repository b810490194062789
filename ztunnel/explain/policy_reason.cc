#include "ztunnel/explain/policy_reason.h"

#include <fmt/format.h>

#include <string_view>

namespace zt::ztunnel {

using workload_api::PolicyClause;
using workload_api::PolicyMatch;
using workload_api::PolicyMatcher;
using workload_api::PolicyRule;
using workload_api::PolicySubject;
using workload_api::ServiceAccountMatch;
using workload_api::StringMatch;

namespace {

constexpr size_t kMostValues = 4;  // of a field that are written out

std::string text_of(const StringMatch& match) {
  switch (match.kind) {
    case StringMatch::Kind::kExact: return match.value.str();
    case StringMatch::Kind::kPrefix: return fmt::format("{}*", match.value.view());
    case StringMatch::Kind::kSuffix: return fmt::format("*{}", match.value.view());
    case StringMatch::Kind::kPresence: return "any";
  }
  return {};
}
std::string text_of(const ServiceAccountMatch& match) {
  return fmt::format("{}/{}", match.ns.view(), match.service_account.view());
}
std::string text_of(const Cidr& block) { return block.to_string(); }
std::string text_of(uint16_t port) { return std::to_string(port); }

template <class List>
std::string list_of(const List& values) {
  std::string text;
  for (size_t i = 0; i < values.size() && i < kMostValues; ++i) text += (i == 0 ? "" : ", ") + text_of(values[i]);
  if (values.size() > kMostValues) text += fmt::format(" and {} more", values.size() - kMostValues);
  return text;
}

bool rule_holds(const PolicyRule& rule, const PolicySubject& subject) { return PolicyMatcher({rule}).matches(subject); }
bool clause_holds(const PolicyClause& clause, const PolicySubject& subject) { return rule_holds({clause}, subject); }

std::string known(std::string_view text) { return text.empty() ? "nothing" : std::string(text); }

MatchMiss miss_of(size_t index, const PolicyMatch& match, const PolicySubject& subject) {
  MatchMiss miss{.match = index, .fields = {}};
  // A match of this field alone holds exactly if the field does.
  const auto look = [&](const char* field, auto PolicyMatch::* list, const std::string& is) {
    if ((match.*list).empty()) return;
    PolicyMatch alone;
    alone.*list = match.*list;
    if (!clause_holds({alone}, subject)) miss.fields.push_back({field, is, list_of(match.*list)});
  };
  const std::string ns = known(subject.peer.ns), principal = known(subject.peer.principal);
  const std::string account =
      subject.peer.principal.empty() ? "nothing" : fmt::format("{}/{}", subject.peer.ns, subject.peer.service_account);
  const std::string source = subject.source_ip.to_string(), destination = subject.destination.ip.to_string();
  const std::string port = std::to_string(subject.destination.port);
  look("namespaces", &PolicyMatch::namespaces, ns);
  look("notNamespaces", &PolicyMatch::not_namespaces, ns);
  look("serviceAccounts", &PolicyMatch::service_accounts, account);
  look("notServiceAccounts", &PolicyMatch::not_service_accounts, account);
  look("principals", &PolicyMatch::principals, principal);
  look("notPrincipals", &PolicyMatch::not_principals, principal);
  look("sourceIps", &PolicyMatch::source_ips, source);
  look("notSourceIps", &PolicyMatch::not_source_ips, source);
  look("destinationIps", &PolicyMatch::destination_ips, destination);
  look("notDestinationIps", &PolicyMatch::not_destination_ips, destination);
  look("destinationPorts", &PolicyMatch::destination_ports, port);
  look("notDestinationPorts", &PolicyMatch::not_destination_ports, port);
  return miss;
}

}  // namespace

PolicyReason policy_reason(const workload_api::Authorization& policy, const PolicySubject& subject) {
  PolicyReason reason;
  for (size_t r = 0; r < policy.rules.size(); ++r) {
    const PolicyRule& rule = policy.rules[r];
    RuleReason& why = reason.rules.emplace_back();
    why.holds = rule_holds(rule, subject);
    if (why.holds) {
      reason.matches = true;
      reason.rule = r;
      break;
    }
    while (why.clause < rule.size() && clause_holds(rule[why.clause], subject)) ++why.clause;
    if (why.clause == rule.size()) continue;
    const PolicyClause& clause = rule[why.clause];
    for (size_t m = 0; m < clause.size(); ++m) why.misses.push_back(miss_of(m, clause[m], subject));
  }
  return reason;
}

}  // namespace zt::ztunnel
