#include "ztunnel/explain/warnings.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "base/text.h"
#include "identity/spiffe_id.h"
#include "workload_api/model/sanity.h"

namespace zt::ztunnel {

using workload_api::Authorization;
using workload_api::Endpoint;
using workload_api::GatewayAddress;
using workload_api::NamespacedHostname;
using workload_api::NetworkAddress;
using workload_api::NetworkMode;
using workload_api::Policy;
using workload_api::PolicyAction;
using workload_api::PolicyMatch;
using workload_api::PolicyScope;
using workload_api::Service;
using workload_api::ServiceEntry;
using workload_api::Snapshot;
using workload_api::StringMatch;
using workload_api::Workload;

namespace {

const yaml::Node* child(const yaml::Node& node, std::string_view step) {
  if (step.starts_with('[')) {
    const auto index = whole_number<size_t>(step.substr(1, step.size() - 2));
    if (node.kind != yaml::Node::Kind::kList || !index) return nullptr;
    const yaml::Node* item = node.first;
    for (size_t i = 0; item != nullptr && i < *index; ++i) item = item->next;
    return item;
  }
  if (node.kind != yaml::Node::Kind::kMap) return nullptr;
  for (const yaml::Node* key = node.first; key != nullptr; key = key->next->next)
    if (key->text == step) return key->next;
  return nullptr;
}

// What is in both is in neither: a match that wants it and does not want it never holds.
template <class T, class Within>
bool all_within(const std::vector<T>& wanted, const std::vector<T>& unwanted, Within&& within) {
  return !wanted.empty() && std::ranges::all_of(wanted, [&](const T& one) {
    return std::ranges::any_of(unwanted, [&](const T& other) { return within(one, other); });
  });
}

// Whatever `one` matches, `other` matches too.
bool text_within(const StringMatch& one, const StringMatch& other) {
  using Kind = StringMatch::Kind;
  if (one == other) return true;
  const std::string_view a = one.value.view(), b = other.value.view();
  switch (other.kind) {
    case Kind::kPresence: return one.kind == Kind::kExact && !a.empty();
    case Kind::kPrefix: return (one.kind == Kind::kExact || one.kind == Kind::kPrefix) && a.starts_with(b);
    case Kind::kSuffix: return (one.kind == Kind::kExact || one.kind == Kind::kSuffix) && a.ends_with(b);
    case Kind::kExact: return false;
  }
  return false;
}

bool block_within(const Cidr& one, const Cidr& other) {
  return one.prefix_length >= other.prefix_length && other.contains(one.base);
}

// The field of a match that contradicts its not… field; null: none does.
const char* contradiction(const PolicyMatch& match) {
  const auto same = [](const auto& a, const auto& b) { return a == b; };
  if (all_within(match.namespaces, match.not_namespaces, text_within)) return "namespaces";
  if (all_within(match.principals, match.not_principals, text_within)) return "principals";
  if (all_within(match.service_accounts, match.not_service_accounts, same)) return "serviceAccounts";
  if (all_within(match.source_ips, match.not_source_ips, block_within)) return "sourceIps";
  if (all_within(match.destination_ips, match.not_destination_ips, block_within)) return "destinationIps";
  if (all_within(match.destination_ports, match.not_destination_ports, same)) return "destinationPorts";
  return nullptr;
}

class Search {
 public:
  Search(const Snapshot& snapshot, const Places& places, const Warn& warn) : snapshot_(snapshot), places_(places), warn_(warn) {}

  void run() {
    std::set<std::string, std::less<>> namespaces, named;
    snapshot_.for_each_workload([&](const Workload& workload) {
      namespaces.insert(workload.ns.str());
      for (const std::string_view name : workload.authorization_policies) named.emplace(name);
      look_at(workload);
    });
    snapshot_.for_each_service([&](const ServiceEntry& entry) { look_at(entry); });
    snapshot_.for_each_policy([&](const Policy& policy) { look_at(*policy.spec, namespaces, named); });
  }

