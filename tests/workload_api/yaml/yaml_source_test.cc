#include "workload_api/yaml/yaml_source.h"
#include "mesh/reason.h"

#include <fmt/format.h>

#include "base/yaml/reader.h"
#include "tests/workload_api/mesh.h"

namespace zt::workload_api {

TEST_CASE("A file with every key is read as it says") {
  const Batch batch = batch_of(R"(
workloads:
- name: cart-0
  uid: c1//Pod/shop/cart-0
  namespace: shop
  serviceAccount: cart
  trustDomain: td
  workloadIps: [10.244.3.7, "2001:db8::7"]
  protocol: HBONE
  networkMode: HostNetwork
  network: net1
  node: n1
  hostname: cart.example
  workloadName: cart
  workloadType: cronjob
  canonicalName: cart
  canonicalRevision: v2
  nativeTunnel: true
  applicationTunnel: {protocol: PROXY, port: 15088}
  authorizationPolicies: [shop/p, root/q]
  status: Unhealthy
  clusterId: c1
  locality: {region: r, zone: z, subzone: s}
  waypoint: {destination: shop/waypoint.shop.svc.cluster.local, hboneMtlsPort: 15009}
  networkGateway: {destination: net1/10.0.0.9}
  services: {shop/cart.shop.svc.cluster.local: {8443: 443, "80": 8080}, shop/bare: }
  capacity: 7
services:
- hostname: cart.shop.svc.cluster.local
  name: cart
  namespace: shop
  vips: [/10.96.7.7, "net1/2001:db8::1"]
  cidrVips: [{network: net1, cidr: 10.0.0.0/8}, "/192.0.2.0/24", "net2/2001:db8::/32"]
  ports: {8443: 443, 80: 0}
  subjectAltNames: ["spiffe://td/ns/a/sa/b"]
  waypoint: {destination: /10.0.0.8}
  weightedWaypoints: [{destination: {destination: shop/w, hboneMtlsPort: 15008}, weight: 10}]
  loadBalancer: {routingPreferences: [Network, Region, Zone, Subzone, Node, Cluster], mode: Failover, healthPolicy: AllowAll}
  ipFamilies: IPv6
  canonical: true
  visibility: Namespace
  endpoints: {}
policies:
- name: p
  namespace: shop
  scope: WorkloadSelector
  action: Allow
  dryRun: true
  rules:
  - - - namespaces: [{Exact: a}, {Prefix: b}, {Suffix: c}, {Presence: []}, !Exact d]
        notNamespaces: [{Exact: a}]
        principals: [{Exact: td/ns/a/sa/b}]
        notPrincipals: [{Presence: null}]
        serviceAccounts: [{namespace: a, serviceAccount: b}]
        notServiceAccounts: [{namespace: c, serviceAccount: d}]
        sourceIps: [10.0.0.0/8, "2001:db8::/32"]
        notSourceIps: [10.1.0.0/16]
        destinationIps: [192.0.2.1/32]
        notDestinationIps: [192.0.2.2]
        destinationPorts: [80, 443]
        notDestinationPorts: [22]
    - - {}
  - []
)");
  const Workload& workload = *batch.workloads.at(0);
  CHECK(workload.uid == "c1//Pod/shop/cart-0");
  CHECK(workload.name == "cart-0");
  CHECK(workload.ns == "shop");
  CHECK(workload.service_account == "cart");
  CHECK(workload.trust_domain == "td");
  CHECK(std::ranges::equal(workload.addresses, std::vector{ip("10.244.3.7"), ip("2001:db8::7")}));
  CHECK(workload.protocol == TunnelProtocol::kHbone);
  CHECK(workload.network_mode == NetworkMode::kHostNetwork);
  CHECK(workload.network == "net1");
  CHECK(workload.node == "n1");
  CHECK(workload.hostname == "cart.example");
  CHECK(workload.workload_name == "cart");
  CHECK(workload.type == WorkloadType::kCronJob);
  CHECK(workload.canonical_name == "cart");
  CHECK(workload.canonical_revision == "v2");
  CHECK(workload.native_tunnel);
  CHECK(workload.application_tunnel == ApplicationTunnel{ApplicationTunnel::Protocol::kProxy, 15088});
  CHECK(workload.authorization_policies == NameList{"shop/p", "root/q"});
  CHECK(workload.status == WorkloadStatus::kUnhealthy);
  CHECK(workload.cluster_id == "c1");
  CHECK(workload.locality == Locality{"r", "z", "s"});
  CHECK(*workload.waypoint == GatewayAddress{NamespacedHostname{"shop", "waypoint.shop.svc.cluster.local"}, 15009});
  CHECK(*workload.network_gateway == GatewayAddress{NetworkAddress{"net1", ip("10.0.0.9")}, 15008});
  CHECK(workload.membership("shop/cart.shop.svc.cluster.local")->ports == PortMap{{80, 8080}, {8443, 443}});
  CHECK(workload.membership("shop/bare")->ports.empty());
  CHECK(workload.capacity == 7);

  const Service& service = *batch.services.at(0);
  CHECK(service.name == "cart");
  CHECK(service.vips == std::vector<NetworkAddress>{{"", ip("10.96.7.7")}, {"net1", ip("2001:db8::1")}});
  REQUIRE(service.cidr_vips.size() == 3);
  CHECK(service.cidr_vips[0].to_string() == "net1/10.0.0.0/8");
  CHECK(service.cidr_vips[1].to_string() == "/192.0.2.0/24");
  CHECK(service.cidr_vips[2].to_string() == "net2/2001:db8::/32");
  CHECK(service.ports == PortMap{{80, 0}, {8443, 443}});
  CHECK(service.subject_alt_names == std::vector<Str>{"spiffe://td/ns/a/sa/b"});
  CHECK(*service.waypoint == GatewayAddress{NetworkAddress{"", ip("10.0.0.8")}, 15008});
  REQUIRE(service.weighted_waypoints.size() == 1);
  CHECK(service.weighted_waypoints[0].weight == 10);
  CHECK(service.load_balancing->routing_preference.size() == 6);
  CHECK(service.mode() == LoadBalancingMode::kFailover);
  CHECK(service.health_policy() == HealthPolicy::kAllowAll);
  CHECK(service.ip_families == IpFamilies::kIpv6Only);
  CHECK(service.canonical);
  CHECK(service.visibility == Visibility::kNamespace);

  const Authorization& policy = *batch.policies.at(0);
  CHECK(policy.key == "shop/p");
  CHECK(policy.scope == PolicyScope::kWorkloadSelector);
  CHECK(policy.action == PolicyAction::kAllow);
  CHECK(policy.dry_run);
  REQUIRE(policy.rules.size() == 2);
  REQUIRE(policy.rules[0].size() == 2);
  CHECK(policy.rules[1].empty());
  const PolicyMatch& match = policy.rules[0][0].at(0);
  REQUIRE(match.namespaces.size() == 5);
  CHECK(match.namespaces[3].kind == StringMatch::Kind::kPresence);
  CHECK(match.namespaces[4] == StringMatch{StringMatch::Kind::kExact, "d"});
  CHECK(match.not_principals[0].kind == StringMatch::Kind::kPresence);
  CHECK(match.service_accounts[0] == ServiceAccountMatch{"a", "b"});
  CHECK(match.source_ips.size() == 2);
  CHECK(match.not_destination_ips[0].prefix_length == 32);
  CHECK(match.destination_ports == std::vector<uint16_t>{80, 443});
  CHECK(policy.rules[0][1].at(0) == PolicyMatch{});
}

TEST_CASE("What is left out gets its default") {
  const Batch batch = batch_of("workloads: [{name: a, namespace: shop, workloadIps: [10.0.0.1]}]");
  const Workload& workload = *batch.workloads.at(0);
  CHECK(workload.uid == "local//shop/a");
  CHECK(workload.service_account == "default");
  CHECK(workload.trust_domain == "cluster.local");
  CHECK(workload.cluster_id == "Kubernetes");
  CHECK(workload.protocol == TunnelProtocol::kNone);
  CHECK(workload.status == WorkloadStatus::kHealthy);
  CHECK(workload.capacity == 1);
  CHECK(workload.services.empty());
  CHECK(batch_of("{}").workloads.empty());
  CHECK(batch_of("workloads: []\nservices:\npolicies: null").policies.empty());
}

TEST_CASE("A dumped workload can be pasted: JSON is YAML") {
  const Batch batch = batch_of(
      R"({"workloads": [{"canonicalName": "api", "canonicalRevision": "1.0", "capacity": 1, "clusterId": "Kubernetes",
    "locality": {"region": "r", "subzone": "", "zone": "z"}, "name": "api-1", "namespace": "pay", "networkMode": "Standard", "node": "node-b",
    "protocol": "HBONE", "serviceAccount": "api", "services": ["pay/api.pay.svc.cluster.local"], "status": "Healthy", "trustDomain": "cluster.local",
    "uid": "Kubernetes//Pod/pay/api-1", "waypoint": {"destination": "pay/wp.pay.svc.cluster.local", "hboneMtlsPort": 15008}, "workloadIps": ["10.240.2.30"],
    "workloadName": "api", "workloadType": "pod", "applicationTunnel": {"port": null, "protocol": "NONE"}}]})");
  CHECK(batch.workloads.at(0)->membership("pay/api.pay.svc.cluster.local") != nullptr);
  CHECK(batch.workloads.at(0)->application_tunnel == ApplicationTunnel{});
}

