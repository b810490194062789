#include <atomic>
#include <ctime>
#include <mutex>
#include <thread>

#include "tests/workload_api/mesh.h"

namespace zt::workload_api {
namespace {

std::vector<std::string> endpoints(const Snapshot& snapshot, std::string_view key) {
  std::vector<std::string> uids;
  if (const ServiceEntry* entry = snapshot.service(key))
    for (const Endpoint& endpoint : entry->endpoints()) uids.push_back(endpoint.workload->uid.str());
  std::ranges::sort(uids);
  return uids;
}

std::vector<std::string> staged(const Snapshot& snapshot) {
  std::vector<std::string> found;
  snapshot.for_each_staged_service([&](const StagedService& service) {
    for (const Endpoint& endpoint : service.endpoints) found.push_back(service.key.str() + " " + endpoint.workload->uid.str());
  });
  std::ranges::sort(found);
  return found;
}

Batch removal(std::vector<std::string> addresses, std::vector<std::string> policies = {}) {
  Batch batch;
  batch.removed_addresses = std::move(addresses);
  batch.removed_policies = std::move(policies);
  return batch;
}

using Names = std::vector<std::string>;

constexpr const char* kService = "services: [{hostname: svc, namespace: shop, ports: {80: 8080}}]";
constexpr const char* kWorkloads = R"(
workloads:
- {uid: a, namespace: shop, workloadIps: [10.0.0.1], services: {shop/svc: {80: 8081}}}
- {uid: b, namespace: shop, workloadIps: [10.0.0.2], services: {shop/svc: {}, shop/other: {}}, status: Unhealthy}
)";

}  // namespace

TEST_CASE("Services and workloads may come in either order, or together") {
  const auto check = [](const Store& store) {
    CHECK(endpoints(*store.snapshot(), "shop/svc") == Names{"a"});
    CHECK(store.snapshot()->service("shop/svc")->withheld().size() == 1);
    CHECK(staged(*store.snapshot()) == Names{"shop/other b"});
  };
  SECTION("service first") {
    Store store({});
    store.apply(batch_of(kService));
    CHECK(endpoints(*store.snapshot(), "shop/svc").empty());
    store.apply(batch_of(kWorkloads));
    check(store);
  }
  SECTION("workloads first") {
    Store store({});
    store.apply(batch_of(kWorkloads));
    CHECK(staged(*store.snapshot()) == Names{"shop/other b", "shop/svc a", "shop/svc b"});
    store.apply(batch_of(kService));
    check(store);
  }
  SECTION("in one push") {
    Store store({});
    store.apply(batch_of(std::string(kWorkloads) + kService));
    check(store);
  }
}

TEST_CASE("Endpoints come back when the health policy begins to admit them, and go when it does not") {
  Store store({});
  store.apply(batch_of(std::string(kWorkloads) + kService));
  CHECK(endpoints(*store.snapshot(), "shop/svc") == Names{"a"});
  store.apply(
      batch_of("services: [{hostname: svc, namespace: shop, ports: {80: 8080}, loadBalancer: {healthPolicy: "
               "AllowAll}}]"));
  CHECK(endpoints(*store.snapshot(), "shop/svc") == Names{"a", "b"});
  store.apply(batch_of(kService));
  CHECK(endpoints(*store.snapshot(), "shop/svc") == Names{"a"});
  store.apply(batch_of("workloads: [{uid: b, namespace: shop, workloadIps: [10.0.0.2], services: {shop/svc: {}}}]"));
  CHECK(endpoints(*store.snapshot(), "shop/svc") == Names{"a", "b"});
  CHECK(staged(*store.snapshot()).empty());  // it no longer names shop/other
}

