#include "ztunnel/explain/explain.h"

#include <catch2/catch.hpp>

#include <string>

#include "base/file.h"
#include "base/json_writer.h"
#include "tests/workload_api/mesh.h"
#include "ztunnel/explain/state.h"

namespace zt::ztunnel {
namespace {

constexpr std::string_view kMesh = R"(
workloads:
- {name: client, namespace: shop, serviceAccount: client, workloadIps: [10.0.0.1], protocol: HBONE}
- {name: other, namespace: ops, serviceAccount: other, workloadIps: [10.0.0.9], protocol: HBONE}
- {name: web-0, namespace: shop, serviceAccount: web, workloadIps: [10.0.0.2], protocol: HBONE,
   services: {shop/web.shop.svc.cluster.local: {80: 8080}}, authorizationPolicies: [shop/no-admin]}
- {name: web-1, namespace: shop, serviceAccount: web, workloadIps: [10.0.0.3], protocol: HBONE,
   services: {shop/web.shop.svc.cluster.local: {80: 8080}}, authorizationPolicies: [shop/no-admin]}
- {name: legacy, namespace: old, serviceAccount: legacy, workloadIps: [10.0.1.1], protocol: TCP}
- {name: late, namespace: late, serviceAccount: late, workloadIps: [10.0.1.2], protocol: HBONE, authorizationPolicies: [late/missing]}
- {name: far-0, namespace: shop, serviceAccount: far, workloadIps: [10.0.3.1], protocol: HBONE,
   services: {shop/far.shop.svc.cluster.local: {80: 8080}}}
- {name: wp, namespace: gw, serviceAccount: wp, workloadIps: [10.0.2.1], protocol: HBONE, nativeTunnel: true}
services:
- {name: web, namespace: shop, hostname: web.shop.svc.cluster.local, vips: [/10.1.0.1], ports: {80: 8080}}
- {name: empty, namespace: shop, hostname: empty.shop.svc.cluster.local, vips: [/10.1.0.2], ports: {80: 8080}}
- {name: far, namespace: shop, hostname: far.shop.svc.cluster.local, vips: [/10.1.0.3], ports: {80: 8080},
   waypoint: {destination: /10.0.2.1, hboneMtlsPort: 15008}}
policies:
- {name: no-admin, namespace: shop, scope: WorkloadSelector, action: Deny, rules: [[[{destinationPorts: [9000]}]]]}
- {name: shop-only, namespace: shop, scope: Namespace, action: Allow,
   rules: [[[{namespaces: [{Exact: ops}]}], [{destinationPorts: [1]}]], [[{namespaces: [{Exact: shop}]}]]]}
)";

KnownState state_of(std::string_view yaml) {
  KnownState state;
  state.snapshot = workload_api::snapshot_of(yaml);
  state.origin = "test.yaml";
  return state;
}

std::string text_of(const KnownState& state, std::string_view source, std::string_view destination) {
  const auto question = make_question(state, source, destination, "cluster.local");
  if (!question) return "no answer: " + question.error().text;
  return explanation_text(state, *question, explain(state, *question));
}

TEST_CASE("each kind of connection is explained by its route and by the policy that decides") {
  const KnownState state = state_of(kMesh);
  struct Case {
    std::string_view source, destination;
    std::vector<std::string_view> said;
  };
  const Case cases[] = {
      {"shop/client",
       "10.0.0.2:8080",
       {"to      10.0.0.2:8080: workload local//shop/web-0",
        "route   a tunnel to 10.0.0.2:15008 (local//shop/web-0), in it a CONNECT to 10.0.0.2:8080",
        "policy  allowed by shop/shop-only", "shop/shop-only  (ALLOW, of the namespace) matches by rule 1: this decides",
        "shop/no-admin  (DENY, the workload names it) does not match",
        "rules[0][0][0].destinationPorts: 8080 is not among 9000"}},
      {"shop/client",
       "10.0.0.2:9000",
       {"policy  denied: explicitly denied by: shop/no-admin", "matches by rule 0: this decides"}},
      {"ops/other",
       "10.0.0.2:8080",
       {"policy  denied: allow policies exist, but none allowed", "rules[0][1][0].destinationPorts: 8080 is not among 1",
        "rules[1][0][0].namespaces: ops is not among shop"}},
      {"10.0.0.1",
       "web:80",
       {"(\"web:80\" is service shop/web.shop.svc.cluster.local)", "2 endpoints", "10.0.0.2:15008", "10.0.0.3:15008",
        "(8 of 16 connections)", "target  10.0.0.3:8080"}},
      {"ops/other", "web.shop:80", {"service shop/web.shop.svc.cluster.local"}},
      {"ops/other", "web:80", {"no answer: no service that local//ops/other may see is called \"web\""}},
      {"shop/client", "empty.shop:80", {"route   refused: no healthy upstream: 10.1.0.2:80 [no_upstream]"}},
      {"shop/client", "web:81", {"route   refused: no healthy upstream: 10.1.0.1:81"}},
      {"local//shop/client", "old/legacy:22", {"route   as it is, to 10.0.1.1:22 (local//old/legacy)", "does not take tunnels"}},
      {"shop/client", "192.0.2.1:443", {"nobody's in the mesh", "route   as it is, to 192.0.2.1:443", "asks no policy"}},
      {"shop/client",
       "late/late:80",
       {"policy  denied unless it comes in time: policy not delivered: late/missing",
        "late/missing  the workload names it, and it is not there"}},
      {"shop/client",
       "far:80",
       {"a tunnel to 10.0.2.1:15008 (local//gw/wp of service shop/far.shop.svc.cluster.local), in it a CONNECT to 10.1.0.3:80",
        "note    a waypoint", "onward  if the waypoint calls the same, as spiffe://cluster.local/ns/gw/sa/wp",
        "  route   a tunnel to 10.0.3.1:15008 (local//shop/far-0", "  policy  denied: allow policies exist, but none allowed",
        "rules[1][0][0].namespaces: gw is not among shop"}},
      {"shop/client", "127.0.0.1:15001", {"route   refused: attempted recursive call to ourselves [recursive_call]"}},
      {"shop/nobody", "web:80", {"no answer: no workload is \"shop/nobody\""}},
      {"shop/client", "web", {"no answer: \"web\" is not address:port, host:port or namespace/pod:port"}},
  };
  for (const Case& each : cases) {
    const std::string text = text_of(state, each.source, each.destination);
    CAPTURE(each.source, each.destination, text);
    for (const std::string_view part : each.said) {
      CAPTURE(part);
      CHECK(text.find(part) != std::string::npos);
    }
  }
}

constexpr std::string_view kNetworks = R"(
workloads:
- {name: client, namespace: shop, serviceAccount: client, workloadIps: [10.0.0.1], protocol: HBONE, node: one}
- {name: near, namespace: shop, serviceAccount: near, workloadIps: [10.0.0.2], protocol: HBONE, node: one}
- {name: two, namespace: shop, serviceAccount: two, workloadIps: [10.0.0.3], protocol: HBONE, node: two}
- {name: proxied, namespace: shop, serviceAccount: near, workloadIps: [10.0.0.4], protocol: HBONE, node: one,
   applicationTunnel: {protocol: PROXY, port: 15088}}
- {name: gw, namespace: gw, serviceAccount: gw, workloadIps: [10.0.0.9]}
- {name: web, namespace: shop, serviceAccount: web, workloadIps: [10.9.0.1], protocol: HBONE, network: n2,
   networkGateway: {destination: /10.0.0.9, hboneMtlsPort: 15008}, services: {shop/web.shop.svc.cluster.local: {80: 8080}}}
- {uid: n2/SplitHorizonWorkload/db, name: db, namespace: shop, serviceAccount: db, workloadIps: [], protocol: HBONE, network: n2,
   networkGateway: {destination: /10.0.0.9, hboneMtlsPort: 15008}, services: {shop/db.shop.svc.cluster.local: {80: 8080}}}
services:
- {name: web, namespace: shop, hostname: web.shop.svc.cluster.local, vips: [/10.1.0.1], ports: {80: 8080}}
- {name: db, namespace: shop, hostname: db.shop.svc.cluster.local, vips: [/10.1.0.2], ports: {80: 8080}}
policies:
- {name: from-here, namespace: shop, scope: Namespace, action: Allow,
   rules: [[[{serviceAccounts: [{namespace: shop, serviceAccount: client}], destinationPorts: [8080], sourceIps: [10.0.0.9/32]}]]]}
)";

