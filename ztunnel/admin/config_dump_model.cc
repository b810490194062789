#include <algorithm>
#include <string_view>

#include "base/json_writer.h"
#include "ztunnel/admin/config_dump.h"

// The model of workload_api as JSON. Members in the order of their names.
namespace zt::ztunnel {
namespace {

using namespace workload_api;

void optional_member(JsonWriter& json, std::string_view name, const Str& text) {
  if (!text.empty()) json.member(name, text.view());
}

void write_gateway(JsonWriter& json, const GatewayAddress& gateway) {
  json.begin_object();
  json.member("destination", gateway.destination_text());
  json.member("hboneMtlsPort", uint32_t{gateway.hbone_mtls_port});
  json.end_object();
}

template <class List, class Text>
void write_strings(JsonWriter& json, std::string_view name, const List& list, Text text) {
  json.key(name);
  json.begin_array();
  for (const auto& element : list) json.string(text(element));
  json.end_array();
}
std::string_view view(const Str& text) { return text.view(); }

// {"443": 8443}: names are sorted as texts.
void write_ports(JsonWriter& json, std::string_view name, const PortMap& ports) {
  std::vector<std::pair<std::string, uint16_t>> sorted;
  for (size_t i = 0; i < ports.size(); ++i) sorted.emplace_back(std::to_string(ports[i].first), ports[i].second);
  std::ranges::sort(sorted);
  json.key(name);
  json.begin_object();
  for (const auto& [service_port, target] : sorted) json.member(service_port, uint32_t{target});
  json.end_object();
}

std::string_view name_of(WorkloadType type) {
  switch (type) {
    case WorkloadType::kDeployment: return "deployment";
    case WorkloadType::kCronJob: return "cronjob";
    case WorkloadType::kPod: return "pod";
    case WorkloadType::kJob: return "job";
  }
  return "deployment";
}

std::string_view name_of(WorkloadStatus status) { return status == WorkloadStatus::kHealthy ? "Healthy" : "Unhealthy"; }

std::string_view name_of(RoutingScope scope) {
  switch (scope) {
    case RoutingScope::kRegion: return "Region";
    case RoutingScope::kZone: return "Zone";
    case RoutingScope::kSubzone: return "Subzone";
    case RoutingScope::kNode: return "Node";
    case RoutingScope::kCluster: return "Cluster";
    case RoutingScope::kNetwork: return "Network";
  }
  return "Network";
}

std::string_view name_of(LoadBalancingMode mode) {
  switch (mode) {
    case LoadBalancingMode::kUnspecified: return "Standard";
    case LoadBalancingMode::kStrict: return "Strict";
    case LoadBalancingMode::kFailover: return "Failover";
    case LoadBalancingMode::kPassthrough: return "Passthrough";
  }
  return "Standard";
}

std::string_view name_of(PolicyScope scope) {
  switch (scope) {
    case PolicyScope::kGlobal: return "Global";
    case PolicyScope::kNamespace: return "Namespace";
    case PolicyScope::kWorkloadSelector: return "WorkloadSelector";
  }
  return "WorkloadSelector";
}

void write_load_balancing(JsonWriter& json, const LoadBalancing& balancing) {
  json.begin_object();
  json.member("healthPolicy", balancing.health_policy == HealthPolicy::kAllowAll ? "AllowAll" : "OnlyHealthy");
  json.member("mode", name_of(balancing.mode));
  write_strings(json, "routingPreferences", balancing.routing_preference, [](RoutingScope scope) { return name_of(scope); });
  json.end_object();
}

// ---- Policies

void write_match(JsonWriter& json, const StringMatch& match) {
  json.begin_object();
  switch (match.kind) {
    case StringMatch::Kind::kExact: json.member("Exact", match.value.view()); break;
    case StringMatch::Kind::kPrefix: json.member("Prefix", match.value.view()); break;
    case StringMatch::Kind::kSuffix: json.member("Suffix", match.value.view()); break;
    case StringMatch::Kind::kPresence:
      json.key("Presence");
      json.begin_array();
      json.end_array();
      break;
  }
  json.end_object();
}
void write_match(JsonWriter& json, const ServiceAccountMatch& match) {
  json.begin_object();
  json.member("namespace", match.ns.view());
  json.member("serviceAccount", match.service_account.view());
  json.end_object();
}
void write_match(JsonWriter& json, const Cidr& block) { json.string(block.to_string()); }
void write_match(JsonWriter& json, uint16_t port) { json.unsigned_number(port); }

template <class List>
void write_matches(JsonWriter& json, std::string_view name, const List& list) {
  if (list.empty()) return;
  json.key(name);
  json.begin_array();
  for (const auto& match : list) write_match(json, match);
  json.end_array();
}

void write_policy_match(JsonWriter& json, const PolicyMatch& match) {
  json.begin_object();
  write_matches(json, "destinationIps", match.destination_ips);
  write_matches(json, "destinationPorts", match.destination_ports);
  write_matches(json, "namespaces", match.namespaces);
  write_matches(json, "notDestinationIps", match.not_destination_ips);
  write_matches(json, "notDestinationPorts", match.not_destination_ports);
  write_matches(json, "notNamespaces", match.not_namespaces);
  write_matches(json, "notPrincipals", match.not_principals);
  write_matches(json, "notServiceAccounts", match.not_service_accounts);
  write_matches(json, "notSourceIps", match.not_source_ips);
  write_matches(json, "principals", match.principals);
  write_matches(json, "serviceAccounts", match.service_accounts);
  write_matches(json, "sourceIps", match.source_ips);
  json.end_object();
}

}  // namespace

void write_endpoints(JsonWriter& json, std::span<const Endpoint> endpoints) {
  std::vector<const Endpoint*> sorted;
  for (const auto& endpoint : endpoints) sorted.push_back(&endpoint);
  std::ranges::sort(sorted, {}, [](const Endpoint* endpoint) { return endpoint->workload->uid.view(); });
  json.begin_object();
  for (const Endpoint* endpoint : sorted) {
    json.key(endpoint->workload->uid.view());
    json.begin_object();
    write_ports(json, "port", endpoint->ports);
    json.member("status", name_of(endpoint->workload->status));
    json.member("workloadUid", endpoint->workload->uid.view());
    json.end_object();
  }
  json.end_object();
}

void write_workload(JsonWriter& json, const Workload& workload) {
  json.begin_object();
  if (workload.application_tunnel) {
    const auto& tunnel = *workload.application_tunnel;
    json.key("applicationTunnel");
    json.begin_object();
    json.key("port");
    if (tunnel.port == 0) {
      json.null();
    } else {
      json.unsigned_number(tunnel.port);
    }
    json.member("protocol", tunnel.protocol == ApplicationTunnel::Protocol::kProxy ? "PROXY" : "NONE");
    json.end_object();
  }
  if (!workload.authorization_policies.empty()) {
    write_strings(json, "authorizationPolicies", workload.authorization_policies, [](std::string_view name) { return name; });
  }
  optional_member(json, "canonicalName", workload.canonical_name);
  optional_member(json, "canonicalRevision", workload.canonical_revision);
  json.member("capacity", workload.capacity);
  json.member("clusterId", workload.cluster_id.view());
  optional_member(json, "hostname", workload.hostname);
  if (!workload.locality.empty()) {
    json.key("locality");
    json.begin_object();
    json.member("region", workload.locality.region());
    json.member("subzone", workload.locality.subzone());
    json.member("zone", workload.locality.zone());
    json.end_object();
  }
  json.member("name", workload.name.view());
  json.member("namespace", workload.ns.view());
  if (workload.native_tunnel) json.member("nativeTunnel", true);
  optional_member(json, "network", workload.network);
  if (workload.network_gateway) {
    json.key("networkGateway");
    write_gateway(json, *workload.network_gateway);
  }
  json.member("networkMode", workload.network_mode == NetworkMode::kStandard ? "Standard" : "HostNetwork");
  optional_member(json, "node", workload.node);
  json.member("protocol", workload.protocol == TunnelProtocol::kHbone ? "HBONE" : "TCP");
  optional_member(json, "serviceAccount", workload.service_account);
  if (!workload.services.empty()) {
    std::vector<std::string_view> names;
    for (const auto& membership : workload.services) names.push_back(membership.service.view());
    std::ranges::sort(names);
    write_strings(json, "services", names, [](std::string_view name) { return name; });
  }
  json.member("status", name_of(workload.status));
  optional_member(json, "trustDomain", workload.trust_domain);
  optional_member(json, "uid", workload.uid);
  if (workload.waypoint) {
    json.key("waypoint");
    write_gateway(json, *workload.waypoint);
  }
  write_strings(json, "workloadIps", workload.addresses, [](const IpAddress& ip) { return ip.to_string(); });
  optional_member(json, "workloadName", workload.workload_name);
  json.member("workloadType", name_of(workload.type));
  json.end_object();
}

void write_service(JsonWriter& json, const ServiceEntry& entry) {
  const Service& service = entry.service();
  json.begin_object();
  json.member("canonical", service.canonical);
  if (!service.cidr_vips.empty()) {
    json.key("cidrVips");
    json.begin_array();
    for (const auto& vip : service.cidr_vips) {
      json.begin_object();
      json.member("cidr", vip.cidr.to_string());
      json.member("network", vip.network.view());
      json.end_object();
    }
    json.end_array();
  }
  json.key("endpoints");
  write_endpoints(json, entry.endpoints());
  json.member("hostname", service.hostname.view());
  if (service.ip_families != IpFamilies::kAutomatic) {
    json.member("ipFamilies", service.ip_families == IpFamilies::kDual       ? "Dual"
                              : service.ip_families == IpFamilies::kIpv4Only ? "IPv4"
                                                                             : "IPv6");
  }
  if (service.load_balancing) {
    json.key("loadBalancer");
    write_load_balancing(json, *service.load_balancing);
  }
  json.member("name", service.name.view());
  json.member("namespace", service.ns.view());
  write_ports(json, "ports", service.ports);
  write_strings(json, "subjectAltNames", service.subject_alt_names, view);
  write_strings(json, "vips", service.vips, [](const NetworkAddress& vip) { return vip.to_string(); });
  json.member("visibility", service.visibility == Visibility::kPublic ? "Public" : "Namespace");
  if (service.waypoint) {
    json.key("waypoint");
    write_gateway(json, *service.waypoint);
  }
  if (!service.weighted_waypoints.empty()) {
    json.key("weightedWaypoints");
    json.begin_array();
    for (const auto& waypoint : service.weighted_waypoints) {
      json.begin_object();
      json.key("destination");
      write_gateway(json, waypoint.destination);
      json.member("weight", waypoint.weight);
      json.end_object();
    }
    json.end_array();
  }
  json.end_object();
}

void write_policy(JsonWriter& json, const Authorization& policy) {
  json.begin_object();
  json.member("action", policy.action == PolicyAction::kAllow ? "Allow" : "Deny");
  json.member("dryRun", policy.dry_run);
  json.member("name", policy.name.view());
  json.member("namespace", policy.ns.view());
  json.key("rules");
  json.begin_array();
  for (const auto& rule : policy.rules) {
    json.begin_array();
    for (const auto& clause : rule) {
      json.begin_array();
      for (const auto& match : clause) write_policy_match(json, match);
      json.end_array();
    }
    json.end_array();
  }
  json.end_array();
  json.member("scope", name_of(policy.scope));
  json.end_object();
}

}  // namespace zt::ztunnel