TEST_CASE("Mistakes are refused with their place, what is wrong and what would be right") {
  struct Row {
    const char* yaml;
    const char* error;
  };
  const Row rows[] = {
      {"", "f:1:1: nothing in it (an empty configuration is written {})"},
      {"# only a comment\n", "f:1:1: nothing in it (an empty configuration is written {})"},
      {"[]", "f:1:1: map expected"},
      {"workload: []", "f:1:1: workload: unknown key (known here: workloads, services, policies)"},
      {"workloads: {}", "f:1:12: workloads: list expected"},
      {"workloads: [null]", "f:1:13: workloads[0]: map expected"},
      {"workloads: []\nworkloads: []", "f:2:1: workloads: the key is there twice"},
      {"workloads:\n- {name: a, workloadIps: [10.0.0.1]}", "f:2:3: workloads[0]: \"namespace\" is missing"},
      {"workloads:\n- {namespace: a, workloadIps: [10.0.0.1]}", "f:2:3: workloads[0]: needs a uid or a name"},
      {"workloads:\n- {namespace: a, name: b}",
       "f:2:3: workloads[0]: \"workloadIps\" is missing (it may be empty only with a hostname or a "
       "networkGateway)"},
      {"workloads:\n- {namespace: '', name: b, workloadIps: []}", "f:2:15: workloads[0].namespace: must not be empty"},
      {"workloads:\n- {namespace: [a], name: b}", "f:2:15: workloads[0].namespace: text expected"},
      {"workloads:\n- namespace: a\n  name: b\n  workloadIps: [10.0.0.1, 10.0.0.256]",
       "f:4:27: workloads[0].workloadIps[1]: \"10.0.0.256\" is not an IP address"},
      {"workloads:\n- namespace: a\n  name: b\n  workloadIps: []\n  protocol: HBONEX",
       "f:5:13: workloads[0].protocol: \"HBONEX\" is not one of HBONE, TCP"},
      {"workloads:\n- {namespace: a, name: b, workloadIps: [], nativeTunnel: yes}",
       "f:2:58: workloads[0].nativeTunnel: \"yes\" is neither true nor false"},
      {"workloads:\n- {namespace: a, name: b, workloadIps: [], capacity: -1}",
       "f:2:54: workloads[0].capacity: \"-1\" is not a number from 0 to 4294967295"},
      {"workloads:\n- {namespace: a, name: b, workloadIps: [], services: {x: {}}}",
       "f:2:55: workloads[0].services.x: \"x\" is not \"namespace/hostname\""},
      {"workloads:\n- {namespace: a, name: b, workloadIps: [], services: {x/y: {0: 1}}}",
       "f:2:61: workloads[0].services.x/y.0: a service port cannot be 0"},
      {"workloads:\n- {namespace: a, name: b, workloadIps: [], services: {x/y: {80: 70000}}}",
       "f:2:65: workloads[0].services.x/y.80: \"70000\" is not a number from 0 to 65535"},
      {"workloads:\n- {namespace: a, name: b, workloadIps: [], waypoint: {destination: w}}",
       "f:2:68: workloads[0].waypoint.destination: \"w\" is neither \"namespace/hostname\" nor "
       "\"network/address\""},
      {"workloads:\n- {namespace: a, name: b, workloadIps: []}\n- {namespace: a, name: b, workloadIps: []}",
       "f:3:3: workloads[1]: \"local//a/b\" is there twice"},
      {"services:\n- {hostname: h, namespace: a}\n- {hostname: h, namespace: a}", "f:3:3: services[1]: \"a/h\" is there twice"},
      {"services:\n- {namespace: a}", "f:2:3: services[0]: \"hostname\" is missing"},
      {"services:\n- {hostname: h, namespace: a, vips: [x/y]}",
       "f:2:38: services[0].vips[0]: \"x/y\" is not \"network/address\" (the default network is empty: "
       "\"/10.0.0.1\")"},
      {"services:\n- {hostname: h, namespace: a, cidrVips: [/10.0.0.0/33]}",
       "f:2:42: services[0].cidrVips[0]: \"/10.0.0.0/33\" is not \"network/block\" (the default network is "
       "empty: \"/10.0.0.0/8\")"},
      {"services:\n- {hostname: h, namespace: a, endpoints: {u: {}}}",
       "f:2:42: services[0].endpoints: endpoints come from the `services` of the workloads, they are not "
       "listed here"},
      {"services:\n- {hostname: h, namespace: a, loadBalancer: {mode: Round}}",
       "f:2:52: services[0].loadBalancer.mode: \"Round\" is not one of Standard, Strict, Failover, "
       "Passthrough"},
      {"policies:\n- {name: p, namespace: a, scope: Global, action: Deny}", "f:2:3: policies[0]: \"rules\" is missing"},
      {"policies:\n- {name: p, namespace: a, scope: Global, action: Deny, rules: [null]}",
       "f:2:64: policies[0].rules[0]: list expected"},
      {"policies:\n- {name: p, namespace: a, scope: Global, action: Deny, rules: [[null]]}",
       "f:2:65: policies[0].rules[0][0]: list expected"},
      {"policies:\n- {name: p, namespace: a, scope: Global, action: Deny, rules: [[[{ports: [1]}]]]}",
       "f:2:67: policies[0].rules[0][0][0].ports: unknown key (known here: namespaces, notNamespaces, "
       "serviceAccounts, notServiceAccounts, "
       "principals, notPrincipals, sourceIps, notSourceIps, destinationIps, notDestinationIps, "
       "destinationPorts, notDestinationPorts)"},
      {"policies:\n- {name: p, namespace: a, scope: Global, action: Deny, rules: [[[{namespaces: [shop]}]]]}",
       "f:2:80: policies[0].rules[0][0][0].namespaces[0]: expected one of {Exact: …}, {Prefix: …}, {Suffix: "
       "…}, {Presence: []}"},
      {"policies:\n- {name: p, namespace: a, scope: Global, action: Deny, rules: [[[{sourceIps: "
       "[10.0.0.0/99]}]]]}",
       "f:2:79: policies[0].rules[0][0][0].sourceIps[0]: \"10.0.0.0/99\" is not an address block (like "
       "10.0.0.0/8)"},
      {"workloads:\n- {namespace: a/b, name: b, workloadIps: []}",
       "f:2:15: workloads[0].namespace: \"a/b\" has a slash in it, and no part of an identity has"},
      {"workloads:\n- {namespace: a, name: b, workloadIps: [], trustDomain: spiffe://td}",
       "f:2:57: workloads[0].trustDomain: \"spiffe://td\" begins with \"spiffe://\", which is no part of it"},
      {"workloads:\n- {namespace: a, name: b, workloadIps: [], trustDomain: td/x}",
       "f:2:57: workloads[0].trustDomain: \"td/x\" has a slash in it, and no part of an identity has"},
      {"workloads:\n- {namespace: a, name: b, workloadIps: [], serviceAccount: c/d}",
       "f:2:60: workloads[0].serviceAccount: \"c/d\" has a slash in it, and no part of an identity has"},
      {"workloads:\n- {namespace: a, name: b, workloadIps: [], serviceAccount: 'c d'}",
       "f:2:60: workloads[0].serviceAccount: \"c d\" has a character in it that no identity has (only visible ASCII)"},
      {"services:\n- {hostname: h, namespace: a, ports: {80: 1, 080: 2}}",
       "f:2:46: services[0].ports.080: \"080\" is not a number from 0 to 65535"},
      {"services:\n- {hostname: h, namespace: a, ports: {80: 1, \"80\": 2}}",
       "f:2:46: services[0].ports.80: the key is there twice"},
      {"services:\n- {hostname: h, namespace: a, cidrVips: [\"/::ffff:10.0.0.0/8\"]}",
       "f:2:42: services[0].cidrVips[0]: \"/::ffff:10.0.0.0/8\" is not \"network/block\" (the default network is "
       "empty: \"/10.0.0.0/8\")"},
      {"workloads: [{a: b: c}]", "f:1:18: did not find expected ',' or '}' (while parsing a flow mapping that begins at 1:13)"},
      {"workloads:\n- a: b: c", "f:2:7: mapping values are not allowed in this context (within what begins at 2:3)"},
      {"workloads: [", "f:1:12: what begins here has no end"},
      {"workloads: [}", "f:1:13: did not find expected node content (within what begins at 1:12)"},
      {"workloads:\n- {namespace: a, name: \"b",
       "f:2:26: found unexpected end of stream (while scanning a quoted scalar that begins at 2:24)"},
      {"workloads:\n- {namespace: a\n  name: b}",
       "f:3:7: did not find expected ',' or '}' (while parsing a flow mapping that begins at 2:3)"},
      {"{}\n---\n{}", "f:2:1: more than one document in the file"},
      {"workloads: &a [*a]", "f:1:16: alias to a value that contains it"},
      {"workloads: *w", "f:1:12: alias to an anchor that is not there: w"},
  };
  for (const Row& row : rows) {
    INFO(row.yaml);
    const auto parsed = parse_local_config(row.yaml, "f");
    REQUIRE_FALSE(parsed);
    CHECK(parsed.error().reason == Reason::kInvalidInput);
    CHECK(parsed.error().text == row.error);
  }
}

