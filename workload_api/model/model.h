#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <absl/container/inlined_vector.h>

#include "base/address.h"
#include "workload_api/model/locality.h"
#include "workload_api/model/name_list.h"
#include "workload_api/model/port_map.h"
#include "workload_api/model/ref.h"
#include "workload_api/model/str.h"

// What the control plane (or a local file) says, as plain data: contract §6.8 and §6.9. The producers (xDS
// client, YAML source) have already refused what is malformed and filled the defaults that xDS elides (trust
// domain `cluster.local`, service account `default`, cluster `Kubernetes`, capacity 1). Objects are filled by
// one thread, given to Store::apply, and immutable from then on.
namespace zt::workload_api {

// Optional value behind a pointer: 8 bytes where most objects have none. Compares and copies by value.
template <class T>
class Box {
 public:
  Box() = default;
  Box(T value) : value_(std::make_unique<T>(std::move(value))) {}
  Box(const Box& other) : value_(other.value_ ? std::make_unique<T>(*other.value_) : nullptr) {}
  Box(Box&&) noexcept = default;
  Box& operator=(Box other) noexcept {
    value_ = std::move(other.value_);
    return *this;
  }
  ~Box() = default;
  explicit operator bool() const { return value_ != nullptr; }
  T* get() { return value_.get(); }
  const T* get() const { return value_.get(); }
  T& operator*() { return *value_; }
  const T& operator*() const { return *value_; }
  const T* operator->() const { return value_.get(); }
  friend bool operator==(const Box& a, const Box& b) {
    return a.value_ && b.value_ ? *a.value_ == *b.value_ : !a.value_ && !b.value_;
  }

 private:
  std::unique_ptr<T> value_;
};

struct NetworkAddress {
  Str network;  // "" = the default network
  IpAddress ip;
  [[nodiscard]] std::string to_string() const;  // "network/ip"
  friend bool operator==(const NetworkAddress&, const NetworkAddress&) = default;
};

struct NetworkCidr {
  Str network;
  Cidr cidr;
  [[nodiscard]] std::string to_string() const;  // "network/base/length"
  friend bool operator==(const NetworkCidr&, const NetworkCidr&) = default;
};

struct NamespacedHostname {
  Str ns;
  Str hostname;
  [[nodiscard]] std::string to_string() const;  // "namespace/hostname"
  friend bool operator==(const NamespacedHostname&, const NamespacedHostname&) = default;
};

// Where a waypoint or a network gateway is found.
struct GatewayAddress {
  std::variant<NamespacedHostname, NetworkAddress> destination;
  uint16_t hbone_mtls_port = 0;
  [[nodiscard]] std::string destination_text() const;  // "namespace/hostname" or "network/ip"
  friend bool operator==(const GatewayAddress&, const GatewayAddress&) = default;
};

// ---- Workload
// -------------------------------------------------------------------------------------------------------------

enum class TunnelProtocol : uint8_t { kNone, kHbone };
enum class NetworkMode : uint8_t { kStandard, kHostNetwork };  // host-network workloads share an address: not found by it
enum class WorkloadStatus : uint8_t { kHealthy, kUnhealthy };
enum class WorkloadType : uint8_t { kDeployment, kCronJob, kPod, kJob };

// The workload is a proxy that takes tunnelled traffic on a port of its own (a waypoint that is itself
// captured, "sandwich").
struct ApplicationTunnel {
  enum class Protocol : uint8_t { kNone, kProxy };
  Protocol protocol = Protocol::kNone;
  uint16_t port = 0;  // 0 = the port asked for
  friend bool operator==(const ApplicationTunnel&, const ApplicationTunnel&) = default;
};

// One entry of Workload.services: this workload is an endpoint of that service.
struct ServiceMembership {
  Str service;    // "namespace/hostname"
  PortMap ports;  // service port → port of this workload; may be empty
  friend bool operator==(const ServiceMembership&, const ServiceMembership&) = default;
};

struct Workload : RefCounted {
  // What load balancing looks at comes first, in one cache line: a change of a service reads it of all its
  // endpoints.
  TunnelProtocol protocol = TunnelProtocol::kNone;
  NetworkMode network_mode = NetworkMode::kStandard;
  WorkloadStatus status = WorkloadStatus::kHealthy;
  WorkloadType type = WorkloadType::kDeployment;
  uint32_t capacity = 1;  // weight; 0 = never chosen
  std::optional<ApplicationTunnel> application_tunnel;
  bool native_tunnel = false;                   // terminates HBONE itself
  absl::InlinedVector<IpAddress, 1> addresses;  // nearly always one, which then costs no allocation
  Str hostname;                                 // resolved at connect time if there is no address
  Box<GatewayAddress> network_gateway;

  Str network;
  Str node;
  Str cluster_id;
  Locality locality;

  Str uid;   // xDS name, unique
  Str name;  // pod name
  Str ns;
  Str trust_domain;
  Str service_account;
  Str canonical_name;
  Str canonical_revision;
  Str workload_name;
  absl::InlinedVector<ServiceMembership, 1> services;
  NameList authorization_policies;  // "namespace/name" of the selector policies that apply to it
  Box<GatewayAddress> waypoint;