TEST_CASE("Removals") {
  Store store({});
  store.apply(batch_of(std::string(kWorkloads) + kService));
  SECTION("a workload takes its endpoints and staged endpoints along") {
    store.apply(removal({"b"}));
    CHECK(store.snapshot()->workload("b") == nullptr);
    CHECK(endpoints(*store.snapshot(), "shop/svc") == Names{"a"});
    CHECK(store.snapshot()->service("shop/svc")->withheld().empty());
    CHECK(staged(*store.snapshot()).empty());
  }
  SECTION("a service leaves its endpoints waiting, and gets them back") {
    store.apply(removal({"shop/svc"}));
    CHECK(store.snapshot()->service("shop/svc") == nullptr);
    CHECK(store.snapshot()->service_by_hostname("svc", "shop") == nullptr);
    store.apply(batch_of(kService));
    CHECK(endpoints(*store.snapshot(), "shop/svc") == Names{"a"});
  }
  SECTION("everything leaves nothing") {
    store.apply(removal({"shop/svc", "a", "b"}));
    CHECK(store.snapshot()->workload_count() == 0);
    CHECK(store.snapshot()->service_count() == 0);
    CHECK(staged(*store.snapshot()).empty());
  }
  SECTION("names that are not there are ignored and publish nothing") {
    const auto before = store.snapshot();
    store.apply(removal({"c", "shop/none", "", "/", "a/b/c"}, {"shop/none"}));
    CHECK(store.snapshot() == before);
  }
  SECTION("of a name that one push brings and removes, nothing is left") {
    Batch batch = batch_of(R"(
workloads: [{uid: c, namespace: shop, workloadIps: [10.0.0.3], services: {shop/svc: {}, shop/new: {}}}]
services: [{hostname: new, namespace: shop, vips: [/10.9.9.9]}]
policies: [{name: p, namespace: shop, scope: Namespace, action: Deny, rules: []}]
)");
    batch.removed_addresses = {"c", "shop/new"};
    batch.removed_policies = {"shop/p"};
    store.apply(std::move(batch));
    CHECK(store.snapshot()->workload("c") == nullptr);
    CHECK(store.snapshot()->service("shop/new") == nullptr);
    CHECK(store.snapshot()->service_by_vip("", ip("10.9.9.9"), "shop") == nullptr);
    CHECK(store.snapshot()->policy("shop/p") == nullptr);
    CHECK(endpoints(*store.snapshot(), "shop/svc") == Names{"a"});
    CHECK(staged(*store.snapshot()) == Names{"shop/other b"});
  }
}

TEST_CASE("A name that comes twice in one push: the later counts") {
  Store store({});
  Batch batch = batch_of("workloads: [{uid: a, namespace: shop, workloadIps: [10.0.0.1], services: {shop/svc: {80: 1}}}]");
  Batch later = batch_of(R"(
workloads: [{uid: a, namespace: shop, workloadIps: [10.0.0.2], services: {shop/svc: {80: 2}}}]
services: [{hostname: svc, namespace: shop, vips: [/10.1.0.2], ports: {80: 8080}}]
)");
  batch.services.push_back(
      batch_of("services: [{hostname: svc, namespace: shop, vips: [/10.1.0.1], ports: {80: 9090}}]").services.front());
  batch.workloads.push_back(later.workloads.front());
  batch.services.push_back(later.services.front());
  later = {};
  store.apply(std::move(batch));
  const auto snapshot = store.snapshot();
  CHECK(snapshot->workload("", ip("10.0.0.1")) == nullptr);
  CHECK(snapshot->service_by_vip("", ip("10.1.0.1"), "shop") == nullptr);
  const auto* entry = snapshot->service_by_vip("", ip("10.1.0.2"), "shop");
  REQUIRE(entry != nullptr);
  REQUIRE(entry->endpoints().size() == 1);
  CHECK(entry->endpoints()[0].ports.find(80) == 2);
  CHECK(entry->service().ports.find(80) == 8080);
}

