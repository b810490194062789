#include <utility>

#include "workload_api/xds/convert.h"
#include "workload_api/xds/convert_common.h"
#include "workload_api/xds/proto/authorization.pb.h"

namespace zt::workload_api {
namespace {

namespace pb = istio::security;

Result<PolicyScope> scope_of(int number) {
  switch (number) {
    case pb::GLOBAL: return PolicyScope::kGlobal;
    case pb::NAMESPACE: return PolicyScope::kNamespace;
    case pb::WORKLOAD_SELECTOR: return PolicyScope::kWorkloadSelector;
    default: return unknown_enum(number);
  }
}

Result<PolicyAction> action_of(int number) {
  switch (number) {
    case pb::ALLOW: return PolicyAction::kAllow;
    case pb::DENY: return PolicyAction::kDeny;
    default: return unknown_enum(number);
  }
}

// Malformed blocks are dropped, as the peer does (contract §5.4): that may leave a match empty, and an empty
// one never matches.
template <class Messages>
std::vector<Cidr> blocks(const Messages& messages) {
  std::vector<Cidr> out;
  for (const pb::Address& address : messages)
    if (const auto block = block_of(address.address(), address.length())) out.push_back(*block);
  return out;
}

template <class Numbers>
std::vector<uint16_t> port_list(const Numbers& numbers) {
  std::vector<uint16_t> out;
  out.reserve(static_cast<size_t>(numbers.size()));
  for (const uint32_t number : numbers) out.push_back(port_of(number));
  return out;
}

}  // namespace

template <class Messages>
std::vector<StringMatch> Converter::string_matches(const Messages& messages) {
  std::vector<StringMatch> out;
  for (const pb::StringMatch& match : messages) {
    switch (match.match_type_case()) {
      case pb::StringMatch::kExact: out.push_back({StringMatch::Kind::kExact, text(match.exact())}); break;
      case pb::StringMatch::kPrefix: out.push_back({StringMatch::Kind::kPrefix, text(match.prefix())}); break;
      case pb::StringMatch::kSuffix: out.push_back({StringMatch::Kind::kSuffix, text(match.suffix())}); break;
      case pb::StringMatch::kPresence: out.push_back({StringMatch::Kind::kPresence, {}}); break;
      case pb::StringMatch::MATCH_TYPE_NOT_SET: break;  // dropped, as above
    }
  }
  return out;
}

template <class Messages>
std::vector<ServiceAccountMatch> Converter::account_matches(const Messages& messages) {
  std::vector<ServiceAccountMatch> out;
  for (const pb::ServiceAccountMatch& match : messages) out.push_back({text(match.namespace_()), text(match.serviceaccount())});
  return out;
}

Result<Ref<Authorization>> Converter::authorization(const pb::Authorization& message, std::string_view name) {
  auto out = make_ref<Authorization>();
  Authorization& policy = *out;
  ZT_ASSIGN(policy.scope, scope_of(message.scope()));
  ZT_ASSIGN(policy.action, action_of(message.action()));
  policy.key = text(name);
  policy.name = message.name();
  policy.ns = text(message.namespace_());
  policy.dry_run = message.dry_run();
  for (const pb::Rule& from_rule : message.rules()) {
    PolicyRule& rule = policy.rules.emplace_back();
    for (const pb::Clause& from_clause : from_rule.clauses()) {
      PolicyClause& clause = rule.emplace_back();
      for (const pb::Match& from : from_clause.matches()) {
        PolicyMatch& match = clause.emplace_back();
        match.namespaces = string_matches(from.namespaces());
        match.not_namespaces = string_matches(from.not_namespaces());
        match.service_accounts = account_matches(from.service_accounts());
        match.not_service_accounts = account_matches(from.not_service_accounts());
        match.principals = string_matches(from.principals());
        match.not_principals = string_matches(from.not_principals());
        match.source_ips = blocks(from.source_ips());
        match.not_source_ips = blocks(from.not_source_ips());
        match.destination_ips = blocks(from.destination_ips());
        match.not_destination_ips = blocks(from.not_destination_ips());
        match.destination_ports = port_list(from.destination_ports());
        match.not_destination_ports = port_list(from.not_destination_ports());
      }
    }
  }
  return out;
}

}  // namespace zt::workload_api