TEST_CASE("of a way through a gateway the policies are told as far as the workload behind it is known") {
  const KnownState state = state_of(kNetworks);
  struct Case {
    std::string_view source, destination;
    std::vector<std::string_view> said, unsaid;
  };
  const Case cases[] = {
      {"shop/client",
       "web:80",
       {"route   a tunnel to the gateway 10.0.0.9:15008", "and in it a tunnel to web.shop.svc.cluster.local:80",
        "target  10.9.0.1:8080", "policy  allowed by shop/from-here",
        "a gateway to network n2: this is what is known here of local//shop/web there"},
       {}},
      {"shop/near",
       "web:80",
       {"policy  denied: allow policies exist, but none allowed", "serviceAccounts: shop/near is not among shop/client"},
       {"sourceIps"}},
      {"shop/client",
       "db:80",
       {"route   a tunnel to the gateway", "whom it chooses there, and the policies there, are not known here"},
       {"policy  "}},
      {"shop/client",
       "shop/near:80",
       {"both are on node one: a proxy there that serves both makes no tunnel", "policy  denied"},
       {}},
      {"shop/client", "shop/two:80", {"a tunnel to 10.0.0.3:15008"}, {"both are on node"}},
      {"shop/client", "shop/proxied:80", {"a tunnel to 10.0.0.4:15008"}, {"both are on node"}},
      {"shop/client", "shop/client:80", {"a tunnel to 10.0.0.1:15008"}, {"both are on node"}},
  };
  for (const Case& each : cases) {
    const std::string text = text_of(state, each.source, each.destination);
    CAPTURE(each.source, each.destination, text);
    for (const std::string_view part : each.said) {
      CAPTURE(part);
      CHECK(text.find(part) != std::string::npos);
    }
    for (const std::string_view part : each.unsaid) {
      CAPTURE(part);
      CHECK(text.find(part) == std::string::npos);
    }
  }
  const auto question = make_question(state, "shop/client", "web:80", "cluster.local");
  REQUIRE(question);
  const std::string json = explanation_json(state, *question, explain(state, *question));
  REQUIRE(validate_json(json));
  CHECK(json.find(R"("decision": "allow")") != std::string::npos);
}

