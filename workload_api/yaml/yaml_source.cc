#include "workload_api/yaml/yaml_source.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <unordered_set>

#include "base/unique_fd.h"
#include "mesh/reason.h"
#include "workload_api/yaml/yaml_policy.h"
#include "workload_api/yaml/yaml_reader.h"

namespace zt::workload_api {
namespace {

using yaml::Map;
using yaml::Value;

std::string text_or(const std::optional<Value>& value, std::string_view otherwise) {
  return value ? value->text() : std::string(otherwise);
}

// "network/rest": an empty network gives a leading slash, and may be left out together with it.
std::pair<std::string, std::string> split_network(const std::string& text) {
  const size_t slash = text.find('/');
  if (slash == std::string::npos) return {std::string(), text};
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
  const auto [first, rest] = split_network(destination.required_text());
  if (const auto ip = IpAddress::parse(rest)) {
    gateway.destination = NetworkAddress{first, *ip};
  } else if (!first.empty() && !rest.empty() && rest.find('/') == std::string::npos) {
    gateway.destination = NamespacedHostname{first, rest};
  } else {
    destination.refuse(fmt::format("\"{}\" is neither \"namespace/hostname\" nor \"network/address\"", destination.text()));
  }
  const auto port = map.take("hboneMtlsPort");
  gateway.hbone_mtls_port = port ? port->port() : uint16_t{15008};
  map.finish();
  return gateway;
}

PortMap port_map(const Value& value) {
  std::vector<PortMap::Pair> ports;
  for (const auto& [service_port, target_port] : value.pairs()) {
    if (service_port.port() == 0) service_port.refuse("a service port cannot be 0");
    ports.emplace_back(service_port.port(), target_port.port());
  }
  return PortMap(ports);
}

Str service_key(const Value& value) {
  std::string key = value.text();
  const size_t slash = key.find('/');
  if (slash == std::string::npos || slash == 0 || slash + 1 == key.size())
    value.refuse(fmt::format("\"{}\" is not \"namespace/hostname\"", key));
  return key;
}

// {"namespace/hostname": {service port: target port}}, or the list of names that the admin dump shows.
std::vector<ServiceMembership> memberships(const Value& value) {
  std::vector<ServiceMembership> services;
  if (value.is_map()) {
    for (const auto& [key, ports] : value.pairs())
      services.push_back({service_key(key), ports.is_null() ? PortMap() : port_map(ports)});
  } else {
    for (const Value& key : value.list()) services.push_back({service_key(key), {}});
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

Ref<Workload> workload(const Value& value) {
  Map map(value);
  auto workload = make_ref<Workload>();
  workload->ns = map.require("namespace").required_text();
  workload->name = text_or(map.take("name"), "");
  if (const auto uid = map.take("uid")) {
    workload->uid = uid->required_text();
  } else if (workload->name.empty()) {
    value.refuse("needs a uid or a name");
  } else {
    workload->uid = fmt::format("local//{}/{}", workload->ns.view(), workload->name.view());
  }
  workload->hostname = text_or(map.take("hostname"), "");
  const auto ips = map.take("workloadIps");
  if (!ips && workload->hostname.empty())
    value.refuse("\"workloadIps\" is missing (it may be empty only with a hostname or a networkGateway)");
  if (ips)
    for (const Value& ip : ips->list()) workload->addresses.push_back(ip.ip());
  if (workload->addresses.size() > kMaxWorkloadAddresses)
    ips->refuse(fmt::format("more than {} addresses", kMaxWorkloadAddresses));

  workload->service_account = text_or(map.take("serviceAccount"), "default");
  workload->trust_domain = text_or(map.take("trustDomain"), "cluster.local");
  workload->cluster_id = text_or(map.take("clusterId"), "Kubernetes");
  workload->network = text_or(map.take("network"), "");
  workload->node = text_or(map.take("node"), "");
  workload->canonical_name = text_or(map.take("canonicalName"), "");
  workload->canonical_revision = text_or(map.take("canonicalRevision"), "");
  workload->workload_name = text_or(map.take("workloadName"), "");
  if (const auto type = map.take("workloadType"))
    workload->type = type->one_of<WorkloadType>({{"deployment", WorkloadType::kDeployment},
                                                 {"cronjob", WorkloadType::kCronJob},
                                                 {"pod", WorkloadType::kPod},
                                                 {"job", WorkloadType::kJob}});
  if (const auto protocol = map.take("protocol"))
    workload->protocol = protocol->one_of<TunnelProtocol>({{"HBONE", TunnelProtocol::kHbone}, {"TCP", TunnelProtocol::kNone}});
  if (const auto mode = map.take("networkMode"))
    workload->network_mode =
        mode->one_of<NetworkMode>({{"Standard", NetworkMode::kStandard}, {"HostNetwork", NetworkMode::kHostNetwork}});
  if (const auto status = map.take("status"))
    workload->status =
        status->one_of<WorkloadStatus>({{"Healthy", WorkloadStatus::kHealthy}, {"Unhealthy", WorkloadStatus::kUnhealthy}});
  if (const auto native = map.take("nativeTunnel")) workload->native_tunnel = native->boolean();
  if (const auto capacity = map.take("capacity")) workload->capacity = capacity->number(UINT32_MAX);
  if (const auto where = map.take("locality")) workload->locality = locality(*where);
  if (const auto tunnel = map.take("applicationTunnel")) workload->application_tunnel = application_tunnel(*tunnel);
  if (const auto waypoint = map.take("waypoint")) workload->waypoint = gateway(*waypoint);
  if (const auto network_gateway = map.take("networkGateway")) workload->network_gateway = gateway(*network_gateway);
  if (const auto services = map.take("services")) workload->services = memberships(*services);
  if (const auto policies = map.take("authorizationPolicies"))
    for (const Value& policy : policies->list()) workload->authorization_policies.emplace_back(policy.required_text());
  map.finish();
  return workload;
}

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
    for (const Value& scope : preferences->list())
      balancing.routing_preference.push_back(scope.one_of<RoutingScope>({{"Region", RoutingScope::kRegion},
                                                                         {"Zone", RoutingScope::kZone},
                                                                         {"Subzone", RoutingScope::kSubzone},
                                                                         {"Node", RoutingScope::kNode},
                                                                         {"Cluster", RoutingScope::kCluster},
                                                                         {"Network", RoutingScope::kNetwork}}));
  map.finish();
  return balancing;
}

WeightedWaypoint weighted_waypoint(const Value& value) {
  Map map(value);
  WeightedWaypoint waypoint{gateway(map.require("destination")), map.require("weight").number(UINT32_MAX)};
  map.finish();
  return waypoint;
}

Ref<Service> service(const Value& value) {
  Map map(value);
  auto service = make_ref<Service>();
  service->ns = map.require("namespace").required_text();
  service->hostname = map.require("hostname").required_text();
  service->name = text_or(map.take("name"), "");
  if (const auto vips = map.take("vips"))
    for (const Value& vip : vips->list()) service->vips.push_back(network_address(vip));
  if (const auto blocks = map.take("cidrVips"))
    for (const Value& block : blocks->list()) service->cidr_vips.push_back(network_cidr(block));
  if (const auto ports = map.take("ports")) service->ports = port_map(*ports);
  if (const auto names = map.take("subjectAltNames"))
    for (const Value& name : names->list()) service->subject_alt_names.emplace_back(name.required_text());
  if (const auto waypoint = map.take("waypoint")) service->waypoint = gateway(*waypoint);
  if (const auto waypoints = map.take("weightedWaypoints"))
    for (const Value& waypoint : waypoints->list()) service->weighted_waypoints.push_back(weighted_waypoint(waypoint));
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
  if (const auto endpoints = map.take("endpoints"); endpoints && !endpoints->is_empty())
    endpoints->refuse("endpoints come from the `services` of the workloads, they are not listed here");
  map.finish();
  return service;
}

// Two resources of one name: the second is the mistake.
void once(std::unordered_set<std::string>& names, const std::string& name, const Value& value) {
  if (!names.insert(name).second) value.refuse(fmt::format("\"{}\" is there twice", name));
}

LocalConfig read(const Value& document) {
  // Most likely a file that somebody is about to fill: taking it for an empty mesh would drop everything.
  if (document.is_null()) document.refuse("nothing in it (an empty configuration is written {})");
  LocalConfig config;
  Map map(document);
  std::unordered_set<std::string> addresses, policies;
  if (const auto list = map.take("workloads")) {
    for (const Value& item : list->list()) {
      config.workloads.push_back(workload(item));
      once(addresses, config.workloads.back()->uid.str(), item);
    }
  }
  if (const auto list = map.take("services")) {
    for (const Value& item : list->list()) {
      config.services.push_back(service(item));
      once(addresses, NamespacedHostname{config.services.back()->ns, config.services.back()->hostname}.to_string(), item);
    }
  }
  if (const auto list = map.take("policies")) {
    for (const Value& item : list->list()) {
      config.policies.push_back(yaml::policy(item));
      once(policies, config.policies.back()->key.str(), item);
    }
  }
  map.finish();
  return config;
}

std::unexpected<Error> refused(std::string_view file_name, const YAML::Mark& mark, std::string_view why) {
  // Marks count from 0; the one of nothing at all is -1.
  return fail(Reason::kInvalidInput,
              fmt::format("{}:{}:{}: {}", file_name, std::max(mark.line, 0) + 1, std::max(mark.column, 0) + 1, why));
}

}  // namespace

Result<LocalConfig> parse_local_config(std::string_view text, std::string_view file_name) {
  try {
    return read(Value(yaml::load(text)));
  } catch (const yaml::Refusal& refusal) {
    return refused(file_name, refusal.mark, refusal.text);
  } catch (const YAML::Exception& error) {
    return refused(file_name, error.mark, error.msg);
  }
}

Result<std::string> read_local_config(const std::string& path) {
  // Not blocking: a FIFO put there by mistake must not hang us.
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return fail_errno(Reason::kInvalidInput, "cannot open " + path);
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) return fail_errno(Reason::kInvalidInput, "cannot stat " + path);
  if (!S_ISREG(status.st_mode)) return fail(Reason::kInvalidInput, path + " is not a regular file");
  std::string content;
  char buffer[65536];
  while (true) {
    const ssize_t got = ::read(fd.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(Reason::kInvalidInput, "cannot read " + path);
    if (got == 0) return content;
    content.append(buffer, static_cast<size_t>(got));
    if (content.size() > yaml::kMaxBytes)
      return fail(Reason::kInvalidInput, fmt::format("{} is larger than {} bytes", path, yaml::kMaxBytes));
  }
}

Result<LocalConfig> load_local_config(const std::string& path) {
  ZT_ASSIGN(const std::string content, read_local_config(path));
  return parse_local_config(content, path);
}

}  // namespace zt::workload_api
