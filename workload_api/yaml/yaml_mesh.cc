#include "workload_api/yaml/yaml_mesh.h"

#include <fmt/format.h>

#include <string_view>
#include <utility>
#include <vector>

#include "mesh/spiffe.h"
#include "workload_api/model/sanity.h"
#include "workload_api/store/store.h"

namespace zt::workload_api {
namespace {

using yaml::Map;
using yaml::Value;

std::string_view text_or(const std::optional<Value>& value, std::string_view otherwise) {
  return value ? value->text() : otherwise;
}

// "network/rest": an empty network gives a leading slash, and may be left out together with it.
std::pair<std::string_view, std::string_view> split_network(std::string_view text) {
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos) return {std::string_view(), text};
  return {text.substr(0, slash), text.substr(slash + 1)};
}

NetworkAddress network_address(const Value& value) {
  const auto [network, rest] = split_network(value.text());
  const auto ip = IpAddress::parse(rest);
  if (!ip)
    value.refuse(fmt::format("\"{}\" is not \"network/address\" (the default network is empty: \"/10.0.0.1\")", value.text()));
  return {network, *ip};
}

// {network, cidr}, or "network/block".
NetworkCidr network_cidr(const Value& value) {
  if (value.is_map()) {
    Map map(value);
    const auto network = map.take("network");
    NetworkCidr block{text_or(network, ""), map.require("cidr").cidr()};
    map.finish();
    return block;
  }
  const auto [network, rest] = split_network(value.text());
  const auto cidr = Cidr::parse(rest);
  if (!cidr)
    value.refuse(fmt::format("\"{}\" is not \"network/block\" (the default network is empty: \"/10.0.0.0/8\")", value.text()));
  return {network, *cidr};
}

// {destination: "namespace/hostname" or "network/address", hboneMtlsPort}
GatewayAddress gateway(const Value& value) {
  Map map(value);
  const Value destination = map.require("destination");
  GatewayAddress gateway;
  const auto port = map.take("hboneMtlsPort");
  gateway.hbone_mtls_port = port ? port->port() : uint16_t{15008};
  const auto [first, rest] = split_network(destination.required_text());
  if (const auto ip = IpAddress::parse(rest)) {
    gateway.destination = NetworkAddress{first, *ip};
  } else if (!first.empty() && !rest.empty() && rest.find('/') == std::string::npos) {
    gateway.destination = NamespacedHostname{first, rest};
  } else {
    destination.refuse(fmt::format("\"{}\" is neither \"namespace/hostname\" nor \"network/address\"", destination.text()));
  }
  map.finish();
  return gateway;
}

PortMap port_map(const Value& value) {
  std::vector<PortMap::Pair> ports;
  ports.reserve(value.size());
  value.each_pair([&](const Value& service_port, const Value& target_port) {
    if (service_port.port() == 0) service_port.refuse("a service port cannot be 0");
    ports.emplace_back(service_port.port(), target_port.port());
  });
  return PortMap(ports);
}

std::string_view service_key(const Value& value) {
  const std::string_view key = value.text();
  const size_t slash = key.find('/');
  if (slash == std::string_view::npos || slash == 0 || slash + 1 == key.size())
    value.refuse(fmt::format("\"{}\" is not \"namespace/hostname\"", key));
  return key;
}

// {"namespace/hostname": {service port: target port}}, or the list of names that the admin dump shows.
decltype(Workload::services) memberships(const Value& value, Interner& texts) {
  decltype(Workload::services) services;
  services.reserve(value.size());
  const auto add = [&](const Value& key, PortMap ports) {
    texts.intern(ports);
    services.push_back({texts.make(service_key(key)), std::move(ports)});
  };
  if (value.is_map()) {
    value.each_pair([&](const Value& key, const Value& ports) { add(key, ports.is_null() ? PortMap() : port_map(ports)); });
  } else {
    value.each([&](const Value& key) { add(key, {}); });
  }
  return services;
}

Locality locality(const Value& value) {
  Map map(value);
  const auto region = map.take("region"), zone = map.take("zone"), subzone = map.take("subzone");
  map.finish();
  return {text_or(region, ""), text_or(zone, ""), text_or(subzone, "")};
}

ApplicationTunnel application_tunnel(const Value& value) {
  Map map(value);
  ApplicationTunnel tunnel;
  if (const auto protocol = map.take("protocol"))
    tunnel.protocol = protocol->one_of<ApplicationTunnel::Protocol>(
        {{"NONE", ApplicationTunnel::Protocol::kNone}, {"PROXY", ApplicationTunnel::Protocol::kProxy}});
  if (const auto port = map.take("port")) tunnel.port = port->port();
  map.finish();
  return tunnel;
}

// Absent or empty, as xDS elides it, it is the default.
std::string_view identity_part(const std::optional<Value>& value, std::string_view otherwise) {
  const std::string_view text = text_or(value, "");
  if (text.empty()) return otherwise;
  if (const char* fault = identity_part_fault(text)) value->refuse(fmt::format("\"{}\" {}", text, fault));
  return text;
}

}  // namespace