  // Filled by the store: "spiffe://<trust domain>/ns/<namespace>/sa/<service account>".
  Str identity;

  [[nodiscard]] const ServiceMembership* membership(std::string_view service_key) const;
  [[nodiscard]] bool has_address(const IpAddress& ip) const;
  friend bool operator==(const Workload&, const Workload&) = default;
};
using WorkloadPtr = Ref<const Workload>;  // may outlive the snapshot it was found in

// Brings into one form what means the same: the order of `services` means nothing, nor does a second mention of a service or an
// address. Two workloads that say the same are then equal.
void canonicalize(Workload& workload);

// ---- Service
// --------------------------------------------------------------------------------------------------------------

enum class RoutingScope : uint8_t { kRegion = 1, kZone, kSubzone, kNode, kCluster, kNetwork };
enum class LoadBalancingMode : uint8_t { kUnspecified, kStrict, kFailover, kPassthrough };
enum class HealthPolicy : uint8_t { kOnlyHealthy, kAllowAll };
enum class IpFamilies : uint8_t { kAutomatic, kIpv4Only, kIpv6Only, kDual };
enum class Visibility : uint8_t { kPublic, kNamespace };

struct LoadBalancing {
  std::vector<RoutingScope> routing_preference;  // most important first
  LoadBalancingMode mode = LoadBalancingMode::kUnspecified;
  HealthPolicy health_policy = HealthPolicy::kOnlyHealthy;
  friend bool operator==(const LoadBalancing&, const LoadBalancing&) = default;
};

struct WeightedWaypoint {
  GatewayAddress destination;
  uint32_t weight = 0;
  friend bool operator==(const WeightedWaypoint&, const WeightedWaypoint&) = default;
};

struct Service : RefCounted {
  Str name;
  Str ns;
  Str hostname;  // may be a wildcard, "*.example.com"
  std::vector<NetworkAddress> vips;
  std::vector<NetworkCidr> cidr_vips;
  PortMap ports;
  std::vector<Str> subject_alt_names;  // SPIFFE ids its endpoints may show besides their own
  Box<GatewayAddress> waypoint;
  std::vector<WeightedWaypoint> weighted_waypoints;
  std::optional<LoadBalancing> load_balancing;
  IpFamilies ip_families = IpFamilies::kAutomatic;
  Visibility visibility = Visibility::kPublic;
  bool canonical = false;

  // Filled by the store: xDS name, "namespace/hostname".
  Str key;

  [[nodiscard]] LoadBalancingMode mode() const { return load_balancing ? load_balancing->mode : LoadBalancingMode::kUnspecified; }
  [[nodiscard]] bool passthrough() const { return mode() == LoadBalancingMode::kPassthrough; }
  [[nodiscard]] HealthPolicy health_policy() const {
    return load_balancing ? load_balancing->health_policy : HealthPolicy::kOnlyHealthy;
  }
  friend bool operator==(const Service&, const Service&) = default;
};

// ---- Authorization
// --------------------------------------------------------------------------------------------------------

enum class PolicyScope : uint8_t { kGlobal, kNamespace, kWorkloadSelector };
enum class PolicyAction : uint8_t { kAllow, kDeny };

struct StringMatch {
  enum class Kind : uint8_t { kExact, kPrefix, kSuffix, kPresence };
  Kind kind = Kind::kExact;
  Str value;  // unused for kPresence
  friend bool operator==(const StringMatch&, const StringMatch&) = default;
};

struct ServiceAccountMatch {
  Str ns;
  Str service_account;
  friend bool operator==(const ServiceAccountMatch&, const ServiceAccountMatch&) = default;
};

// AND over the fields that are not empty, OR inside a field, "none of" for the not_ fields; wholly empty =
// never (§5.3).
struct PolicyMatch {
  std::vector<StringMatch> namespaces, not_namespaces;
  std::vector<ServiceAccountMatch> service_accounts, not_service_accounts;
  std::vector<StringMatch> principals, not_principals;  // against "td/ns/NS/sa/SA"
  std::vector<Cidr> source_ips, not_source_ips;
  std::vector<Cidr> destination_ips, not_destination_ips;
  std::vector<uint16_t> destination_ports, not_destination_ports;
  friend bool operator==(const PolicyMatch&, const PolicyMatch&) = default;
};
using PolicyClause = std::vector<PolicyMatch>;  // OR; empty = always
using PolicyRule = std::vector<PolicyClause>;   // AND; empty = always

struct Authorization : RefCounted {
  Str name;
  Str ns;
  PolicyScope scope = PolicyScope::kGlobal;
  PolicyAction action = PolicyAction::kAllow;
  bool dry_run = false;
  std::vector<PolicyRule> rules;  // OR; empty = never

  // Filled by the store: xDS name. For policies from xDS it is the resource's name; a file's get
  // "namespace/name".
  Str key;
  friend bool operator==(const Authorization&, const Authorization&) = default;
};

}  // namespace zt::workload_api