 private:
  using Names = std::set<std::string, std::less<>>;

  template <class... Args>
  void warn(const std::string& name, std::string_view path, fmt::format_string<Args...> format, Args&&... args) {
    if (places_.faulty(name)) return;
    warn_(places_.find(name, path), fmt::format("{}: {}", name, fmt::format(format, std::forward<Args>(args)...)));
  }

  // ---- Workloads

  void look_at(const Workload& workload) {
    const std::string name = workload.uid.str();
    size_t index = 0;
    for (const std::string_view policy : workload.authorization_policies) {
      if (snapshot_.policy(policy) == nullptr)
        warn(name, fmt::format("authorizationPolicies[{}]", index),
             "no policy is called \"{}\": every connection to this workload is refused until there is one", policy);
      ++index;
    }
    for (const auto& membership : workload.services) {
      const ServiceEntry* entry = snapshot_.service(membership.service.view());
      if (entry == nullptr) {
        warn(name, "services", "no service is \"{}\": nobody comes by it", membership.service.view());
        continue;
      }
      for (size_t i = 0; i < membership.ports.size(); ++i)
        if (const uint16_t port = membership.ports[i].first; !entry->service().ports.contains(port))
          warn(name, "services", "service \"{}\" has no port {}: nobody comes by it", membership.service.view(), port);
    }
    if (workload.waypoint) reference(name, "waypoint", *workload.waypoint, "connections to this workload's address are refused");
    if (workload.network_gateway)
      reference(name, "networkGateway", *workload.network_gateway, "connections to this workload are refused");
    if (workload.network_mode == NetworkMode::kHostNetwork) return;
    for (size_t i = 0; i < workload.addresses.size(); ++i) {
      const Workload* owner = snapshot_.workload(workload.network.view(), workload.addresses[i]);
      if (owner != nullptr && owner != &workload)
        warn(name, fmt::format("workloadIps[{}]", i), "{} counts as {}'s: this workload is not found by it",
             workload.addresses[i].to_string(), owner->uid.view());
    }
  }

  void reference(const std::string& name, std::string_view path, const GatewayAddress& gateway, std::string_view consequence) {
    bool found = false;
    if (const auto* address = std::get_if<NetworkAddress>(&gateway.destination)) {
      found = snapshot_.workload(address->network.view(), address->ip) != nullptr ||
              snapshot_.service_by_vip(address->network.view(), address->ip, std::nullopt) != nullptr;
    } else {
      const auto& host = std::get<NamespacedHostname>(gateway.destination);
      found = snapshot_.service(host.ns.view(), host.hostname.view()) != nullptr ||
              snapshot_.workload_by_hostname(host.ns.view(), host.hostname.view()) != nullptr;
    }
    if (!found) warn(name, path, "\"{}\" leads nowhere: {}", gateway.destination_text(), consequence);
  }

  // ---- Services

  void look_at(const ServiceEntry& entry) {
    const Service& service = entry.service();
    const std::string name = service.key.str();
    if (service.waypoint) reference(name, "waypoint", *service.waypoint, "connections to this service are refused");
    uint64_t weights = 0;
    for (size_t i = 0; i < service.weighted_waypoints.size(); ++i) {
      weights += service.weighted_waypoints[i].weight;
      if (service.weighted_waypoints[i].weight > 0)
        reference(name, fmt::format("weightedWaypoints[{}].destination", i), service.weighted_waypoints[i].destination,
                  "its share of the connections is refused");
    }
    if (!service.weighted_waypoints.empty() && weights == 0)
      warn(name, "weightedWaypoints", "all weights are 0: none of them is ever taken");
    for (size_t i = 0; i < service.subject_alt_names.size(); ++i)
      if (auto id = identity::SpiffeId::parse(service.subject_alt_names[i].view()); !id)
        warn(name, fmt::format("subjectAltNames[{}]", i), "\"{}\" is no workload's SPIFFE id: nobody can show it",
             service.subject_alt_names[i].view());
    for (const auto& vip : service.vips) {
      const ServiceEntry* other = snapshot_.service_by_vip(vip.network.view(), vip.ip, service.ns.view());
      if (other != nullptr && other != &entry)
        warn(name, "vips", "{} leads to {} instead, for clients of this namespace too", vip.to_string(),
             other->service().key.view());
    }
    if (service.passthrough()) return;
    endpoints(name, service, entry);
  }

