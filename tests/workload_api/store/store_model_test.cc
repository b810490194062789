#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>

#include "tests/workload_api/mesh.h"

// The store against a model that keeps plain maps and answers every question by walking them.
namespace zt::workload_api {
namespace {

struct Model {
  struct Held {
    std::shared_ptr<Workload> workload;
    uint64_t added;
  };
  std::map<std::string, Held> workloads;
  std::vector<std::shared_ptr<Service>> services;  // by name, which decides ties
  std::map<std::string, Authorization> policies;
  uint64_t clock = 0;

  static std::string key(const Service& service) { return service.ns.str() + "/" + service.hostname.str(); }

  void put(const Workload& workload) {
    auto& held = workloads[workload.uid.str()];
    if (held.workload && same(*held.workload, workload)) return;
    held = {std::make_shared<Workload>(workload), ++clock};
  }
  static bool same(const Workload& a, const Workload& b) { return a == b; }
  void put(const Service& service) {
    const auto found = std::ranges::find_if(services, [&](const auto& other) { return key(*other) == key(service); });
    if (found != services.end()) {
      *found = std::make_shared<Service>(service);
    } else {
      services.push_back(std::make_shared<Service>(service));
      std::ranges::sort(services, {}, [](const auto& other) { return key(*other); });
    }
  }
  void remove(const std::string& name) {
    if (workloads.erase(name) == 0) std::erase_if(services, [&](const auto& service) { return key(*service) == name; });
  }

  // Names of the policies that apply to a workload; those not delivered have a question mark.
  [[nodiscard]] std::multiset<std::string> policies_of(const Workload& workload) const {
    std::multiset<std::string> found;
    for (const auto& [name, policy] : policies)
      if (policy.scope == PolicyScope::kGlobal || (policy.scope == PolicyScope::kNamespace && policy.ns == workload.ns))
        found.insert(name);
    for (const std::string_view name : workload.authorization_policies)
      found.insert(std::string(name) + (policies.contains(std::string(name)) ? "" : "?"));
    return found;
  }

  static int score(const Workload& workload) {
    return (workload.uid.view().find("//Pod/") != std::string_view::npos ? 2 : 0) + (workload.protocol == TunnelProtocol::kHbone);
  }
  template <class Predicate>
  [[nodiscard]] std::string best(Predicate&& matches) const {
    const Held* best = nullptr;
    for (const auto& [uid, held] : workloads) {
      if (!matches(*held.workload)) continue;
      if (best == nullptr || std::pair(score(*held.workload), held.added) > std::pair(score(*best->workload), best->added))
        best = &held;
    }
    return best == nullptr ? "none" : best->workload->uid.str();
  }

  [[nodiscard]] std::string service_by_vip(const std::string& network, const IpAddress& address,
                                           const std::string& client) const {
    const Service* best = nullptr;
    std::tuple<int, bool, int, bool> best_rank;
    // Exact before blocks; in the same class: exact by namespace, canonical; blocks by namespace, length,
    // canonical.
    for (const auto& service : services) {
      if (service->visibility == Visibility::kNamespace && service->ns != client) continue;
      const bool own = service->ns == client;
      const auto consider = [&](std::tuple<int, bool, int, bool> rank) {
        if (best == nullptr || rank > best_rank) best = service.get(), best_rank = rank;
      };
      for (const auto& vip : service->vips)
        if (vip.network == network && vip.ip == address) consider({1, own, 0, service->canonical});
      for (const auto& block : service->cidr_vips)
        if (block.network == network && block.cidr.contains(address))
          consider({0, own, block.cidr.prefix_length, service->canonical});
    }
    return best == nullptr ? "none" : key(*best);
  }

  [[nodiscard]] std::set<std::string> endpoints(const Service& service) const {
    std::set<std::string> uids;
    for (const auto& [uid, held] : workloads)
      if (held.workload->membership(key(service)) != nullptr &&
          (service.health_policy() == HealthPolicy::kAllowAll || held.workload->status == WorkloadStatus::kHealthy))
        uids.insert(uid);
    return uids;
  }
  [[nodiscard]] std::set<std::string> staged() const {
    std::set<std::string> found;
    for (const auto& [uid, held] : workloads)
      for (const auto& membership : held.workload->services)
        if (std::ranges::none_of(services, [&](const auto& service) { return key(*service) == membership.service; }))
          found.insert(membership.service.str() + " " + uid);
    return found;
  }
};

// Small worlds, so that names and addresses collide all the time.
class Generator {
 public:
  Generator(uint32_t seed, uint32_t names) : random_(seed), names_(names) {}
  uint32_t any(uint32_t below) { return static_cast<uint32_t>(random_() % below); }
  std::string ns() { return "ns" + std::to_string(any(3)); }
  std::string network() { return any(3) ? "" : "n1"; }
  IpAddress address() { return any(5) ? IpAddress::v4(0x0a000000u + any(6)) : ip("2001:db8::" + std::to_string(any(3))); }
  std::string uid() { return (any(2) ? "c//Pod/" : "c/entry/") + std::to_string(any(names_)); }
  std::string service_key() { return ns() + "/svc" + std::to_string(any(5)); }