TEST_CASE("the same in JSON names every route, policy and miss") {
  const KnownState state = state_of(kMesh);
  const auto question = make_question(state, "ops/other", "10.1.0.1:80", "cluster.local");
  REQUIRE(question);
  const std::string json = explanation_json(state, *question, explain(state, *question));
  REQUIRE(validate_json(json));
  for (const std::string_view part : {R"("route": "hbone")", R"("dial": "10.0.0.2:15008")", R"("dial": "10.0.0.3:15008")",
                                      R"("decision": "deny")", R"("name": "shop/shop-only")", R"("field": "namespaces")",
                                      R"("is": "ops")", R"("wanted": "shop")", R"("spiffe://cluster.local/ns/shop/sa/web")"})
    CHECK(json.find(part) != std::string::npos);
}

TEST_CASE("in JSON a route through a waypoint has those of the waypoint's own call") {
  const KnownState state = state_of(kMesh);
  const auto question = make_question(state, "shop/client", "10.1.0.3:80", "cluster.local");
  REQUIRE(question);
  const std::string json = explanation_json(state, *question, explain(state, *question));
  REQUIRE(validate_json(json));
  const size_t onward = json.find(R"("onward")");
  REQUIRE(onward != std::string::npos);
  CHECK(json.find(R"("identity": "spiffe://cluster.local/ns/gw/sa/wp")", onward) != std::string::npos);
  CHECK(json.find(R"("dial": "10.0.3.1:15008")", onward) != std::string::npos);
  CHECK(json.find(R"("decision": "deny")", onward) != std::string::npos);
}

TEST_CASE("a config_dump of istio/ztunnel is a state, with the ports of its endpoints") {
  const auto text = read_file(ZT_GOLDEN_DIR "/ztunnel/config_dump.json", 1 << 24);
  REQUIRE(text);
  const auto state = state_of_dump(*text, "config_dump.json");
  REQUIRE(state);
  CHECK(state->ignored.empty());
  CHECK(state->snapshot->workload_count() > 10);
  CHECK(state->snapshot->service_count() > 10);
  CHECK(state->snapshot->policy_count() > 1);
  const auto* entry = state->snapshot->service("pay/api-none.pay.svc.cluster.local");
  REQUIRE(entry != nullptr);
  REQUIRE(entry->endpoints().size() == 2);
  CHECK(entry->endpoints().front().ports.find(80) == std::optional<uint16_t>(8080));
}

TEST_CASE("of a dump with what nobody knows the rest is used and the unknown is named") {
  const auto state =
      state_of_dump(R"({"workloads": [{"uid": "a", "name": "a", "namespace": "shop", "workloadIps": ["10.0.0.1"], "halo": 1}],
                                       "services": [], "policies": [], "config": {"network": "n1", "illegalPorts": [7]}})",
                    "dump");
  REQUIRE(state);
  CHECK(state->snapshot->workload_count() == 1);
  CHECK(state->network == "n1");
  CHECK(state->illegal_ports == std::vector<uint16_t>{7});
  REQUIRE(state->ignored.size() == 1);
  CHECK(state->ignored[0].find("halo") != std::string::npos);
  for (const std::string_view bad : {"[]", "{}", "nonsense", "", R"({"workloads": 1, "services": []})", "{\"workloads\""}) {
    CAPTURE(bad);
    CHECK_FALSE(state_of_dump(bad, "dump"));
  }
}

}  // namespace
}  // namespace zt::ztunnel
