#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "workload_api/model/model.h"
#include "workload_api/model/policy.h"
#include "workload_api/store/cidr_table.h"
#include "workload_api/store/hash_trie.h"
#include "workload_api/store/service_entry.h"
#include "workload_api/store/tables.h"

namespace zt::workload_api {

class Snapshot;
using SnapshotPtr = std::shared_ptr<const Snapshot>;

// Everything that is known at one moment. Made by the store on the control thread, read by any thread without
// a lock.
//
// Lifetime: plain pointers and spans from lookups live as long as the SnapshotPtr is held. To keep an object
// longer (a connection keeps its workloads) make a handle of it: WorkloadPtr(pointer),
// ServiceEntryPtr(pointer), PolicyPtr(pointer). Holding an old snapshot is allowed and costs only what has
// changed since.
class Snapshot {
 public:
  // ---- Workloads

  [[nodiscard]] const Workload* workload(std::string_view uid) const;

  // The owner of an address, host-network workloads excepted. Of several the best: `//Pod/` in the uid counts
  // 2, HBONE counts 1, and of equals the one added last (§3.1).
  [[nodiscard]] const Workload* workload(std::string_view network, const IpAddress& ip) const;

  // Used for waypoints and gateways that are given by hostname. Of several, the best as above.
  [[nodiscard]] const Workload* workload_by_hostname(std::string_view ns, std::string_view hostname) const;

  // One of this node's own workloads (every workload counts as such if the store was given no node name). All
  // three must be equal.
  [[nodiscard]] const Workload* local_workload(const PodNameView& pod) const;

  // ---- Services

  [[nodiscard]] const ServiceEntry* service(std::string_view ns, std::string_view hostname) const;
  [[nodiscard]] const ServiceEntry* service(std::string_view key) const;  // "namespace/hostname"

  // The service behind an address, for a client in `client_ns` (§3.1): exact VIP first, then address blocks.
  // Without a client namespace no service is hidden and none preferred by namespace.
  [[nodiscard]] const ServiceEntry* service_by_vip(std::string_view network, const IpAddress& ip,
                                                   std::optional<std::string_view> client_ns) const;

  // The service of that hostname (bytewise; a wildcard service is found by its literal "*.…"). Order of
  // choice: client's namespace, canonical, `preferred_ns` (DNS only), first by name.
  // Services that `wanted` refuses count as unknown.
  using ServiceFilter = std::function<bool(const Service&)>;
  [[nodiscard]] const ServiceEntry* service_by_hostname(std::string_view hostname, std::optional<std::string_view> client_ns,
                                                        std::optional<std::string_view> preferred_ns = {},
                                                        const ServiceFilter& wanted = {}) const;

  // ---- Policies

  [[nodiscard]] const Policy* policy(std::string_view key) const;  // "namespace/name"

  // Policies that apply to a workload (§5.1): those of its namespace, the global ones, and those it names.
  // `visit` is called as visit(const Policy* policy, std::string_view name) and returns false to stop; a
  // policy that the workload names but that has not been delivered comes as null with its name. What to do
  // then is the caller's decision.
  template <class Visit>
  void for_each_policy_of(const Workload& workload, Visit&& visit) const;

  // ---- Versions

  // Counts publications. A snapshot with a higher number is newer.
  [[nodiscard]] uint64_t generation() const { return generation_; }
  // Changes whenever a decision about an open connection of a local workload may have changed: a policy was
  // added, changed or removed, or the namespace or policy list of a local workload changed.
  [[nodiscard]] uint64_t policy_generation() const { return policy_generation_; }

  // ---- Everything, in no particular order (admin dump)

  template <class Visit>
  void for_each_workload(Visit&& visit) const {  // visit(const Workload&)
    workloads_.for_each([&](const WorkloadPtr& workload) { visit(*workload); });
  }
  template <class Visit>
  void for_each_local_workload(Visit&& visit) const {  // visit(const Workload&)
    local_.for_each([&](const WorkloadGroup& group) { group.for_each(visit); });
  }
  template <class Visit>
  void for_each_service(Visit&& visit) const {  // visit(const ServiceEntry&)
    services_.for_each([&](const ServiceEntryPtr& entry) { visit(*entry); });
  }
  template <class Visit>
  void for_each_policy(Visit&& visit) const {  // visit(const Policy&)
    policies_.for_each([&](const PolicyPtr& policy) { visit(*policy); });
  }
  template <class Visit>
  void for_each_staged_service(Visit&& visit) const {  // visit(const StagedService&)
    staged_.for_each([&](const Ref<const StagedService>& staged) { visit(*staged); });
  }
  [[nodiscard]] size_t workload_count() const { return workloads_.size(); }
  [[nodiscard]] size_t service_count() const { return services_.size(); }
  [[nodiscard]] size_t policy_count() const { return policies_.size(); }

 private:
  friend class SnapshotEditor;

  [[nodiscard]] const ServiceEntry* best(std::span<const ServicePtr> services, std::optional<std::string_view> client_ns,
                                         std::optional<std::string_view> preferred_ns, const ServiceFilter& wanted = {}) const;

  HashTrie<WorkloadByUid> workloads_;
  HashTrie<WorkloadByAddress> addresses_;
  HashTrie<WorkloadByHostname> hostnames_;
  HashTrie<WorkloadByPodName> local_;
  HashTrie<ServiceByKey> services_;
  HashTrie<ServicesByVip> vips_;
  HashTrie<ServicesByHostname> service_hostnames_;
  CidrTable cidrs_;
  HashTrie<StagedByKey> staged_;
  HashTrie<PolicyByKey> policies_;
  HashTrie<PoliciesByNamespace> scoped_policies_;
  PolicyListPtr global_policies_;
  uint64_t generation_ = 0;
  uint64_t policy_generation_ = 0;
};

template <class Visit>
void Snapshot::for_each_policy_of(const Workload& workload, Visit&& visit) const {
  const PolicyListPtr* scoped = scoped_policies_.find(workload.ns.view());
  for (const PolicyList* list : {scoped != nullptr ? scoped->get() : nullptr, global_policies_.get()}) {
    if (list == nullptr) continue;
    for (const PolicyPtr& policy : list->policies)
      if (!visit(policy.get(), policy->spec->key.view())) return;
  }
  for (const std::string_view name : workload.authorization_policies)
    if (!visit(policy(name), name)) return;
}

}  // namespace zt::workload_api