TEST_CASE("What thousands of resources share costs no copy of it for each of them") {
  constexpr uint32_t kMany = 10'000, kServices = 2'000;
  const auto processor_seconds = [] { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; };
  const double began = processor_seconds();
  Store store({});
  Batch batch;
  for (uint32_t i = 0; i < kMany; ++i) {
    const std::string number = std::to_string(i);
    auto workload = make_ref<Workload>();
    workload->uid = "uid" + number;
    workload->ns = "shop";
    workload->name = "same";
    workload->addresses = {ip("10.0.0.1")};
    batch.workloads.push_back(std::move(workload));
    if (i >= kServices) continue;
    auto service = make_ref<Service>();
    service->ns = "ns" + number;
    service->hostname = "same.example.com";
    service->vips = {{.network = {}, .ip = ip("10.1.0.1")}};
    service->cidr_vips = {{.network = {}, .cidr = *Cidr::make(ip("10.2.0.0"), 16)}};
    batch.services.push_back(std::move(service));
    auto policy = make_ref<Authorization>();
    policy->ns = "shop";
    policy->name = "policy" + number;
    policy->scope = i % 2 == 0 ? PolicyScope::kNamespace : PolicyScope::kGlobal;
    batch.policies.push_back(std::move(policy));
  }
  store.apply(std::move(batch));
  const auto full = store.snapshot();
  CHECK(uid_of(full->workload("", ip("10.0.0.1"))) == "uid9999");
  CHECK(key_of(full->service_by_vip("", ip("10.1.0.1"), "ns77")) == "ns77/same.example.com");
  CHECK(key_of(full->service_by_vip("", ip("10.2.3.4"), "ns77")) == "ns77/same.example.com");

  // All but two go again, some of them from the front.
  Batch removals;
  const auto remove = [&](uint32_t i) {
    const std::string number = std::to_string(i);
    removals.removed_addresses.push_back("uid" + number);
    if (i >= kServices) return;
    removals.removed_addresses.push_back("ns" + number + "/same.example.com");
    removals.removed_policies.push_back("shop/policy" + number);
  };
  constexpr uint32_t kFront = 500;
  for (uint32_t i = 0; i < kFront; ++i)
    if (i != 77) remove(i);
  for (uint32_t i = kMany; i > kFront; --i)
    if (i - 1 != 8888) remove(i - 1);
  store.apply(std::move(removals));
  const auto rest = store.snapshot();
  CHECK(rest->workload_count() == 2);
  CHECK(rest->service_count() == 1);
  CHECK(rest->policy_count() == 1);
  CHECK(uid_of(rest->workload("", ip("10.0.0.1"))) == "uid8888");
  CHECK(key_of(rest->service_by_hostname("same.example.com", "ns1")) == "ns77/same.example.com");
  CHECK(uid_of(full->workload("", ip("10.0.0.1"))) == "uid9999");
  CHECK(processor_seconds() - began < 10);  // a tenth of a second in a release build
}

TEST_CASE("A service with an address block is replaced, however often its endpoints change") {
  Store store({});
  store.apply(
      batch_of("services: [{hostname: svc, namespace: shop, cidrVips: [/10.0.0.0/8, /10.20.0.0/16], ports: "
               "{80: 8080}}]"));
  for (int i = 0; i < 50; ++i)
    store.apply(batch_of("workloads: [{uid: a, namespace: shop, workloadIps: [192.0.2." + std::to_string(i) +
                         "], services: {shop/svc: {}}}]"));
  const auto* entry = store.snapshot()->service_by_vip("", ip("10.20.1.1"), "shop");
  REQUIRE(entry != nullptr);
  REQUIRE(entry->endpoints().size() == 1);
  CHECK(entry->endpoints()[0].workload->addresses[0] == ip("192.0.2.49"));
  store.apply(batch_of("services: [{hostname: svc, namespace: shop, cidrVips: [/10.20.0.0/16]}]"));
  CHECK(store.snapshot()->service_by_vip("", ip("10.30.1.1"), "shop") == nullptr);
  CHECK(store.snapshot()->service_by_vip("", ip("10.20.1.1"), "shop") != nullptr);
  store.apply(removal({"shop/svc"}));
  CHECK(store.snapshot()->service_by_vip("", ip("10.20.1.1"), "shop") == nullptr);
}

TEST_CASE("An address block is the same however its host bits are written") {
  Store store({});
  for (const char* address : {"10.2.0.1", "10.2.0.9", "10.2.0.0"}) {
    auto service = make_ref<Service>();
    service->ns = "shop";
    service->hostname = "svc";
    service->cidr_vips = {{.network = {}, .cidr = {ip(address), 16}}};
    Batch batch;
    batch.services.push_back(std::move(service));
    store.apply(std::move(batch));
    INFO(address);
    CHECK(key_of(store.snapshot()->service_by_vip("", ip("10.2.3.4"), "shop")) == "shop/svc");
  }
  store.apply(removal({"shop/svc"}));
  CHECK(store.snapshot()->service_by_vip("", ip("10.2.3.4"), "shop") == nullptr);
}