Ref<Workload> read_workload(const Value& value, Interner& texts) {
  Map map(value);
  auto workload = make_ref<Workload>();
  // In the order of the admin dump's keys or of what people write: Map looks for the next one first.
  const auto uid = map.take("uid");
  const auto name = map.take("name");
  const Value ns = map.require("namespace");
  workload->ns = texts.make(identity_part(ns, ns.required_text()));
  workload->name = text_or(name, "");
  if (uid) {
    workload->uid = uid->required_text();
  } else if (workload->name.empty()) {
    value.refuse("needs a uid or a name");
  } else {
    workload->uid = fmt::format("local//{}/{}", workload->ns.view(), workload->name.view());
  }
  workload->service_account = texts.make(identity_part(map.take("serviceAccount"), "default"));
  workload->trust_domain = texts.make(identity_part(map.take("trustDomain"), "cluster.local"));
  workload->hostname = text_or(map.take("hostname"), "");
  const auto ips = map.take("workloadIps");
  if (!ips && workload->hostname.empty())
    value.refuse("\"workloadIps\" is missing (it may be empty only with a hostname or a networkGateway)");
  if (ips) {
    if (ips->is_list() && ips->size() > kMaxWorkloadAddresses)
      ips->refuse(fmt::format("more than {} addresses", kMaxWorkloadAddresses));
    workload->addresses.reserve(ips->size());
    ips->each([&](const Value& ip) { workload->addresses.push_back(ip.ip()); });
  }
  if (const auto protocol = map.take("protocol"))
    workload->protocol = protocol->one_of<TunnelProtocol>({{"HBONE", TunnelProtocol::kHbone}, {"TCP", TunnelProtocol::kNone}});
  workload->network = texts.make(text_or(map.take("network"), ""));
  workload->node = texts.make(text_or(map.take("node"), ""));
  if (const auto type = map.take("workloadType"))
    workload->type = type->one_of<WorkloadType>({{"deployment", WorkloadType::kDeployment},
                                                 {"cronjob", WorkloadType::kCronJob},
                                                 {"pod", WorkloadType::kPod},
                                                 {"job", WorkloadType::kJob}});
  workload->workload_name = texts.make(text_or(map.take("workloadName"), ""));
  workload->canonical_name = texts.make(text_or(map.take("canonicalName"), ""));
  workload->canonical_revision = texts.make(text_or(map.take("canonicalRevision"), ""));
  const std::string_view cluster = text_or(map.take("clusterId"), "");
  workload->cluster_id = texts.make(cluster.empty() ? "Kubernetes" : cluster);
  if (const auto mode = map.take("networkMode"))
    workload->network_mode =
        mode->one_of<NetworkMode>({{"Standard", NetworkMode::kStandard}, {"HostNetwork", NetworkMode::kHostNetwork}});
  if (const auto status = map.take("status"))
    workload->status =
        status->one_of<WorkloadStatus>({{"Healthy", WorkloadStatus::kHealthy}, {"Unhealthy", WorkloadStatus::kUnhealthy}});
  if (const auto native = map.take("nativeTunnel")) workload->native_tunnel = native->boolean();
  if (const auto capacity = map.take("capacity")) workload->capacity = capacity->number(UINT32_MAX);
  if (const auto where = map.take("locality")) {
    workload->locality = locality(*where);
    texts.intern(workload->locality);
  }
  if (const auto tunnel = map.take("applicationTunnel")) workload->application_tunnel = application_tunnel(*tunnel);
  if (const auto waypoint = map.take("waypoint")) workload->waypoint = gateway(*waypoint);
  if (const auto network_gateway = map.take("networkGateway")) workload->network_gateway = gateway(*network_gateway);
  if (const auto services = map.take("services")) workload->services = memberships(*services, texts);
  if (const auto policies = map.take("authorizationPolicies")) {
    std::vector<std::string_view> names;
    policies->each([&](const Value& policy) { names.push_back(policy.required_text()); });
    workload->authorization_policies = NameList(names.begin(), names.end());
    texts.intern(workload->authorization_policies);
  }
  map.finish();
  return workload;
}

