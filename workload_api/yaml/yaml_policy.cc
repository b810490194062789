#include "workload_api/yaml/yaml_policy.h"

#include <fmt/format.h>

namespace zt::workload_api {
namespace {

using yaml::Map;
using yaml::Value;

// {Exact: text}, {Prefix: text}, {Suffix: text}, {Presence: []}; also as a tag, `!Exact text`.
StringMatch string_match(const Value& value) {
  using Kind = StringMatch::Kind;
  const auto kind_of = [](std::string_view name) -> std::optional<Kind> {
    if (name == "Exact") return Kind::kExact;
    if (name == "Prefix") return Kind::kPrefix;
    if (name == "Suffix") return Kind::kSuffix;
    if (name == "Presence") return Kind::kPresence;
    return std::nullopt;
  };
  const std::string_view tag = value.tag();
  if (const auto kind = tag.starts_with('!') ? kind_of(tag.substr(1)) : std::nullopt) {
    if (*kind == Kind::kPresence) return {*kind, {}};
    return {*kind, value.text()};
  }
  if (!value.is_map()) value.refuse("expected one of {Exact: …}, {Prefix: …}, {Suffix: …}, {Presence: []}");
  StringMatch match;
  bool known = value.size() == 1;
  value.each_pair([&](const Value& key, const Value& argument) {
    const auto kind = kind_of(key.text());
    known = known && kind;
    if (!known) return;
    match.kind = *kind;
    if (*kind != Kind::kPresence) {
      match.value = argument.text();
    } else if (!argument.is_empty()) {
      argument.refuse("takes no value: write []");
    }
  });
  if (!known) value.refuse("expected exactly one of Exact, Prefix, Suffix, Presence");
  return match;
}

ServiceAccountMatch service_account(const Value& value) {
  Map map(value);
  ServiceAccountMatch match{map.require("namespace").text(), map.require("serviceAccount").text()};
  map.finish();
  return match;
}

template <class T, class Read>
std::vector<T> values(Map& map, std::string_view key, Read&& read) {
  std::vector<T> result;
  if (const auto list = map.take(key)) {
    result.reserve(list->size());
    list->each([&](const Value& item) { result.push_back(read(item)); });
  }
  return result;
}

PolicyMatch match(const Value& value) {
  const auto cidr = [](const Value& item) { return item.cidr(); };
  const auto port = [](const Value& item) { return item.port(); };
  Map map(value);
  PolicyMatch match;
  match.namespaces = values<StringMatch>(map, "namespaces", string_match);
  match.not_namespaces = values<StringMatch>(map, "notNamespaces", string_match);
  match.service_accounts = values<ServiceAccountMatch>(map, "serviceAccounts", service_account);
  match.not_service_accounts = values<ServiceAccountMatch>(map, "notServiceAccounts", service_account);
  match.principals = values<StringMatch>(map, "principals", string_match);
  match.not_principals = values<StringMatch>(map, "notPrincipals", string_match);
  match.source_ips = values<Cidr>(map, "sourceIps", cidr);
  match.not_source_ips = values<Cidr>(map, "notSourceIps", cidr);
  match.destination_ips = values<Cidr>(map, "destinationIps", cidr);
  match.not_destination_ips = values<Cidr>(map, "notDestinationIps", cidr);
  match.destination_ports = values<uint16_t>(map, "destinationPorts", port);
  match.not_destination_ports = values<uint16_t>(map, "notDestinationPorts", port);
  map.finish();
  return match;
}

}  // namespace

Ref<Authorization> read_policy(const Value& value) {
  Map map(value);
  auto policy = make_ref<Authorization>();
  policy->name = map.require("name").required_text();
  policy->ns = map.require("namespace").text();
  policy->key = fmt::format("{}/{}", policy->ns.view(), policy->name.view());
  policy->scope = map.require("scope").one_of<PolicyScope>({{"Global", PolicyScope::kGlobal},
                                                            {"Namespace", PolicyScope::kNamespace},
                                                            {"WorkloadSelector", PolicyScope::kWorkloadSelector}});
  policy->action = map.require("action").one_of<PolicyAction>({{"Allow", PolicyAction::kAllow}, {"Deny", PolicyAction::kDeny}});
  if (const auto dry_run = map.take("dryRun")) policy->dry_run = dry_run->boolean();
  // Required, though it may be empty: an ALLOW without rules denies everything, which nobody should write by
  // leaving a line out.
  const Value rules = map.require("rules");
  rules.each([&](const Value& rule) {
    PolicyRule clauses;
    rule.each([&](const Value& clause) {
      PolicyClause matches;
      clause.each([&](const Value& item) { matches.push_back(match(item)); });
      clauses.push_back(std::move(matches));
    });
    policy->rules.push_back(std::move(clauses));
  });
  map.finish();
  return policy;
}

}  // namespace zt::workload_api