TEST_CASE("Two services of one namespace may share a VIP, removing one leaves the other") {
  Store store({});
  store.apply(
      batch_of("services: [{hostname: one, namespace: shop, vips: [/10.0.0.1]}, {hostname: two, namespace: "
               "shop, vips: [/10.0.0.1]}]"));
  CHECK(key_of(store.snapshot()->service_by_vip("", ip("10.0.0.1"), "shop")) == "shop/one");
  store.apply(removal({"shop/one"}));
  CHECK(key_of(store.snapshot()->service_by_vip("", ip("10.0.0.1"), "shop")) == "shop/two");
  store.apply(removal({"shop/two"}));
  CHECK(key_of(store.snapshot()->service_by_vip("", ip("10.0.0.1"), "shop")) == "none");
}

TEST_CASE("Policies follow their scope when it changes") {
  Store store({});
  const auto of = [&](const char* ns) {
    Workload workload;
    workload.ns = ns;
    Names names;
    store.snapshot()->for_each_policy_of(workload, [&](const Policy* policy, std::string_view name) {
      names.push_back((policy == nullptr ? "missing " : "") + std::string(name));
      return true;
    });
    return names;
  };
  const auto with_scope = [&](const std::string& scope) {
    store.apply(batch_of("policies: [{name: p, namespace: shop, scope: " + scope + ", action: Deny, rules: []}]"));
  };
  with_scope("Namespace");
  CHECK(of("shop") == Names{"shop/p"});
  CHECK(of("pay").empty());
  with_scope("Global");
  CHECK(of("shop") == Names{"shop/p"});
  CHECK(of("pay") == Names{"shop/p"});
  with_scope("WorkloadSelector");
  CHECK(of("shop").empty());
  CHECK(store.snapshot()->policy("shop/p") != nullptr);
  with_scope("Namespace");
  CHECK(of("shop") == Names{"shop/p"});
  store.apply(removal({}, {"shop/p"}));
  CHECK(of("shop").empty());
}

TEST_CASE("A workload's policies: its namespace's, the global ones, those it names, and those that are missing") {
  const auto snapshot = snapshot_of(R"(
policies:
- {name: g, namespace: root, scope: Global, action: Deny, rules: []}
- {name: n, namespace: shop, scope: Namespace, action: Deny, rules: []}
- {name: other, namespace: pay, scope: Namespace, action: Deny, rules: []}
- {name: s, namespace: shop, scope: WorkloadSelector, action: Deny, rules: []}
- {name: unused, namespace: shop, scope: WorkloadSelector, action: Deny, rules: []}
workloads:
- {uid: a, namespace: shop, workloadIps: [10.0.0.1], authorizationPolicies: [shop/s, shop/late]}
)");
  Names names;
  snapshot->for_each_policy_of(*snapshot->workload("a"), [&](const Policy* policy, std::string_view name) {
    names.push_back((policy == nullptr ? "missing " : "") + std::string(name));
    return true;
  });
  CHECK(names == Names{"shop/n", "root/g", "shop/s", "missing shop/late"});
}

TEST_CASE("The policy generation changes when, and only when, open connections may be judged differently") {
  Store store({.node_name = "n1"});
  const auto changes = [&](Batch batch) {
    const uint64_t before = store.snapshot()->policy_generation();
    bool told = false;
    const auto subscription = store.subscribe([&](const SnapshotPtr&, const Changes& changed) { told = changed.policies; });
    store.apply(std::move(batch));
    CHECK(told == (before != store.snapshot()->policy_generation()));
    return told;
  };
  const char* policy = "policies: [{name: p, namespace: shop, scope: Namespace, action: Deny, rules: []}]";
  CHECK(changes(batch_of(policy)));
  CHECK_FALSE(changes(batch_of(policy)));  // the control plane sends policies again after a reconnect
  CHECK(
      changes(batch_of("policies: [{name: p, namespace: shop, scope: Namespace, action: Deny, rules: "
                       "[[[{destinationPorts: [22]}]]]}]")));
  CHECK_FALSE(changes(batch_of("workloads: [{uid: a, namespace: shop, node: n1, workloadIps: [10.0.0.1]}]")));
  CHECK(
      changes(batch_of("workloads: [{uid: a, namespace: shop, node: n1, workloadIps: [10.0.0.1], "
                       "authorizationPolicies: [shop/q]}]")));
  CHECK_FALSE(
      changes(batch_of("workloads: [{uid: a, namespace: shop, node: n1, workloadIps: [10.0.0.2], "
                       "authorizationPolicies: [shop/q]}]")));
  CHECK_FALSE(
      changes(batch_of("workloads: [{uid: b, namespace: shop, node: n2, workloadIps: [10.0.0.3], "
                       "authorizationPolicies: [shop/q]}]")));
  CHECK_FALSE(changes(batch_of("workloads: [{uid: b, namespace: shop, node: n2, workloadIps: [10.0.0.3]}]")));
  CHECK(changes(removal({}, {"shop/p"})));
  CHECK_FALSE(changes(removal({"a"})));
}

