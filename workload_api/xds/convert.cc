#include "workload_api/xds/convert.h"

#include <fmt/format.h>

#include <utility>

#include "workload_api/store/store.h"
#include "workload_api/xds/convert_common.h"
#include "workload_api/xds/proto/workload.pb.h"

namespace zt::workload_api {
namespace {

namespace pb = istio::workload;

constexpr std::string_view kDefaultTrustDomain = "cluster.local";
constexpr std::string_view kDefaultServiceAccount = "default";
constexpr std::string_view kDefaultCluster = "Kubernetes";

Result<TunnelProtocol> tunnel_protocol(int number) {
  switch (number) {
    case pb::NONE: return TunnelProtocol::kNone;
    case pb::HBONE: return TunnelProtocol::kHbone;
    case pb::LEGACY_ISTIO_MTLS: return refuse("unknown enum: unsupported tunnel protocol: legacy istio mtls");
    default: return unknown_enum(number);
  }
}

// The one enum whose unknown values are let pass (contract §6.8).
WorkloadType workload_type(int number) {
  switch (number) {
    case pb::CRONJOB: return WorkloadType::kCronJob;
    case pb::POD: return WorkloadType::kPod;
    case pb::JOB: return WorkloadType::kJob;
    default: return WorkloadType::kDeployment;
  }
}

// For enums of ours that number their values as the message does, from 0 on.
template <class Enum>
Result<Enum> same_number(int number, Enum last) {
  if (number < 0 || number > static_cast<int>(last)) return unknown_enum(number);
  return static_cast<Enum>(number);
}

}  // namespace

template <class Ports>
PortMap Converter::ports(const Ports& messages) {
  std::vector<PortMap::Pair> pairs;
  pairs.reserve(static_cast<size_t>(messages.size()));
  for (const pb::Port& port : messages) pairs.emplace_back(port_of(port.service_port()), port_of(port.target_port()));
  PortMap map{std::span<const PortMap::Pair>(pairs)};
  interner_.intern(map);
  return map;
}

Result<GatewayAddress> Converter::gateway(const pb::GatewayAddress& message) {
  GatewayAddress gateway;
  gateway.hbone_mtls_port = port_of(message.hbone_mtls_port());
  switch (message.destination_case()) {
    case pb::GatewayAddress::kHostname:
      gateway.destination = NamespacedHostname{text(message.hostname().namespace_()), text(message.hostname().hostname())};
      return gateway;
    case pb::GatewayAddress::kAddress: {
      ZT_ASSIGN(const IpAddress ip, address_of(message.address().address()));
      gateway.destination = NetworkAddress{text(message.address().network()), ip};
      return gateway;
    }
    case pb::GatewayAddress::DESTINATION_NOT_SET: break;
  }
  return refuse("nonempty gateway address is missing address");
}

Result<Ref<Workload>> Converter::workload(const pb::Workload& message) {
  auto out = make_ref<Workload>();
  Workload& workload = *out;

  if (static_cast<size_t>(message.addresses_size()) > kMaxWorkloadAddresses)
    return refuse(fmt::format("{} addresses, more than {}", message.addresses_size(), kMaxWorkloadAddresses));
  workload.addresses.reserve(static_cast<size_t>(message.addresses_size()));
  for (const std::string& bytes : message.addresses()) {
    ZT_ASSIGN(const IpAddress ip, address_of(bytes));
    workload.addresses.push_back(ip);
  }
  if (message.has_waypoint()) {
    ZT_ASSIGN(workload.waypoint, gateway(message.waypoint()));
  }
  if (message.has_network_gateway()) {
    ZT_ASSIGN(workload.network_gateway, gateway(message.network_gateway()));
  }
  ZT_ASSIGN(workload.protocol, tunnel_protocol(message.tunnel_protocol()));
  if (message.has_application_tunnel()) {
    const auto& tunnel = message.application_tunnel();
    ZT_ASSIGN(const auto protocol, same_number(tunnel.protocol(), ApplicationTunnel::Protocol::kProxy));
    workload.application_tunnel = ApplicationTunnel{protocol, port_of(tunnel.port())};
  }
  ZT_ASSIGN(workload.status, same_number(message.status(), WorkloadStatus::kUnhealthy));
  ZT_ASSIGN(workload.network_mode, same_number(message.network_mode(), NetworkMode::kHostNetwork));
  workload.services.reserve(message.services().size());
  for (const auto& [key, ports_of_service] : message.services()) {
    if (key.find('/') == std::string::npos) return refuse("failed to parse namespaced hostname: " + key);
    workload.services.push_back({text(key), ports(ports_of_service.ports())});
  }

  workload.uid = message.uid();
  workload.name = message.name();
  workload.ns = text(message.namespace_());
  workload.hostname = message.hostname();
  workload.network = text(message.network());
  workload.trust_domain = text_or(message.trust_domain(), kDefaultTrustDomain);
  workload.service_account = text_or(message.service_account(), kDefaultServiceAccount);
  workload.node = text(message.node());
  workload.canonical_name = text(message.canonical_name());
  workload.canonical_revision = text(message.canonical_revision());
  workload.workload_name = text(message.workload_name());
  workload.cluster_id = text_or(message.cluster_id(), kDefaultCluster);
  workload.locality = {message.locality().region(), message.locality().zone(), message.locality().subzone()};
  workload.authorization_policies = NameList(message.authorization_policies().begin(), message.authorization_policies().end());
  workload.type = workload_type(message.workload_type());
  workload.native_tunnel = message.native_tunnel();
  workload.capacity = message.has_capacity() ? message.capacity().value() : 1;
  return out;
}

Result<> Converter::load_balancing(const pb::Service& message, Service& service) {
  if (!message.has_load_balancing()) return {};
  const pb::LoadBalancing& from = message.load_balancing();
  LoadBalancing balancing;
  for (const int scope : from.routing_preference()) {
    if (scope == pb::LoadBalancing::UNSPECIFIED_SCOPE) return refuse("unknown enum: invalid target");
    ZT_ASSIGN(const auto known, same_number(scope, RoutingScope::kNetwork));
    balancing.routing_preference.push_back(known);
  }
  ZT_ASSIGN(balancing.mode, same_number(from.mode(), LoadBalancingMode::kPassthrough));
  ZT_ASSIGN(balancing.health_policy, same_number(from.health_policy(), HealthPolicy::kAllowAll));
  service.load_balancing = std::move(balancing);
  return {};
}

Result<Ref<Service>> Converter::service(const pb::Service& message) {
  auto out = make_ref<Service>();
  Service& service = *out;

  for (const pb::NetworkAddress& address : message.addresses()) {
    ZT_ASSIGN(const IpAddress ip, address_of(address.address()));
    Str network = text(address.network());
    if (!address.has_length() || address.length() == address.address().size() * 8) {
      service.vips.push_back({std::move(network), ip});
      continue;
    }
    const auto block = block_of(address.address(), address.length());
    if (!block) return refuse("invalid cidr: invalid IP prefix length");
    service.cidr_vips.push_back({std::move(network), *block});
  }
  if (message.has_waypoint()) {
    ZT_ASSIGN(service.waypoint, gateway(message.waypoint()));
  }
  ZT_TRY(load_balancing(message, service));
  ZT_ASSIGN(service.ip_families, same_number(message.ip_families(), IpFamilies::kDual));
  for (const pb::WeightedWaypoint& waypoint : message.weighted_waypoints()) {
    ZT_ASSIGN(GatewayAddress destination, gateway(waypoint.destination()));
    service.weighted_waypoints.push_back({std::move(destination), waypoint.weight()});
  }
  service.visibility = message.visibility() == pb::Service::NAMESPACE ? Visibility::kNamespace : Visibility::kPublic;

  service.name = text(message.name());
  service.ns = text(message.namespace_());
  service.hostname = message.hostname();
  service.ports = ports(message.ports());
  for (const std::string& san : message.subject_alt_names()) service.subject_alt_names.push_back(text(san));
  service.canonical = message.canonical();
  return out;
}

}  // namespace zt::workload_api