  Ref<Workload> workload() {
    auto workload = make_ref<Workload>();
    workload->uid = uid();
    workload->name = "pod" + std::to_string(any(4));
    workload->ns = ns();
    workload->service_account = "sa" + std::to_string(any(2));
    workload->trust_domain = "cluster.local";
    workload->node = "n" + std::to_string(any(2));
    workload->network = network();
    workload->protocol = any(2) ? TunnelProtocol::kHbone : TunnelProtocol::kNone;
    workload->status = any(4) ? WorkloadStatus::kHealthy : WorkloadStatus::kUnhealthy;
    workload->network_mode = any(8) ? NetworkMode::kStandard : NetworkMode::kHostNetwork;
    if (any(5) == 0) workload->hostname = "host" + std::to_string(any(2));
    std::set<IpAddress> addresses;
    for (uint32_t i = any(3); i > 0; --i) addresses.insert(address());
    workload->addresses.assign(addresses.begin(), addresses.end());
    std::map<std::string, PortMap> services;
    for (uint32_t i = any(4); i > 0; --i)
      services[service_key()] = any(2) ? PortMap{{80, static_cast<uint16_t>(8000 + any(3))}} : PortMap();
    for (const auto& [key, ports] : services) workload->services.push_back({key, ports});
    std::vector<std::string> named;
    for (uint32_t i = any(3); i > 0; --i) named.push_back(ns() + "/policy" + std::to_string(any(6)));
    workload->authorization_policies = NameList(named.begin(), named.end());
    return workload;
  }
  Ref<Service> service() {
    auto service = make_ref<Service>();
    const std::string key = service_key();
    service->ns = key.substr(0, key.find('/'));
    service->hostname = key.substr(key.find('/') + 1);
    service->canonical = any(3) == 0;
    service->visibility = any(4) ? Visibility::kPublic : Visibility::kNamespace;
    service->ports = {{80, 8080}};
    if (any(2))
      service->load_balancing =
          LoadBalancing{.routing_preference = {}, .health_policy = any(2) ? HealthPolicy::kAllowAll : HealthPolicy::kOnlyHealthy};
    for (uint32_t i = any(3); i > 0; --i) service->vips.push_back({network(), address()});
    for (uint32_t i = any(3); i > 0; --i) {
      const IpAddress base = address();
      service->cidr_vips.push_back({network(), *Cidr::make(base, any(base.is_v4() ? 33 : 129))});
    }
    return service;
  }

  Ref<Authorization> policy() {
    auto policy = make_ref<Authorization>();
    policy->name = "policy" + std::to_string(any(6));
    policy->ns = ns();
    policy->scope = std::array{PolicyScope::kGlobal, PolicyScope::kNamespace, PolicyScope::kWorkloadSelector}[any(3)];
    policy->action = any(2) ? PolicyAction::kAllow : PolicyAction::kDeny;
    return policy;
  }