TEST_CASE("Limits: what is too large, too deep or grows by aliases is refused before it costs anything") {
  const auto error = [](const std::string& yaml) {
    const auto parsed = parse_local_config(yaml, "f");
    REQUIRE_FALSE(parsed);
    return parsed.error().text;
  };
  const yaml::Limits limits;
  CHECK(error(std::string(limits.bytes + 1, ' ')) ==
        fmt::format("f:1:1: {} bytes, more than {}", limits.bytes + 1, limits.bytes));
  CHECK(error(std::string("workloads: \0b", 13)) == "f:1:12: a zero byte");
  CHECK(error("policies: []\nworkloads: \x01") == "f:2:12: a control character, U+0001");
  CHECK(error("workloads: \xff") == "f:1:12: no UTF-8 text (invalid leading UTF-8 octet)");
  CHECK(error("workloads: " + std::string(32, '[')) == "f:1:43: nested deeper than 32 levels");
  CHECK(error("workloads: " + std::string(100'000, '[')).starts_with("f:1:"));

  std::string lists = "workloads: [{name: [&a0 [x, x, x, x, x, x, x, x, x, x], ";
  for (int i = 1; i < 12; ++i) {
    lists += fmt::format("&a{} [", i);
    for (int j = 0; j < 10; ++j) lists += fmt::format("*a{}{}", i - 1, j < 9 ? ", " : "], ");
  }
  CHECK(error(lists + "x]}]").find("more than 16000000 values") != std::string::npos);

  std::string wide = "workloads: [{name: [x";
  for (size_t i = 0; i < limits.held; ++i) wide += ",x";
  CHECK(error(wide + "]}]").find("more than 500000 values in one item or under anchors") != std::string::npos);

  // Aliases as such are fine.
  const Batch batch = batch_of(
      "workloads: [{name: a, namespace: shop, workloadIps: &ips [10.0.0.1]}, {name: b, namespace: shop, "
      "workloadIps: *ips}]");
  CHECK(batch.workloads.at(1)->addresses.size() == 1);
}

TEST_CASE("A v4-mapped block and an absent part of an identity are read as over xDS") {
  const Batch batch = batch_of(
      "workloads: [{name: a, namespace: shop, workloadIps: [\"::ffff:10.0.0.1\"], trustDomain: '', serviceAccount: ''}]\n"
      "services: [{hostname: h, namespace: a, cidrVips: [\"/::ffff:10.0.0.0/104\"]}]");
  CHECK(batch.services.at(0)->cidr_vips.at(0).to_string() == "/10.0.0.0/8");
  CHECK(batch.workloads.at(0)->addresses.at(0) == ip("10.0.0.1"));
  CHECK(batch.workloads.at(0)->trust_domain == "cluster.local");
  CHECK(batch.workloads.at(0)->service_account == "default");
}

TEST_CASE("Files that cannot be read say why") {
  CHECK(load_local_config("/no/such/file").error().text == "cannot read /no/such/file: No such file or directory");
  CHECK(load_local_config("/").error().text == "/ is not a regular file");
}

}  // namespace zt::workload_api
