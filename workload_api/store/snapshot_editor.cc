#include "workload_api/store/snapshot_editor.h"

#include <algorithm>
#include <tuple>

namespace zt::workload_api {
namespace {

// Adds to, or takes from, the group of workloads under `key`.
template <class Rules, class Key>
void add_to_group(HashTrie<Rules>& table, const Key& key, const WorkloadPtr& workload) {
  if (!table.edit(key, [&](WorkloadGroup& group) { group.add(workload); })) table.put(key, {workload, nullptr});
}

template <class Rules, class Key>
void remove_from_group(HashTrie<Rules>& table, const Key& key, const Workload& workload) {
  const WorkloadGroup* present = table.find(key);
  if (present == nullptr) return;
  if (present->others) {
    table.edit(key, [&](WorkloadGroup& group) { group.remove(workload); });
  } else if (present->best.get() == &workload) {
    table.erase(key);
  }
}

// Says anew which of the addresses of the group's best workload is `ip`, which all of its workloads have.
void find_address(WorkloadByAddress::Entry& entry, const IpAddress& ip) {
  const auto& addresses = entry.group.best->addresses;
  entry.index = static_cast<uint64_t>(std::ranges::find(addresses, ip) - addresses.begin());
}

template <class Rules, class LookupKey, class List>
void replace_in(HashTrie<Rules>& table, const LookupKey& key, const List& stored_key, const Service* old,
                const ServicePtr& service) {
  bool empty = false;
  const bool found = table.edit(key, [&](Ref<ServicesOf<List>>& list) {
    replace(own(list).services, old, service);
    empty = list->services.empty();
  });
  if (empty) {
    table.erase(key);
  } else if (!found && service) {
    auto list = make_ref<ServicesOf<List>>();
    list->key = stored_key;
    list->services.push_back(service);
    table.put(key, std::move(list));
  }
}

bool names(const std::vector<NetworkAddress>& vips, const NetworkAddress& vip) {
  return std::ranges::find(vips, vip) != vips.end();
}
bool names(const std::vector<NetworkCidr>& blocks, const NetworkCidr& block) {
  return std::ranges::find(blocks, block) != blocks.end();
}

void put_into(PolicyListPtr& list, const Str& ns, const PolicyPtr& policy, const Policy* old) {
  PolicyList& changed = own(list);
  changed.ns = ns;
  if (old == nullptr) {
    changed.policies.push_back(policy);
  } else {
    *std::ranges::find(changed.policies, old, &PolicyPtr::get) = policy;
  }
}

// The list is null if nothing is left.
void take_from(PolicyListPtr& list, const Policy& policy) {
  auto& policies = own(list).policies;
  policies.erase(std::ranges::find(policies, &policy, &PolicyPtr::get));
  if (policies.empty()) list = nullptr;
}

}  // namespace

// ---- Workloads

void SnapshotEditor::add_workload(const WorkloadPtr& workload, bool local) {
  draft_.workloads_.put(workload->uid.view(), workload);
  if (workload->network_mode != NetworkMode::kHostNetwork)
    for (size_t i = 0; i < workload->addresses.size(); ++i) add_address(workload, i);
  add_names(workload, local);
}

void SnapshotEditor::add_workloads(std::span<const WorkloadPtr> workloads, const std::vector<bool>& local) {
  constexpr size_t kMany = 64;  // from here on sorting is cheaper than going down the tables for each
  if (workloads.size() < kMany) {
    for (size_t i = 0; i < workloads.size(); ++i) add_workload(workloads[i], local[i]);
    return;
  }
  std::vector<HashTrie<WorkloadByUid>::Item> uids;
  struct Address {
    uint64_t hash;
    uint32_t workload;
    uint32_t index;
  };
  std::vector<Address> addresses;
  uids.reserve(workloads.size());
  addresses.reserve(workloads.size());
  for (size_t i = 0; i < workloads.size(); ++i) {
    const WorkloadPtr& workload = workloads[i];
    uids.push_back({WorkloadByUid::hash(workload), workload});
    if (workload->network_mode != NetworkMode::kHostNetwork)
      for (size_t at = 0; at < workload->addresses.size(); ++at)
        addresses.push_back({WorkloadByAddress::hash({workload->network.view(), workload->addresses[at]}),
                             static_cast<uint32_t>(i), static_cast<uint32_t>(at)});
    add_names(workload, local[i]);
  }
  std::ranges::sort(uids, {}, &HashTrie<WorkloadByUid>::Item::hash);
  draft_.workloads_.put_all(uids);

  std::ranges::sort(
      addresses, [](const Address& a, const Address& b) { return std::tie(a.hash, a.workload) < std::tie(b.hash, b.workload); });
  std::vector<HashTrie<WorkloadByAddress>::Item> alone;
  alone.reserve(addresses.size());
  for (size_t i = 0; i < addresses.size(); ++i) {
    const auto& [hash, of, index] = addresses[i];
    const WorkloadPtr& workload = workloads[of];
    const bool shared =
        (i > 0 && addresses[i - 1].hash == hash) || (i + 1 < addresses.size() && addresses[i + 1].hash == hash) ||
        draft_.addresses_.find(WorkloadByAddress::Key{workload->network.view(), workload->addresses[index]}) != nullptr;
    if (shared) {
      add_address(workload, index);
    } else {
      alone.push_back({hash, {{workload, nullptr}, index}});
    }
  }
  draft_.addresses_.put_all(alone);
}

void SnapshotEditor::add_address(const WorkloadPtr& workload, size_t index) {
  const WorkloadByAddress::Key key{workload->network.view(), workload->addresses[index]};
  const bool shared = draft_.addresses_.edit(key, [&](WorkloadByAddress::Entry& entry) {
    entry.group.add(workload);
    find_address(entry, key.ip);
  });
  if (!shared) draft_.addresses_.put(key, {{workload, nullptr}, index});
}

void SnapshotEditor::add_names(const WorkloadPtr& workload, bool local) {
  if (!workload->hostname.empty())
    add_to_group(draft_.hostnames_, WorkloadByHostname::Key{workload->ns.view(), workload->hostname.view()}, workload);
  if (local) add_to_group(draft_.local_, WorkloadByPodName::key(*workload), workload);
}

void SnapshotEditor::remove_workload(const Workload& workload, bool local) {
  const WorkloadPtr held(&workload);  // the tables may have the last references
  if (local) remove_from_group(draft_.local_, WorkloadByPodName::key(workload), workload);
  if (!workload.hostname.empty())
    remove_from_group(draft_.hostnames_, WorkloadByHostname::Key{workload.ns.view(), workload.hostname.view()}, workload);
  if (workload.network_mode != NetworkMode::kHostNetwork) {
    for (const IpAddress& ip : workload.addresses) {
      const WorkloadByAddress::Key key{workload.network.view(), ip};
      const auto* present = draft_.addresses_.find(key);
      if (present == nullptr) continue;
      if (present->group.others) {
        draft_.addresses_.edit(key, [&](WorkloadByAddress::Entry& entry) {
          entry.group.remove(workload);
          find_address(entry, ip);
        });
      } else if (present->group.best.get() == &workload) {
        draft_.addresses_.erase(key);
      }
    }
  }
  draft_.workloads_.erase(workload.uid.view());
}

// ---- Services

void SnapshotEditor::index_service(const Service* old, const ServicePtr& service) {
  for (const NetworkAddress& vip : service->vips) replace_in(draft_.vips_, ServicesByVip::key(vip), vip, old, service);
  for (const NetworkCidr& block : service->cidr_vips) draft_.cidrs_.replace(block, old, service);
  replace_in(draft_.service_hostnames_, service->hostname.view(), service->hostname, old, service);
  if (old == nullptr) return;
  for (const NetworkAddress& vip : old->vips)
    if (!names(service->vips, vip)) replace_in(draft_.vips_, ServicesByVip::key(vip), vip, old, nullptr);
  for (const NetworkCidr& block : old->cidr_vips)
    if (!names(service->cidr_vips, block)) draft_.cidrs_.replace(block, old, nullptr);
}

void SnapshotEditor::unindex_service(const Service& service) {
  for (const NetworkAddress& vip : service.vips) replace_in(draft_.vips_, ServicesByVip::key(vip), vip, &service, nullptr);
  for (const NetworkCidr& block : service.cidr_vips) draft_.cidrs_.replace(block, &service, nullptr);
  replace_in(draft_.service_hostnames_, service.hostname.view(), service.hostname, &service, nullptr);
}

void SnapshotEditor::put_entry(ServiceEntryPtr entry) {
  const Str key = entry->service().key;
  draft_.services_.put(key.view(), std::move(entry));
}
void SnapshotEditor::remove_entry(std::string_view key) { draft_.services_.erase(key); }
void SnapshotEditor::put_staged(Ref<const StagedService> staged) {
  const Str key = staged->key;
  draft_.staged_.put(key.view(), std::move(staged));
}
void SnapshotEditor::remove_staged(std::string_view key) { draft_.staged_.erase(key); }

// ---- Policies

void SnapshotEditor::index_policy(const PolicyPtr& policy, const Policy* old) {
  const Str& ns = policy->spec->ns;
  switch (policy->spec->scope) {
    case PolicyScope::kGlobal: put_into(draft_.global_policies_, {}, policy, old); break;
    case PolicyScope::kNamespace:
      if (!draft_.scoped_policies_.edit(ns.view(), [&](PolicyListPtr& list) { put_into(list, ns, policy, old); })) {
        PolicyListPtr list;
        put_into(list, ns, policy, old);
        draft_.scoped_policies_.put(ns.view(), std::move(list));
      }
      break;
    case PolicyScope::kWorkloadSelector: break;  // found by name only
  }
}

void SnapshotEditor::unindex_policy(const Policy& policy) {
  switch (policy.spec->scope) {
    case PolicyScope::kGlobal: take_from(draft_.global_policies_, policy); break;
    case PolicyScope::kNamespace: {
      const std::string_view ns = policy.spec->ns.view();
      if ((*draft_.scoped_policies_.find(ns))->policies.size() == 1) {
        draft_.scoped_policies_.erase(ns);
      } else {
        draft_.scoped_policies_.edit(ns, [&](PolicyListPtr& list) { take_from(list, policy); });
      }
      break;
    }
    case PolicyScope::kWorkloadSelector: break;
  }
}

void SnapshotEditor::put_policy(PolicyPtr policy) {
  const std::string_view key = policy->spec->key.view();
  if (const PolicyPtr* present = draft_.policies_.find(key)) {
    const PolicyPtr old = *present;
    const bool same_index = old->spec->scope == policy->spec->scope && old->spec->ns == policy->spec->ns;
    if (!same_index) unindex_policy(*old);
    index_policy(policy, same_index ? old.get() : nullptr);
  } else {
    index_policy(policy, nullptr);
  }
  draft_.policies_.put(key, std::move(policy));
}

bool SnapshotEditor::remove_policy(std::string_view key) {
  const PolicyPtr* present = draft_.policies_.find(key);
  if (present == nullptr) return false;
  const PolicyPtr old = *present;
  unindex_policy(*old);
  draft_.policies_.erase(key);
  return true;
}

SnapshotPtr SnapshotEditor::publish() {
  ++draft_.generation_;
  return std::make_shared<const Snapshot>(draft_);
}

}  // namespace zt::workload_api
