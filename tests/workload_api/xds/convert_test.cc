// Single resources: what is refused with which words, what is let pass, and what is filled in (contract §6.8,
// §6.9, §5.4).
#include <functional>

#include "tests/workload_api/xds/support.h"

namespace zt::workload_api::test {
namespace {

namespace wl = istio::workload;
namespace sec = istio::security;

std::string why_refused(const google::protobuf::Message& content, Push push = addresses()) {
  const DeltaResponse response = push.add("name", content).decoded();
  if (response.rejected.empty()) return "";
  CHECK(response.accepted.empty());
  CHECK(response.rejected[0].name == "name");
  return response.rejected[0].why;
}

Ref<Workload> workload_of(const wl::Address& address) {
  DeltaResponse response = addresses().add("name", address).decoded();
  REQUIRE(response.batch.workloads.size() == 1);
  return response.batch.workloads[0];
}
Ref<Service> service_of(const wl::Address& address) {
  DeltaResponse response = addresses().add("name", address).decoded();
  REQUIRE(response.batch.services.size() == 1);
  return response.batch.services[0];
}
Ref<Authorization> policy_of(const sec::Authorization& policy) {
  DeltaResponse response = policies().add("shop/p", policy).decoded();
  REQUIRE(response.batch.policies.size() == 1);
  return response.batch.policies[0];
}
const PolicyMatch& match_of(const Ref<Authorization>& policy) { return policy->rules.at(0).at(0).at(0); }

}  // namespace

TEST_CASE("Malformed workloads are refused with the peer's words") {
  using Change = std::function<void(wl::Workload&)>;
  const auto [what, change, why] = GENERATE(table<std::string, Change, std::string>({
      {"no address bytes", [](auto& w) { w.add_addresses(""); }, "failed to parse address, had 0 bytes"},
      {"17 address bytes", [](auto& w) { w.add_addresses(std::string(17, 'a')); }, "failed to parse address, had 17 bytes"},
      {"more addresses than anything has",
       [](auto& w) {
         for (size_t i = 0; i < kMaxWorkloadAddresses; ++i) w.add_addresses("abcd");
       },
       std::to_string(kMaxWorkloadAddresses + 1) + " addresses, more than " + std::to_string(kMaxWorkloadAddresses)},
      {"legacy tunnel", [](auto& w) { w.set_tunnel_protocol(wl::LEGACY_ISTIO_MTLS); },
       "unknown enum: unsupported tunnel protocol: legacy istio mtls"},
      {"tunnel -1", [](auto& w) { w.set_tunnel_protocol(static_cast<wl::TunnelProtocol>(-1)); },
       "decode error: unknown enumeration value -1"},
      {"status 2", [](auto& w) { w.set_status(static_cast<wl::WorkloadStatus>(2)); },
       "decode error: unknown enumeration value 2"},
      {"network mode 7", [](auto& w) { w.set_network_mode(static_cast<wl::NetworkMode>(7)); },
       "decode error: unknown enumeration value 7"},
      {"application tunnel 3",
       [](auto& w) { w.mutable_application_tunnel()->set_protocol(static_cast<wl::ApplicationTunnel_Protocol>(3)); },
       "decode error: unknown enumeration value 3"},
      {"service without namespace", [](auto& w) { (*w.mutable_services())["noslash"]; },
       "failed to parse namespaced hostname: noslash"},
      {"gateway without destination", [](auto& w) { w.mutable_network_gateway(); },
       "nonempty gateway address is missing address"},
      {"waypoint with a bad address", [](auto& w) { w.mutable_waypoint()->mutable_address()->set_address("abc"); },
       "failed to parse address, had 3 bytes"},
  }));
  INFO(what);
  wl::Address address = pod("uid");
  change(*address.mutable_workload());
  CHECK(why_refused(address) == why);
}

TEST_CASE("Malformed services are refused with the peer's words") {
  using Change = std::function<void(wl::Service&)>;
  const auto [what, change, why] = GENERATE(table<std::string, Change, std::string>({
      {"a block longer than the address",
       [](auto& s) {
         s.add_addresses()->set_address("abcd");
         s.mutable_addresses(0)->set_length(33);
       },
       "invalid cidr: invalid IP prefix length"},
      {"a mapped block shorter than the mapping",
       [](auto& s) {
         s.add_addresses()->set_address(std::string("\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\0", 16));
         s.mutable_addresses(0)->set_length(95);
       },
       "invalid cidr: invalid IP prefix length"},
      {"scope 7", [](auto& s) { s.mutable_load_balancing()->add_routing_preference(static_cast<wl::LoadBalancing_Scope>(7)); },
       "decode error: unknown enumeration value 7"},
      {"mode -2", [](auto& s) { s.mutable_load_balancing()->set_mode(static_cast<wl::LoadBalancing_Mode>(-2)); },
       "decode error: unknown enumeration value -2"},
      {"health policy 2",
       [](auto& s) { s.mutable_load_balancing()->set_health_policy(static_cast<wl::LoadBalancing_HealthPolicy>(2)); },
       "decode error: unknown enumeration value 2"},
      {"waypoint without destination", [](auto& s) { s.mutable_waypoint(); }, "nonempty gateway address is missing address"},
  }));
  INFO(what);
  wl::Address address = service("web.example");
  change(*address.mutable_service());
  CHECK(why_refused(address) == why);
}

TEST_CASE("Resources that say nothing are refused") {
  CHECK(why_refused(wl::Address()) == "unknown address type");
  discovery::DeltaDiscoveryResponse message;
  message.set_type_url(std::string(kAddressTypeUrl));
  message.add_resources()->set_name("empty");
  const DeltaResponse response = must(decode_response(message.SerializeAsString()));
  REQUIRE(response.rejected.size() == 1);
  CHECK(response.rejected[0].why == "missing resource");
}

TEST_CASE("Defaults that xDS elides are filled in") {
  const auto workload = workload_of(pod("uid"));
  CHECK(workload->trust_domain == "cluster.local");
  CHECK(workload->service_account == "default");
  CHECK(workload->cluster_id == "Kubernetes");
  CHECK(workload->capacity == 1);
  CHECK(workload->protocol == TunnelProtocol::kNone);

  wl::Address none = pod("uid");
  none.mutable_workload()->mutable_capacity()->set_value(0);
  CHECK(workload_of(none)->capacity == 0);
}

TEST_CASE("Every field of a workload arrives") {
  wl::Address address = pod("uid", std::string(15, '\0') + "\1");
  wl::Workload& from = *address.mutable_workload();
  from.set_hostname("vm.example");
  from.set_network("net1");
  from.set_tunnel_protocol(wl::HBONE);
  from.set_trust_domain("td");
  from.set_service_account("sa");
  from.set_node("node-a");
  from.set_canonical_name("cn");
  from.set_canonical_revision("v7");
  from.set_workload_type(wl::JOB);
  from.set_workload_name("wn");
  from.set_native_tunnel(true);
  from.set_cluster_id("c2");
  from.set_status(wl::UNHEALTHY);
  from.set_network_mode(wl::HOST_NETWORK);
  from.add_authorization_policies("shop/p");
  from.mutable_locality()->set_region("r");
  from.mutable_locality()->set_zone("z");
  from.mutable_locality()->set_subzone("s");
  from.mutable_application_tunnel()->set_protocol(wl::ApplicationTunnel::PROXY);
  from.mutable_application_tunnel()->set_port(15088);
  from.mutable_waypoint()->mutable_hostname()->set_namespace_("shop");
  from.mutable_waypoint()->mutable_hostname()->set_hostname("wp.example");
  from.mutable_waypoint()->set_hbone_mtls_port(15008);
  from.mutable_network_gateway()->mutable_address()->set_network("net1");
  from.mutable_network_gateway()->mutable_address()->set_address("\x0a\x01\x02\x03");
  auto& port = *(*from.mutable_services())["shop/web.example"].add_ports();
  port.set_service_port(80);
  port.set_target_port(70000);  // the lower 16 bits count

  const auto to = workload_of(address);
  CHECK(to->uid == "uid");
  CHECK(to->ns == "shop");
  CHECK(std::ranges::equal(to->addresses, std::vector{*IpAddress::parse("::1")}));
  CHECK(to->hostname == "vm.example");
  CHECK(to->network == "net1");
  CHECK(to->protocol == TunnelProtocol::kHbone);
  CHECK(to->trust_domain == "td");
  CHECK(to->service_account == "sa");
  CHECK(to->node == "node-a");
  CHECK(to->canonical_name == "cn");
  CHECK(to->canonical_revision == "v7");
  CHECK(to->type == WorkloadType::kJob);
  CHECK(to->workload_name == "wn");
  CHECK(to->native_tunnel);
  CHECK(to->cluster_id == "c2");
  CHECK(to->status == WorkloadStatus::kUnhealthy);
  CHECK(to->network_mode == NetworkMode::kHostNetwork);
  CHECK(to->authorization_policies == NameList{"shop/p"});
  CHECK(to->locality == Locality{"r", "z", "s"});
  CHECK(to->application_tunnel == ApplicationTunnel{ApplicationTunnel::Protocol::kProxy, 15088});
  REQUIRE(to->waypoint);
  CHECK(to->waypoint->destination_text() == "shop/wp.example");
  CHECK(to->waypoint->hbone_mtls_port == 15008);
  REQUIRE(to->network_gateway);
  CHECK(to->network_gateway->destination_text() == "net1/10.1.2.3");
  REQUIRE(to->services.size() == 1);
  CHECK(to->services[0].service == "shop/web.example");
  CHECK(to->services[0].ports.find(80) == 4464);
}

TEST_CASE("Every field of a service arrives") {
  wl::Address address = service("*.example");
  wl::Service& from = *address.mutable_service();
  from.set_canonical(true);
  from.set_visibility(wl::Service::NAMESPACE);
  from.set_ip_families(wl::DUAL);
  from.add_subject_alt_names("spiffe://td/ns/a/sa/b");
  auto& exact = *from.add_addresses();
  exact.set_network("net1");
  exact.set_address("\x0a\x01\x02\x03");
  auto& full = *from.add_addresses();
  full.set_address("\x0a\x01\x02\x04");
  full.set_length(32);
  auto& block = *from.add_addresses();
  block.set_address(std::string("\x0a\x02\x00\x00", 4));
  block.set_length(16);
  auto& mapped = *from.add_addresses();
  mapped.set_address(std::string("\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\3\0\0", 16));
  mapped.set_length(112);
  auto& port = *from.add_ports();
  port.set_service_port(443);
  auto& balancing = *from.mutable_load_balancing();
  balancing.add_routing_preference(wl::LoadBalancing::REGION);
  balancing.add_routing_preference(wl::LoadBalancing::NETWORK);
  balancing.set_mode(wl::LoadBalancing::FAILOVER);
  balancing.set_health_policy(wl::LoadBalancing::ALLOW_ALL);
  auto& weighted = *from.add_weighted_waypoints();
  weighted.set_weight(3);
  weighted.mutable_destination()->mutable_hostname()->set_namespace_("shop");
  weighted.mutable_destination()->mutable_hostname()->set_hostname("wp.example");

  const auto to = service_of(address);
  CHECK(to->hostname == "*.example");
  CHECK(to->canonical);
  CHECK(to->visibility == Visibility::kNamespace);
  CHECK(to->ip_families == IpFamilies::kDual);
  CHECK(to->subject_alt_names == std::vector<Str>{"spiffe://td/ns/a/sa/b"});
  REQUIRE(to->vips.size() == 2);
  CHECK(to->vips[0].to_string() == "net1/10.1.2.3");
  CHECK(to->vips[1].to_string() == "/10.1.2.4");
  REQUIRE(to->cidr_vips.size() == 2);
  CHECK(to->cidr_vips[0].to_string() == "/10.2.0.0/16");
  CHECK(to->cidr_vips[1].to_string() == "/10.3.0.0/16");
  CHECK(to->ports.find(443) == 0);  // named
  REQUIRE(to->load_balancing);
  CHECK(to->load_balancing->routing_preference == std::vector{RoutingScope::kRegion, RoutingScope::kNetwork});
  CHECK(to->load_balancing->mode == LoadBalancingMode::kFailover);
  CHECK(to->load_balancing->health_policy == HealthPolicy::kAllowAll);
  REQUIRE(to->weighted_waypoints.size() == 1);
  CHECK(to->weighted_waypoints[0].weight == 3);
  CHECK(to->weighted_waypoints[0].destination.destination_text() == "shop/wp.example");
}

TEST_CASE("Every field of a policy arrives, under its resource's name") {
  sec::Authorization from = policy("p");
  from.set_action(sec::DENY);
  from.set_scope(sec::WORKLOAD_SELECTOR);
  from.set_dry_run(true);
  auto& match = *from.add_rules()->add_clauses()->add_matches();
  match.add_namespaces()->set_exact("a");
  match.add_not_namespaces()->set_prefix("b");
  match.add_principals()->set_suffix("c");
  match.add_not_principals()->mutable_presence();
  match.add_service_accounts()->set_serviceaccount("sa");
  match.add_not_service_accounts()->set_namespace_("ns");
  auto& source = *match.add_source_ips();
  source.set_address(std::string("\x0a\x00\x00\x00", 4));
  source.set_length(8);
  auto& other = *match.add_not_destination_ips();
  other.set_address(std::string(16, '\0'));
  other.set_length(0);
  match.add_destination_ports(80);
  match.add_not_destination_ports(65536 + 81);

  const auto to = policy_of(from);
  CHECK(to->key == "shop/p");
  CHECK(to->name == "p");
  CHECK(to->ns == "shop");
  CHECK(to->action == PolicyAction::kDeny);
  CHECK(to->scope == PolicyScope::kWorkloadSelector);
  CHECK(to->dry_run);
  const PolicyMatch& out = match_of(to);
  CHECK(out.namespaces == std::vector<StringMatch>{{StringMatch::Kind::kExact, "a"}});
  CHECK(out.not_namespaces == std::vector<StringMatch>{{StringMatch::Kind::kPrefix, "b"}});
  CHECK(out.principals == std::vector<StringMatch>{{StringMatch::Kind::kSuffix, "c"}});
  CHECK(out.not_principals == std::vector<StringMatch>{{StringMatch::Kind::kPresence, {}}});
  CHECK(out.service_accounts == std::vector<ServiceAccountMatch>{{"", "sa"}});
  CHECK(out.not_service_accounts == std::vector<ServiceAccountMatch>{{"ns", ""}});
  CHECK(out.source_ips == std::vector{*Cidr::parse("10.0.0.0/8")});
  CHECK(out.not_destination_ips == std::vector{*Cidr::parse("::/0")});
  CHECK(out.destination_ports == std::vector<uint16_t>{80});
  CHECK(out.not_destination_ports == std::vector<uint16_t>{81});
}

TEST_CASE("Malformed parts of a match are dropped, and an unknown scope or action refuses the policy") {
  sec::Authorization from = policy("p");
  auto& match = *from.add_rules()->add_clauses()->add_matches();
  match.add_principals();
  auto& address = *match.add_source_ips();
  address.set_address("abcd");
  address.set_length(33);
  match.add_destination_ips()->set_address("abc");
  CHECK(match_of(policy_of(from)) == PolicyMatch{});

  from.set_scope(static_cast<sec::Scope>(3));
  CHECK(why_refused(from, policies()) == "decode error: unknown enumeration value 3");
  from.set_scope(sec::GLOBAL);
  from.set_action(static_cast<sec::Action>(2));
  CHECK(why_refused(from, policies()) == "decode error: unknown enumeration value 2");
}

}  // namespace zt::workload_api::test