namespace {

LoadBalancing load_balancing(const Value& value) {
  Map map(value);
  LoadBalancing balancing;
  if (const auto mode = map.take("mode"))
    balancing.mode = mode->one_of<LoadBalancingMode>({{"Standard", LoadBalancingMode::kUnspecified},
                                                      {"Strict", LoadBalancingMode::kStrict},
                                                      {"Failover", LoadBalancingMode::kFailover},
                                                      {"Passthrough", LoadBalancingMode::kPassthrough}});
  if (const auto policy = map.take("healthPolicy"))
    balancing.health_policy =
        policy->one_of<HealthPolicy>({{"OnlyHealthy", HealthPolicy::kOnlyHealthy}, {"AllowAll", HealthPolicy::kAllowAll}});
  if (const auto preferences = map.take("routingPreferences"))
    preferences->each([&](const Value& scope) {
      balancing.routing_preference.push_back(scope.one_of<RoutingScope>({{"Region", RoutingScope::kRegion},
                                                                         {"Zone", RoutingScope::kZone},
                                                                         {"Subzone", RoutingScope::kSubzone},
                                                                         {"Node", RoutingScope::kNode},
                                                                         {"Cluster", RoutingScope::kCluster},
                                                                         {"Network", RoutingScope::kNetwork}}));
    });
  map.finish();
  return balancing;
}

WeightedWaypoint weighted_waypoint(const Value& value) {
  Map map(value);
  WeightedWaypoint waypoint{gateway(map.require("destination")), map.require("weight").number(UINT32_MAX)};
  map.finish();
  return waypoint;
}

}  // namespace

Ref<Service> read_service(const Value& value, Interner& texts, DumpedEndpoints* dumped) {
  Map map(value);
  auto service = make_ref<Service>();
  service->name = texts.make(text_or(map.take("name"), ""));
  service->ns = texts.make(map.require("namespace").required_text());
  service->hostname = map.require("hostname").required_text();
  if (const auto vips = map.take("vips")) vips->each([&](const Value& vip) { service->vips.push_back(network_address(vip)); });
  if (const auto blocks = map.take("cidrVips"))
    blocks->each([&](const Value& block) { service->cidr_vips.push_back(network_cidr(block)); });
  if (const auto ports = map.take("ports")) service->ports = port_map(*ports);
  if (const auto names = map.take("subjectAltNames"))
    names->each([&](const Value& name) { service->subject_alt_names.emplace_back(name.required_text()); });
  if (const auto waypoint = map.take("waypoint")) service->waypoint = gateway(*waypoint);
  if (const auto waypoints = map.take("weightedWaypoints"))
    waypoints->each([&](const Value& waypoint) { service->weighted_waypoints.push_back(weighted_waypoint(waypoint)); });
  if (const auto balancing = map.take("loadBalancer")) service->load_balancing = load_balancing(*balancing);
  if (const auto families = map.take("ipFamilies"))
    service->ip_families = families->one_of<IpFamilies>({{"Automatic", IpFamilies::kAutomatic},
                                                         {"Dual", IpFamilies::kDual},
                                                         {"IPv4", IpFamilies::kIpv4Only},
                                                         {"IPv6", IpFamilies::kIpv6Only}});
  if (const auto visibility = map.take("visibility"))
    service->visibility =
        visibility->one_of<Visibility>({{"Public", Visibility::kPublic}, {"Namespace", Visibility::kNamespace}});
  if (const auto canonical = map.take("canonical")) service->canonical = canonical->boolean();
  if (const auto endpoints = map.take("endpoints"); endpoints && !endpoints->is_empty()) {
    if (dumped == nullptr) endpoints->refuse("endpoints come from the `services` of the workloads, they are not listed here");
    endpoints->each_pair([&](const Value& uid, const Value& endpoint) {
      Map one(endpoint);
      const auto ports = one.take("port");
      dumped->emplace_back(uid.text(), ports ? port_map(*ports) : PortMap());
    });
  }
  map.finish();
  return service;
}

}  // namespace zt::workload_api