  void endpoints(const std::string& name, const Service& service, const ServiceEntry& entry) {
    const auto all = entry.endpoints();
    if (all.empty()) {
      if (service.waypoint || weighted(service)) return;
      warn(name, {}, "{}: connections to it are refused",
           entry.withheld().empty() ? "no workload serves it" : "none of its endpoints is healthy");
      return;
    }
    if (std::ranges::all_of(all, [](const Endpoint& endpoint) { return endpoint.workload->capacity == 0; }))
      warn(name, {}, "all of its endpoints have capacity 0: none is ever chosen");
    for (size_t i = 0; i < service.ports.size(); ++i) {
      const auto [port, target] = service.ports[i];
      if (target == 0 && std::ranges::none_of(all, [&](const Endpoint& endpoint) { return endpoint.ports.contains(port); }))
        warn(name, fmt::format("ports.{}", port), "the target of port {} is named, and no endpoint says which it is", port);
    }
  }

  static bool weighted(const Service& service) {
    return std::ranges::any_of(service.weighted_waypoints, [](const auto& waypoint) { return waypoint.weight > 0; });
  }

  // ---- Policies

  void look_at(const Authorization& policy, const Names& namespaces, const Names& named) {
    const std::string name = "policy " + policy.key.str();
    if (policy.scope == PolicyScope::kWorkloadSelector && !named.contains(policy.key.view()))
      warn(name, {}, "no workload names it: it is asked nowhere");
    if (policy.scope == PolicyScope::kNamespace && !namespaces.contains(policy.ns.view()))
      warn(name, {}, "there is no workload in its namespace: it is asked nowhere");
    if (policy.rules.empty() && policy.action == PolicyAction::kDeny) warn(name, "rules", "a DENY without rules never matches");
    for (const auto& dead : workload_api::dead_values(policy))
      warn(name, dead.field, "{}: \"{}\" matches nothing: {}", dead.field, dead.value, dead.why);
    for (size_t r = 0; r < policy.rules.size(); ++r)
      for (size_t c = 0; c < policy.rules[r].size(); ++c)
        for (size_t m = 0; m < policy.rules[r][c].size(); ++m) {
          const PolicyMatch& match = policy.rules[r][c][m];
          const std::string place = fmt::format("rules[{}][{}][{}]", r, c, m);
          if (match == PolicyMatch{}) warn(name, place, "{} is empty: it never matches", place);
          if (const char* field = contradiction(match))
            warn(name, place, "{}.{}: all of it is excepted by its not… field: it never matches", place, field);
        }
  }

  const Snapshot& snapshot_;
  const Places& places_;
  const Warn& warn_;
};

}  // namespace

yaml::Mark Places::find(const std::string& name, std::string_view path) const {
  const auto found = items_.find(name);
  if (found == items_.end()) return {};
  const yaml::Node* node = found->second;
  while (!path.empty()) {
    if (path.starts_with('.')) path.remove_prefix(1);
    const size_t end = path.starts_with('[') ? path.find(']') + 1 : std::min(path.find_first_of(".["), path.size());
    const yaml::Node* next = child(*node, path.substr(0, end));
    if (next == nullptr) break;
    node = next;
    path.remove_prefix(end);
  }
  return node->mark;
}

void find_warnings(const Snapshot& snapshot, const Places& places, const Warn& warn) { Search(snapshot, places, warn).run(); }

}  // namespace zt::ztunnel