TEST_CASE("Subscribers hear of each publication and of nothing else, and may leave while they are called") {
  Store store({});
  int first = 0, second = 0;
  Store::Subscription leaving = store.subscribe([&](const SnapshotPtr& snapshot, const Changes&) {
    ++first;
    CHECK(snapshot == store.snapshot());
    leaving = {};
  });
  Store::Subscription staying = store.subscribe([&](const SnapshotPtr&, const Changes&) { ++second; });
  const uint64_t generation = store.snapshot()->generation();
  store.apply(batch_of(kWorkloads));
  store.apply(batch_of(kWorkloads));  // the same again
  store.apply({});
  store.apply(batch_of(kService));
  CHECK(first == 1);
  CHECK(second == 2);
  CHECK(store.snapshot()->generation() == generation + 2);
}

TEST_CASE("Identities of this node's workloads are asked for and forgotten once each") {
  Store store({.node_name = "n1"});
  Names needed, forgotten;
  const auto subscription = store.subscribe([&](const SnapshotPtr&, const Changes& changes) {
    for (const Str& identity : changes.identities_needed) needed.push_back(identity.str());
    for (const Str& identity : changes.identities_forgotten) forgotten.push_back(identity.str());
  });
  const std::string web = "spiffe://cluster.local/ns/shop/sa/web", vm = "spiffe://td2/ns/shop/sa/vm";
  store.apply(batch_of(R"(
workloads:
- {uid: a, namespace: shop, serviceAccount: web, node: n1, protocol: HBONE, workloadIps: [10.0.0.1]}
- {uid: b, namespace: shop, serviceAccount: web, node: n1, workloadIps: [10.0.0.2]}
- {uid: c, namespace: shop, serviceAccount: far, node: n2, protocol: HBONE, workloadIps: [10.0.0.3]}
- {uid: d, namespace: shop, serviceAccount: plain, node: n1, workloadIps: [10.0.0.4]}
- {uid: e, namespace: shop, serviceAccount: vm, trustDomain: td2, node: n1, nativeTunnel: true, workloadIps: [10.0.0.5]}
)"));
  std::ranges::sort(needed);
  CHECK(needed == Names{web, vm});
  CHECK(forgotten.empty());
  needed.clear();
  store.apply(
      batch_of("workloads: [{uid: a, namespace: shop, serviceAccount: web, node: n1, protocol: HBONE, "
               "workloadIps: [10.0.0.9]}]"));
  store.apply(removal({"a"}));
  CHECK(forgotten.empty());  // b still has it
  store.apply(removal({"b", "c"}));
  CHECK(forgotten == Names{web});
  CHECK(needed.empty());
  Batch again = batch_of(
      "workloads: [{uid: f, namespace: shop, serviceAccount: vm, trustDomain: td2, node: n1, protocol: "
      "HBONE, workloadIps: [10.0.0.6]}]");
  again.removed_addresses = {"e"};
  store.apply(std::move(again));
  CHECK(needed.empty());
  CHECK(forgotten == Names{web});
}

TEST_CASE("Resources of the local file are replaced together, and a push does not remove them") {
  Store store({});
  store.replace_local(batch_of(std::string(kWorkloads) + kService +
                               "\npolicies: [{name: p, namespace: shop, scope: Namespace, action: Deny, rules: []}]"));
  store.apply(batch_of("workloads: [{uid: x, namespace: pay, workloadIps: [10.0.0.7]}]"));
  store.apply(removal({"a", "shop/svc"}, {"shop/p"}));
  CHECK(endpoints(*store.snapshot(), "shop/svc") == Names{"a"});
  CHECK(store.snapshot()->policy("shop/p") != nullptr);

  store.replace_local(batch_of("workloads: [{uid: a, namespace: shop, workloadIps: [10.0.0.5]}]"));
  CHECK(store.snapshot()->workload("b") == nullptr);
  CHECK(store.snapshot()->service("shop/svc") == nullptr);
  CHECK(store.snapshot()->policy("shop/p") == nullptr);
  CHECK(store.snapshot()->workload("", ip("10.0.0.5")) != nullptr);
  CHECK(store.snapshot()->workload("x") != nullptr);

  store.apply(batch_of("workloads: [{uid: a, namespace: shop, workloadIps: [10.0.0.6]}]"));  // the push takes over
  store.replace_local({});
  CHECK(store.snapshot()->workload("a") != nullptr);
  store.apply(removal({"a"}));
  CHECK(store.snapshot()->workload("a") == nullptr);
}

TEST_CASE("A malformed resource is refused by name and the rest of the push applies") {
  Store store({});
  Batch batch = batch_of(kWorkloads);
  auto crowded = make_ref<Workload>();
  crowded->uid = "crowded";
  crowded->addresses.resize(kMaxWorkloadAddresses + 1);
  batch.workloads.insert(batch.workloads.begin(), crowded);
  const auto rejected = store.apply(std::move(batch));
  REQUIRE(rejected.size() == 1);
  CHECK(rejected[0].name == "crowded");
  CHECK(rejected[0].why ==
        std::to_string(kMaxWorkloadAddresses + 1) + " addresses, more than " + std::to_string(kMaxWorkloadAddresses));
  CHECK(store.snapshot()->workload_count() == 2);
}

TEST_CASE("Old snapshots stay as they were while held, and are given back on the control thread") {
  Store store({});
  store.apply(batch_of(std::string(kWorkloads) + kService));
  SnapshotPtr old = store.snapshot();
  WorkloadPtr kept(old->workload("a"));
  for (int i = 0; i < 100; ++i)
    store.apply(batch_of("workloads: [{uid: a, namespace: shop, workloadIps: [10.1.0." + std::to_string(i) +
                         "], services: {shop/svc: {}}}]"));
  CHECK(store.retired_snapshots() == 1);
  CHECK(old->workload("a")->addresses[0] == ip("10.0.0.1"));
  CHECK(old->service("shop/svc")->endpoints()[0].workload.get() == kept.get());
  old.reset();
  store.collect();
  CHECK(store.retired_snapshots() == 0);
  CHECK(kept->uid == "a");  // a connection may hold its workload for longer
}

TEST_CASE("Workers read while the control thread publishes") {
  Store store({});
  store.apply(batch_of(std::string(kWorkloads) + kService));
  // Not atomic<shared_ptr>: libstdc++ 12 reads its pointer before it has acquired it, which ThreadSanitizer
  // rightly reports.
  std::mutex hand_over;
  SnapshotPtr shared = store.snapshot();
  std::atomic<bool> stop = false;
  std::vector<std::thread> workers;
  for (int i = 0; i < 3; ++i)
    workers.emplace_back([&] {
      while (!stop) {
        SnapshotPtr snapshot;
        {
          const std::lock_guard lock(hand_over);
          snapshot = shared;
        }
        const Workload* source = snapshot->workload("a");
        const ServiceEntry* entry = snapshot->service("shop/svc");
        if (source == nullptr || entry == nullptr) std::abort();
        const Choice choice = entry->choose(*source, 80, ResolutionMode::kStandard, 1);
        const WorkloadPtr kept(choice ? choice.endpoint->workload.get() : source);
        if (kept->uid.empty()) std::abort();
      }
    });
  for (int i = 0; i < 500; ++i) {
    store.apply(batch_of("workloads: [{uid: a, namespace: shop, canonicalName: n" + std::to_string(i) +
                         ", workloadIps: [10.1.0.1], services: {shop/svc: {}}}]"));
    const std::lock_guard lock(hand_over);
    shared = store.snapshot();
  }
  stop = true;
  for (auto& worker : workers) worker.join();
}

}  // namespace zt::workload_api
