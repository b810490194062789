#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>

#include "base/text.h"
#include "tests/workload_api/mesh.h"
#include "workload_api/store/tables.h"

namespace zt::workload_api {
namespace {

// The same choice by walking all endpoints, as the contract words it (§3.4): the set of those that may be
// chosen.
std::set<std::string> candidates_by_walking(const ServiceEntry& entry, const Workload& source, uint16_t port,
                                            ResolutionMode mode) {
  const Service& service = entry.service();
  const auto target = service.ports.find(port);
  if (mode == ResolutionMode::kStandard && !target) return {};
  std::map<size_t, std::vector<const Endpoint*>> by_rank;
  const auto ranked = service.mode() == LoadBalancingMode::kStrict || service.mode() == LoadBalancingMode::kFailover;
  const auto preferences = ranked ? service.load_balancing->routing_preference : std::vector<RoutingScope>{};
  for (const Endpoint& endpoint : entry.endpoints()) {
    const Workload& workload = *endpoint.workload;
    if (workload.addresses.empty() && workload.hostname.empty() &&
        (workload.network == source.network || !workload.network_gateway))
      continue;
    const bool own_port = endpoint.ports.contains(port);
    const bool tunnel_port = workload.application_tunnel && workload.application_tunnel->port != 0;
    if (!target && !workload.application_tunnel) continue;
    if (target && *target == 0 && !own_port && !(mode == ResolutionMode::kWaypoint && tunnel_port)) continue;
    const auto agrees = [&](RoutingScope scope) {
      switch (scope) {
        case RoutingScope::kRegion: return workload.locality.region() == source.locality.region();
        case RoutingScope::kZone: return workload.locality.zone() == source.locality.zone();
        case RoutingScope::kSubzone: return workload.locality.subzone() == source.locality.subzone();
        case RoutingScope::kNode: return workload.node == source.node;
        case RoutingScope::kCluster: return workload.cluster_id == source.cluster_id;
        case RoutingScope::kNetwork: return workload.network == source.network;
      }
      return false;
    };
    size_t rank = 0, bonus = 0;
    for (size_t i = 0; i < preferences.size(); ++i) {
      if (agrees(preferences[i])) {
        ++rank;
        if (i == 0 && preferences[0] == RoutingScope::kNetwork) bonus = preferences.size() - 1;
      } else if (i != 0 || preferences[0] != RoutingScope::kNetwork) {
        break;
      }
    }
    if (service.mode() == LoadBalancingMode::kStrict && rank != preferences.size()) continue;
    by_rank[rank + bonus].push_back(&endpoint);
  }
  std::set<std::string> uids;
  if (!by_rank.empty())
    for (const Endpoint* endpoint : by_rank.rbegin()->second)
      if (endpoint->workload->capacity > 0) uids.insert(endpoint->workload->uid.str());
  return uids;
}

std::set<std::string> candidates(const ServiceEntry& entry, const Workload& source, uint16_t port, ResolutionMode mode) {
  std::set<std::string> uids;
  for (uint64_t number = 0; number < 64; ++number)
    if (const Choice choice = entry.choose(source, port, mode, number)) uids.insert(choice.endpoint->workload->uid.str());
  return uids;
}

constexpr const char* kPlaces = R"(
workloads:
- {uid: client, namespace: shop, workloadIps: [10.0.0.9], network: n1, node: a, clusterId: c1, locality: {region: r1, zone: z1, subzone: s1}}
- {uid: same-node, namespace: shop, workloadIps: [10.0.0.1], network: n1, node: a, clusterId: c1, locality: {region: r1, zone: z1, subzone: s1}, services: {shop/svc: {80: 8081}}}
- {uid: same-subzone, namespace: shop, workloadIps: [10.0.0.2], network: n1, node: b, clusterId: c1, locality: {region: r1, zone: z1, subzone: s1}, services: {shop/svc: {}}}
- {uid: same-zone, namespace: shop, workloadIps: [10.0.0.3], network: n1, node: c, clusterId: c1, locality: {region: r1, zone: z1, subzone: s2}, services: {shop/svc: {}}}
- {uid: same-region, namespace: shop, workloadIps: [10.0.0.4], network: n1, node: d, clusterId: c1, locality: {region: r1, zone: z2, subzone: s1}, services: {shop/svc: {}}}
- {uid: same-network, namespace: shop, workloadIps: [10.0.0.5], network: n1, node: e, clusterId: c2, locality: {region: r2, zone: z9, subzone: s1}, services: {shop/svc: {}}}
- {uid: elsewhere, namespace: shop, workloadIps: [10.0.0.6], network: n2, node: f, clusterId: c1, locality: {region: r1, zone: z1, subzone: s1}, services: {shop/svc: {}}}
- {uid: far, namespace: shop, workloadIps: [10.0.0.7], network: n3, node: g, clusterId: c3, locality: {region: r3, zone: z3, subzone: s3}, services: {shop/svc: {}}}
services:
- {hostname: svc, namespace: shop, vips: [n1/10.1.0.1], ports: {80: 8080, 81: 0}, loadBalancer: )";

std::set<std::string> chosen(const std::string& load_balancer, const std::string& without = "") {
  Store store({});
  store.apply(batch_of(kPlaces + load_balancer + "}"));
  if (!without.empty()) {
    Batch removal;
    for (size_t at = 0; at < without.size();) {
      const size_t end = std::min(without.find(' ', at), without.size());
      removal.removed_addresses.push_back(without.substr(at, end - at));
      at = end + 1;
    }
    store.apply(std::move(removal));
  }
  const SnapshotPtr snapshot = store.snapshot();
  return candidates(*snapshot->service("shop/svc"), *snapshot->workload("client"), 80, ResolutionMode::kStandard);
}

}  // namespace

TEST_CASE("Routing preferences decide which endpoints may be chosen") {
  using Set = std::set<std::string>;
  const Set all{"same-node", "same-subzone", "same-zone", "same-region", "same-network", "elsewhere", "far"};
  struct Row {
    const char* name;
    const char* load_balancer;
    const char* without;
    Set expected;
  };
  const Row rows[] = {
      {"no balancer takes all", "{}", "", all},
      {"preferences without a mode do not count", "{routingPreferences: [Node]}", "", all},
      {"failover prefers the node", "{mode: Failover, routingPreferences: [Region, Zone, Node]}", "", {"same-node"}},
      {"failover falls back level by level",
       "{mode: Failover, routingPreferences: [Region, Zone, Node]}",
       "same-node",
       {"same-subzone", "same-zone", "elsewhere"}},
      {"failover to the region",
       "{mode: Failover, routingPreferences: [Region, Zone, Node]}",
       "same-node same-subzone same-zone elsewhere",
       {"same-region"}},
      {"failover to anywhere",
       "{mode: Failover, routingPreferences: [Region, Zone]}",
       "same-node same-subzone same-zone elsewhere same-region",
       {"same-network", "far"}},
      {"a mismatch ends the comparison",
       "{mode: Failover, routingPreferences: [Node, Region]}",
       "same-node",
       {"same-subzone", "same-zone", "same-region", "same-network", "elsewhere", "far"}},
      {"network first: own network outranks a closer place in another",
       "{mode: Failover, routingPreferences: [Network, Region, Zone]}",
       "same-node same-subzone same-zone same-region",
       {"same-network"}},
      {"network first: without own network the rest still ranks",
       "{mode: Failover, routingPreferences: [Network, Region, Zone]}",
       "same-node same-subzone same-zone same-region same-network",
       {"elsewhere"}},
      {"network in second place is like any other",
       "{mode: Failover, routingPreferences: [Zone, Network]}",
       "same-node same-subzone same-zone",
       {"elsewhere"}},
      {"cluster",
       "{mode: Failover, routingPreferences: [Cluster]}",
       "",
       {"same-node", "same-subzone", "same-zone", "same-region", "elsewhere"}},
      {"subzone alone ignores the zone",
       "{mode: Failover, routingPreferences: [Subzone]}",
       "",
       {"same-node", "same-subzone", "same-region", "same-network", "elsewhere"}},
      {"strict takes full agreement", "{mode: Strict, routingPreferences: [Node]}", "", {"same-node"}},
      {"strict takes nothing less", "{mode: Strict, routingPreferences: [Node]}", "same-node", {}},
      {"strict with network first needs the network",
       "{mode: Strict, routingPreferences: [Network, Zone]}",
       "same-node same-subzone same-zone",
       {}},
      {"strict without preferences takes all", "{mode: Strict}", "", all},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    CHECK(chosen(row.load_balancer, row.without) == row.expected);
  }
}

TEST_CASE("Ports: who is a candidate, and which port of it is taken") {
  const auto snapshot = snapshot_of(R"(
workloads:
- {uid: client, namespace: shop, workloadIps: [10.0.0.9]}
- {uid: plain, namespace: shop, workloadIps: [10.0.0.1], services: {shop/svc: {80: 8081, 81: 9091}}}
- {uid: bare, namespace: shop, workloadIps: [10.0.0.2], services: {shop/svc: {}}}
- {uid: tunnel, namespace: shop, workloadIps: [10.0.0.3], applicationTunnel: {protocol: PROXY, port: 15088}, services: {shop/svc: {}}}
services:
- {hostname: svc, namespace: shop, ports: {80: 8080, 81: 0}}
)");
  const ServiceEntry& entry = *snapshot->service("shop/svc");
  const Workload& client = *snapshot->workload("client");
  std::map<std::string, uint16_t> ports;
  const auto take = [&](uint16_t port, ResolutionMode mode) {
    ports.clear();
    for (uint64_t number = 0; number < 30; ++number)
      if (const Choice choice = entry.choose(client, port, mode, number))
        ports[choice.endpoint->workload->uid.str()] = choice.port;
    return ports;
  };
  using Ports = std::map<std::string, uint16_t>;
  CHECK(take(80, ResolutionMode::kStandard) == Ports{{"plain", 8081}, {"bare", 8080}, {"tunnel", 8080}});
  CHECK(take(81, ResolutionMode::kStandard) == Ports{{"plain", 9091}});  // named: only who knows the number
  CHECK(take(82, ResolutionMode::kStandard).empty());
  CHECK(take(80, ResolutionMode::kWaypoint) == Ports{{"plain", 8081}, {"bare", 8080}, {"tunnel", 8080}});
  CHECK(take(81, ResolutionMode::kWaypoint) == Ports{{"plain", 9091}, {"tunnel", 81}});
  CHECK(take(15008, ResolutionMode::kWaypoint) == Ports{{"tunnel", 15008}});  // unlisted: only an application tunnel
}

TEST_CASE("An endpoint without address is a candidate from other networks only, and only with a gateway") {
  const auto snapshot = snapshot_of(R"(
workloads:
- {uid: here, namespace: shop, workloadIps: [10.0.0.9], network: n1}
- {uid: inside, namespace: shop, workloadIps: [10.0.0.8], network: n2}
- {uid: split, namespace: shop, workloadIps: [], network: n2, networkGateway: {destination: n2/10.9.0.1}, services: {shop/svc: {}}}
- {uid: lost, namespace: shop, workloadIps: [], network: n3, services: {shop/svc: {}}}
- {uid: named, namespace: shop, hostname: db.example, workloadIps: [], network: n1, services: {shop/svc: {}}}
services:
- {hostname: svc, namespace: shop, ports: {80: 8080}}
)");
  const ServiceEntry& entry = *snapshot->service("shop/svc");
  CHECK(candidates(entry, *snapshot->workload("here"), 80, ResolutionMode::kStandard) == std::set<std::string>{"split", "named"});
  CHECK(candidates(entry, *snapshot->workload("inside"), 80, ResolutionMode::kStandard) == std::set<std::string>{"named"});
}

TEST_CASE("Equal endpoints take turns, others get shares in proportion to capacity, and capacity 0 gets none") {
  const auto turns = [](const std::string& capacities) {
    std::string yaml =
        "services: [{hostname: svc, namespace: shop, ports: {80: 8080}}]\nworkloads:\n- {uid: client, "
        "namespace: shop, workloadIps: [10.0.0.9]}\n";
    for (size_t i = 0; i < capacities.size(); ++i)
      yaml += "- {uid: w" + std::to_string(i) + ", namespace: shop, workloadIps: [10.0.0." + std::to_string(i + 1) +
              "], services: {shop/svc: {}}, capacity: " + capacities[i] + "}\n";
    const auto snapshot = snapshot_of(yaml);
    std::map<std::string, int> counts;
    for (uint64_t number = 1000; number < 2200; ++number)
      if (const Choice choice =
              snapshot->service("shop/svc")->choose(*snapshot->workload("client"), 80, ResolutionMode::kStandard, number))
        ++counts[choice.endpoint->workload->uid.str()];
    return counts;
  };
  using Counts = std::map<std::string, int>;
  CHECK(turns("111") == Counts{{"w0", 400}, {"w1", 400}, {"w2", 400}});
  CHECK(turns("555") == Counts{{"w0", 400}, {"w1", 400}, {"w2", 400}});
  CHECK(turns("000").empty());
  CHECK(turns("0").empty());
  auto counts = turns("3012");
  CHECK(counts["w0"] == Approx(600).margin(3));
  CHECK(counts.contains("w1") == false);
  CHECK(counts["w2"] == Approx(200).margin(3));
  CHECK(counts["w3"] == Approx(400).margin(3));
}

TEST_CASE("A group whose capacities are all 0 yields nothing, even if a lower group could") {
  const auto snapshot = snapshot_of(R"(
workloads:
- {uid: client, namespace: shop, workloadIps: [10.0.0.9], node: a}
- {uid: near, namespace: shop, workloadIps: [10.0.0.1], node: a, capacity: 0, services: {shop/svc: {}}}
- {uid: far, namespace: shop, workloadIps: [10.0.0.2], node: b, services: {shop/svc: {}}}
services: [{hostname: svc, namespace: shop, ports: {80: 8080}, loadBalancer: {mode: Failover, routingPreferences: [Node]}}]
)");
  CHECK(candidates(*snapshot->service("shop/svc"), *snapshot->workload("client"), 80, ResolutionMode::kStandard).empty());
}

TEST_CASE("Choosing among prepared endpoints agrees with walking all of them") {
  std::mt19937 random(7);
  const auto any = [&](unsigned below) { return random() % below; };
  const char* scopes[] = {"Region", "Zone", "Subzone", "Node", "Cluster", "Network"};
  for (int round = 0; round < 300; ++round) {
    const auto place = [&] {
      return "network: n" + std::to_string(any(3)) + ", node: d" + std::to_string(any(3)) + ", clusterId: c" +
             std::to_string(any(2)) + ", locality: {region: r" + std::to_string(any(2)) + ", zone: z" + std::to_string(any(3)) +
             "}";
    };
    std::string yaml = "workloads:\n";
    for (unsigned i = 0; i < 4; ++i)
      yaml += "- {uid: client" + std::to_string(i) + ", namespace: shop, workloadIps: [10.0.1." + std::to_string(i) + "], " +
              place() + "}\n";
    for (unsigned i = 0, n = any(12); i < n; ++i) {
      yaml += "- {uid: w" + std::to_string(i) + ", namespace: shop, " + place() +
              ", capacity: " + std::to_string(any(4) ? 1 : any(3));
      yaml += any(4) ? ", workloadIps: [10.0.0." + std::to_string(i) + "]" : ", workloadIps: []";
      if (any(3) == 0) yaml += ", networkGateway: {destination: n0/10.9.0.1}";
      if (any(4) == 0) yaml += ", applicationTunnel: {port: " + std::to_string(any(2) * 15088) + "}";
      yaml += std::string(", services: {shop/svc: ") + (any(2) ? "{81: 9091}" : "{}") + "}}\n";
    }
    yaml += std::string("services: [{hostname: svc, namespace: shop, ports: {80: 8080, 81: 0}, loadBalancer: {mode: ") +
            (any(3) == 0 ? "Strict" : "Failover") + ", routingPreferences: [";
    for (unsigned i = 0, n = any(4); i < n; ++i) yaml += std::string(i ? ", " : "") + scopes[any(6)];
    yaml += "]}}]\n";
    INFO(yaml);
    const auto snapshot = snapshot_of(yaml);
    const ServiceEntry& entry = *snapshot->service("shop/svc");
    for (unsigned i = 0; i < 4; ++i) {
      const Workload& source = *snapshot->workload("client" + std::to_string(i));
      for (const uint16_t port : {80, 81})
        for (const auto mode : {ResolutionMode::kStandard, ResolutionMode::kWaypoint})
          REQUIRE(candidates(entry, source, port, mode) == candidates_by_walking(entry, source, port, mode));
    }
  }
}

TEST_CASE("Among ten thousand endpoints of any capacity each gets its share, by turns and by chance") {
  std::mt19937 random(11);
  for (const bool skewed : {false, true}) {
    INFO(skewed);
    Batch batch;
    auto service = make_ref<Service>();
    service->name = "svc";
    service->ns = "shop";
    service->hostname = "svc";
    service->ports = {{80, 8080}};
    batch.services.push_back(std::move(service));
    const size_t count = 10'000;
    std::vector<uint64_t> capacities;
    for (size_t i = 0; i <= count; ++i) {
      auto workload = make_ref<Workload>();
      workload->uid = "w" + std::to_string(i);
      workload->ns = "shop";
      workload->addresses = {IpAddress::v4(0x0a000000u + static_cast<uint32_t>(i))};
      // Skewed: a few have nearly everything, and many have nothing.
      workload->capacity =
          skewed ? (i % 1000 == 7 ? 1'000'000 + static_cast<uint32_t>(random() % 1'000'000) : random() % 2) : random() % 10;
      if (i < count) {
        workload->services.push_back({"shop/svc", {}});
        capacities.push_back(workload->capacity);
      }
      batch.workloads.push_back(std::move(workload));
    }
    Store store({});
    REQUIRE(store.apply(std::move(batch)).empty());
    const auto snapshot = store.snapshot();
    const ServiceEntry& entry = *snapshot->service("shop/svc");
    const Workload& client = *snapshot->workload("w" + std::to_string(count));
    uint64_t total = 0;
    for (const uint64_t capacity : capacities) total += capacity;

    for (const bool by_chance : {false, true}) {
      INFO(by_chance);
      constexpr size_t kDraws = 200'000;
      std::vector<size_t> got(count);
      for (size_t turn = 0; turn < kDraws; ++turn) {
        const uint64_t number = by_chance ? hashing::mix(turn, 5) : turn;
        const Choice choice = entry.choose(client, 80, ResolutionMode::kStandard, number);
        REQUIRE(choice);
        ++got[*whole_number<size_t>(choice.endpoint->workload->uid.view().substr(1))];
      }
      // Chi square over those that are drawn often enough for it; a series of turns is more even than chance.
      double deviation = 0, furthest = 0;
      size_t often = 0;
      for (size_t i = 0; i < count; ++i) {
        const double wanted = static_cast<double>(capacities[i]) / static_cast<double>(total) * kDraws;
        const double off = static_cast<double>(got[i]) - wanted;
        if (capacities[i] == 0) REQUIRE(got[i] == 0);
        furthest = std::max(furthest, std::abs(off));
        if (wanted < 5) continue;
        deviation += off * off / wanted;
        ++often;
      }
      REQUIRE(often > 5);
      CHECK(deviation < static_cast<double>(often) + 6 * std::sqrt(2.0 * static_cast<double>(often)));
      if (!by_chance) CHECK(furthest < 8);
    }
  }
}

TEST_CASE("Choosing by locality among ten thousand endpoints agrees with walking all of them") {
  std::mt19937 random(13);
  const auto any = [&](unsigned below) { return static_cast<unsigned>(random() % below); };
  constexpr RoutingScope kScopes[] = {RoutingScope::kRegion, RoutingScope::kZone,    RoutingScope::kSubzone,
                                      RoutingScope::kNode,   RoutingScope::kCluster, RoutingScope::kNetwork};
  for (int round = 0; round < 6; ++round) {
    Batch batch;
    auto service = make_ref<Service>();
    service->name = "svc";
    service->ns = "shop";
    service->hostname = "svc";
    service->ports = {{80, 8080}, {81, 0}};
    LoadBalancing balancing{.routing_preference = {},
                            .mode = round % 2 ? LoadBalancingMode::kStrict : LoadBalancingMode::kFailover};
    for (unsigned i = 0; i < 1 + any(4); ++i) balancing.routing_preference.push_back(kScopes[any(6)]);
    service->load_balancing = std::move(balancing);
    batch.services.push_back(std::move(service));
    constexpr unsigned kCount = 10'000, kClients = 12;
    for (unsigned i = 0; i < kCount + kClients; ++i) {
      auto workload = make_ref<Workload>();
      workload->uid = "w" + std::to_string(i);
      workload->ns = "shop";
      workload->network = "n" + std::to_string(any(3));
      workload->node = "d" + std::to_string(any(500));
      workload->cluster_id = "c" + std::to_string(any(3));
      workload->locality = {"r" + std::to_string(any(4)), "z" + std::to_string(any(8)), "s" + std::to_string(any(8))};
      workload->capacity = any(20) == 0 ? 0 : 1 + any(3);
      if (any(50) != 0) workload->addresses = {IpAddress::v4(0x0a000000u + i)};
      if (i < kCount) workload->services.push_back({"shop/svc", any(2) ? PortMap{{81, 9091}} : PortMap{}});
      batch.workloads.push_back(std::move(workload));
    }
    Store store({});
    REQUIRE(store.apply(std::move(batch)).empty());
    const auto snapshot = store.snapshot();
    const ServiceEntry& entry = *snapshot->service("shop/svc");
    for (unsigned i = kCount; i < kCount + kClients; ++i) {
      const Workload& source = *snapshot->workload("w" + std::to_string(i));
      for (const uint16_t port : {80, 81}) {
        const auto walked = candidates_by_walking(entry, source, port, ResolutionMode::kStandard);
        std::set<std::string> met;
        for (uint64_t turn = 0; turn < 2'000; ++turn) {
          const Choice choice = entry.choose(source, port, ResolutionMode::kStandard, turn);
          if (!choice) continue;
          met.insert(choice.endpoint->workload->uid.str());
        }
        CHECK(std::ranges::includes(walked, met));
        CHECK(met.empty() == walked.empty());
        if (walked.size() <= 200) CHECK(met == walked);
      }
    }
  }
}

TEST_CASE("Endpoints to be avoided are not chosen while there are others, and the others share their part by capacity") {
  std::string yaml =
      "services: [{hostname: svc, namespace: shop, ports: {80: 8080}}]\nworkloads:\n- {uid: client, namespace: shop, "
      "workloadIps: [10.0.0.9]}\n";
  const int capacities[] = {1, 2, 3, 0, 4};
  for (int i = 0; i < 5; ++i)
    yaml += "- {uid: w" + std::to_string(i) + ", namespace: shop, workloadIps: [10.0.1." + std::to_string(i + 1) +
            "], services: {shop/svc: {}}, capacity: " + std::to_string(capacities[i]) + "}\n";
  const auto snapshot = snapshot_of(yaml);
  const ServiceEntry& entry = *snapshot->service("shop/svc");
  const Workload& client = *snapshot->workload("client");
  std::set<std::string> avoided;
  const Avoid avoid = [&](const Workload& workload) { return avoided.contains(workload.uid.str()); };
  constexpr int kDraws = 20'000;
  const auto shares = [&] {
    std::map<std::string, double> counts;
    for (uint64_t number = 0; number < kDraws; ++number)
      if (const Choice choice = entry.choose(client, 80, ResolutionMode::kStandard, number, &avoid))
        counts[choice.endpoint->workload->uid.str()] += 1.0 / kDraws;
    return counts;
  };
  auto all = shares();
  CHECK(all["w0"] == Approx(0.1).margin(0.01));
  CHECK(all["w4"] == Approx(0.4).margin(0.01));
  CHECK_FALSE(all.contains("w3"));
  avoided = {"w4"};
  auto without = shares();
  CHECK_FALSE(without.contains("w4"));
  CHECK_FALSE(without.contains("w3"));
  CHECK(without["w0"] == Approx(1.0 / 6).margin(0.02));
  CHECK(without["w1"] == Approx(2.0 / 6).margin(0.02));
  CHECK(without["w2"] == Approx(3.0 / 6).margin(0.02));
  avoided = {"w4", "w1", "w2"};
  CHECK(shares()["w0"] == Approx(1.0));
  avoided = {"w4", "w1", "w2", "w0"};
  auto none_left = shares();
  CHECK(none_left.size() == 4);  // then as if there were nobody to avoid
  CHECK(none_left["w4"] == Approx(0.4).margin(0.01));
}

TEST_CASE("If all of the closest endpoints are to be avoided, FAILOVER goes further away and STRICT does not") {
  const auto from = [](const std::string& balancer, const std::set<std::string>& avoided) {
    Store store({});
    store.apply(batch_of(kPlaces + balancer + "}"));
    const SnapshotPtr snapshot = store.snapshot();
    const Avoid avoid = [&](const Workload& workload) { return avoided.contains(workload.uid.str()); };
    std::set<std::string> uids;
    for (uint64_t number = 0; number < 64; ++number)
      if (const Choice choice =
              snapshot->service("shop/svc")->choose(*snapshot->workload("client"), 80, ResolutionMode::kStandard, number, &avoid))
        uids.insert(choice.endpoint->workload->uid.str());
    return uids;
  };
  using Set = std::set<std::string>;
  const std::string failover = "{mode: Failover, routingPreferences: [Network, Region, Zone, Subzone, Node]}";
  CHECK(from(failover, {}) == Set{"same-node"});
  CHECK(from(failover, {"same-node"}) == Set{"same-subzone"});
  CHECK(from(failover, {"same-node", "same-subzone"}) == Set{"same-zone"});
  CHECK(from(failover, {"same-node", "same-subzone", "same-zone", "same-region", "same-network"}) == Set{"elsewhere", "far"});
  CHECK(from("{mode: Strict, routingPreferences: [Node]}", {"same-node"}) == Set{"same-node"});
}

}  // namespace zt::workload_api