 private:
  std::mt19937 random_;
  uint32_t names_;
};

void compare(const Model& model, const Snapshot& snapshot) {
  REQUIRE(snapshot.workload_count() == model.workloads.size());
  REQUIRE(snapshot.service_count() == model.services.size());
  for (uint32_t i = 0; i < 9; ++i) {
    const IpAddress address = i < 6 ? IpAddress::v4(0x0a000000u + i) : ip("2001:db8::" + std::to_string(i - 6));
    for (const std::string network : {"", "n1"}) {
      const auto owns = [&](const Workload& workload) {
        return workload.network == network && workload.has_address(address) && workload.network_mode == NetworkMode::kStandard;
      };
      REQUIRE(uid_of(snapshot.workload(network, address)) == model.best(owns));
      for (const std::string client : {"ns0", "ns1", "ns2", "else"})
        REQUIRE(key_of(snapshot.service_by_vip(network, address, client)) == model.service_by_vip(network, address, client));
    }
  }
  for (uint32_t i = 0; i < 4; ++i)
    for (const std::string ns : {"ns0", "ns1", "ns2"})
      for (const std::string account : {"sa0", "sa1"}) {
        const std::string name = "pod" + std::to_string(i);
        const auto local = [&](const Workload& workload) {
          return workload.name == name && workload.ns == ns && workload.service_account == account && workload.node == "n0";
        };
        REQUIRE(uid_of(snapshot.local_workload({name, ns, account})) == model.best(local));
      }
  for (const std::string ns : {"ns0", "ns1", "ns2"})
    for (const std::string host : {"host0", "host1"})
      REQUIRE(uid_of(snapshot.workload_by_hostname(ns, host)) ==
              model.best([&](const Workload& workload) { return workload.ns == ns && workload.hostname == host; }));
  for (const auto& service : model.services) {
    const ServiceEntry* entry = snapshot.service(Model::key(*service));
    REQUIRE(entry != nullptr);
    std::set<std::string> uids;
    for (const Endpoint& endpoint : entry->endpoints()) {
      uids.insert(endpoint.workload->uid.str());
      REQUIRE(endpoint.workload.get() == snapshot.workload(endpoint.workload->uid));
      REQUIRE(endpoint.ports == endpoint.workload->membership(Model::key(*service))->ports);
    }
    REQUIRE(uids == model.endpoints(*service));
    REQUIRE(entry->endpoints().size() == uids.size());
  }
  REQUIRE(snapshot.policy_count() == model.policies.size());
  for (const auto& [name, policy] : model.policies) {
    REQUIRE(snapshot.policy(name) != nullptr);
    REQUIRE(snapshot.policy(name)->spec->action == policy.action);
  }
  for (const auto& [uid, held] : model.workloads) {
    std::multiset<std::string> names;
    snapshot.for_each_policy_of(*held.workload, [&](const Policy* policy, std::string_view name) {
      names.insert(std::string(name) + (policy != nullptr ? "" : "?"));
      return true;
    });
    REQUIRE(names == model.policies_of(*held.workload));
  }
  std::set<std::string> staged;
  snapshot.for_each_staged_service([&](const StagedService& service) {
    for (const Endpoint& endpoint : service.endpoints) staged.insert(service.key.str() + " " + endpoint.workload->uid.str());
  });
  REQUIRE(staged == model.staged());
}

}  // namespace

namespace {

// A world of few names, where everything collides in small pushes, and one of many, with large pushes.
void push_at_random(uint32_t seed, uint32_t names, uint32_t pushed, int steps) {
  INFO("seed " << seed << ", " << names << " names");
  Generator generate(seed, names);
  Model model;
  Store store({.node_name = "n0"});
  std::vector<std::pair<SnapshotPtr, Model>> kept;
  for (int step = 0; step < steps; ++step) {
    INFO("step " << step);
    Batch batch;
    std::map<std::string, size_t> last;  // a name that comes twice in one push: its last counts
    for (uint32_t i = generate.any(pushed); i > 0; --i) {
      batch.workloads.push_back(generate.workload());
      last[batch.workloads.back()->uid.str()] = batch.workloads.size();
    }
    for (size_t i = 0; i < batch.workloads.size(); ++i) {
      // As the store will keep it, so that sending the same again is the same for both.
      Workload seen = *batch.workloads[i];
      seen.identity = "spiffe://cluster.local/ns/" + seen.ns.str() + "/sa/" + seen.service_account.str();
      if (last[seen.uid.str()] == i + 1) model.put(seen);
    }
    for (uint32_t i = generate.any(3); i > 0; --i) {
      batch.services.push_back(generate.service());
      model.put(*batch.services.back());
    }
    for (uint32_t i = generate.any(3); i > 0; --i) {
      batch.policies.push_back(generate.policy());
      const Authorization& policy = *batch.policies.back();
      model.policies[policy.ns.str() + "/" + policy.name.str()] = policy;
    }
    for (uint32_t i = generate.any(pushed) / 2; i > 0; --i) {
      batch.removed_addresses.push_back(generate.any(3) == 0 ? generate.service_key() : generate.uid());
      model.remove(batch.removed_addresses.back());
    }
    if (generate.any(3) == 0) {
      batch.removed_policies.push_back(generate.ns() + "/policy" + std::to_string(generate.any(6)));
      model.policies.erase(batch.removed_policies.back());
    }
    REQUIRE(store.apply(std::move(batch)).empty());
    compare(model, *store.snapshot());
    if (step % 20 == 0) kept.emplace_back(store.snapshot(), model);
  }
  for (const auto& [snapshot, then] : kept) compare(then, *snapshot);

  // Taking everything away leaves nothing behind.
  Batch nothing;
  for (const auto& [uid, held] : model.workloads) nothing.removed_addresses.push_back(uid);
  for (const auto& service : model.services) nothing.removed_addresses.push_back(Model::key(*service));
  for (const auto& [name, policy] : model.policies) nothing.removed_policies.push_back(name);
  store.apply(std::move(nothing));
  compare(Model{}, *store.snapshot());
}

}  // namespace

TEST_CASE("Whatever is pushed in whatever order, the store answers as a walk over everything would") {
  for (uint32_t seed = 1; seed <= 20; ++seed) push_at_random(seed, 25, 6, 60);
}

TEST_CASE("Large pushes, which build the tables at once, lead to the same answers") {
  for (uint32_t seed = 1; seed <= 4; ++seed) push_at_random(seed, 400, 300, 21);
}

}  // namespace zt::workload_api
