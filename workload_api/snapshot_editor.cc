#include "workload_api/snapshot_editor.h"

#include <algorithm>

namespace zt::workload_api {
namespace {

// Adds to, or takes from, the group of workloads under `key`.
template <class Rules, class Key>
void add_to_group(HashTrie<Rules>& table, const Key& key, const WorkloadPtr& workload) {
  const auto* present = table.find(key);
  table.put(key, (present != nullptr ? *present : WorkloadGroup{}).with(workload));
}

template <class Rules, class Key>
void remove_from_group(HashTrie<Rules>& table, const Key& key, const Workload& workload) {
  const auto* present = table.find(key);
  if (present == nullptr) return;
  WorkloadGroup rest = present->without(workload);
  if (rest.best) {
    table.put(key, std::move(rest));
  } else {
    table.erase(key);
  }
}

// The entry of the address table for what is left of, or has become, a group; `ip` is an address of each of
// its workloads.
WorkloadByAddress::Entry address_entry(WorkloadGroup group, const IpAddress& ip) {
  const auto& addresses = group.best->addresses;
  const auto index = std::ranges::find(addresses, ip) - addresses.begin();
  return {std::move(group), static_cast<uint64_t>(index)};
}

template <class Rules, class LookupKey, class List>
void replace_in(HashTrie<Rules>& table, const LookupKey& key, const List& stored_key, const Service* old,
                const ServicePtr& service) {
  const auto* present = table.find(key);
  auto next = make_ref<ServicesOf<List>>();
  next->key = stored_key;
  if (present != nullptr) next->services = (*present)->services;
  replace(next->services, old, service);
  if (next->services.empty()) {
    table.erase(key);
  } else {
    table.put(key, std::move(next));
  }
}

bool names(const std::vector<NetworkAddress>& vips, const NetworkAddress& vip) {
  return std::ranges::find(vips, vip) != vips.end();
}
bool names(const std::vector<NetworkCidr>& blocks, const NetworkCidr& block) {
  return std::ranges::find(blocks, block) != blocks.end();
}

PolicyListPtr with_policy(const PolicyList* list, const Str& ns, const PolicyPtr& policy, const Policy* old) {
  auto next = make_ref<PolicyList>();
  next->ns = ns;
  if (list != nullptr) next->policies = list->policies;
  const auto at =
      std::ranges::find_if(next->policies, [&](const PolicyPtr& other) { return other.get() == old; });
  if (at != next->policies.end()) {
    *at = policy;
  } else {
    next->policies.push_back(policy);
  }
  return next;
}

PolicyListPtr without_policy(const PolicyList& list, const Policy& policy) {
  auto next = make_ref<PolicyList>();
  next->ns = list.ns;
  std::ranges::copy_if(list.policies, std::back_inserter(next->policies),
                       [&](const PolicyPtr& other) { return other.get() != &policy; });
  return next->policies.empty() ? PolicyListPtr() : PolicyListPtr(std::move(next));
}

}  // namespace

// ---- Workloads

void SnapshotEditor::add_workload(const WorkloadPtr& workload, bool local) {
  draft_.workloads_.put(workload->uid.view(), workload);
  if (workload->network_mode != NetworkMode::kHostNetwork) {
    for (const IpAddress& ip : workload->addresses) {
      const WorkloadByAddress::Key key{workload->network.view(), ip};
      const auto* present = draft_.addresses_.find(key);
      draft_.addresses_.put(
          key, address_entry((present != nullptr ? present->group : WorkloadGroup{}).with(workload), ip));
    }
  }
  if (!workload->hostname.empty())
    add_to_group(draft_.hostnames_, WorkloadByHostname::Key{workload->ns.view(), workload->hostname.view()},
                 workload);
  if (local) add_to_group(draft_.local_, WorkloadByInfo::key(*workload), workload);
}

void SnapshotEditor::remove_workload(const Workload& workload, bool local) {
  const WorkloadPtr held(&workload);  // the tables may have the last references
  if (local) remove_from_group(draft_.local_, WorkloadByInfo::key(workload), workload);
  if (!workload.hostname.empty())
    remove_from_group(draft_.hostnames_,
                      WorkloadByHostname::Key{workload.ns.view(), workload.hostname.view()}, workload);
  if (workload.network_mode != NetworkMode::kHostNetwork) {
    for (const IpAddress& ip : workload.addresses) {
      const WorkloadByAddress::Key key{workload.network.view(), ip};
      const auto* present = draft_.addresses_.find(key);
      if (present == nullptr) continue;
      WorkloadGroup rest = present->group.without(workload);
      if (rest.best) {
        draft_.addresses_.put(key, address_entry(std::move(rest), ip));
      } else {
        draft_.addresses_.erase(key);
      }
    }
  }
  draft_.workloads_.erase(workload.uid.view());
}

// ---- Services

void SnapshotEditor::index_service(const Service* old, const ServicePtr& service) {
  for (const NetworkAddress& vip : service->vips)
    replace_in(draft_.vips_, ServicesByVip::key(vip), vip, old, service);
  for (const NetworkCidr& block : service->cidr_vips) draft_.cidrs_.replace(block, old, service);
  replace_in(draft_.service_hostnames_, service->hostname.view(), service->hostname, old, service);
  if (old == nullptr) return;
  for (const NetworkAddress& vip : old->vips)
    if (!names(service->vips, vip)) replace_in(draft_.vips_, ServicesByVip::key(vip), vip, old, nullptr);
  for (const NetworkCidr& block : old->cidr_vips)
    if (!names(service->cidr_vips, block)) draft_.cidrs_.replace(block, old, nullptr);
}

void SnapshotEditor::unindex_service(const Service& service) {
  for (const NetworkAddress& vip : service.vips)
    replace_in(draft_.vips_, ServicesByVip::key(vip), vip, &service, nullptr);
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
  switch (policy->spec->scope) {
    case PolicyScope::kGlobal:
      draft_.global_policies_ = with_policy(draft_.global_policies_.get(), {}, policy, old);
      break;
    case PolicyScope::kNamespace: {
      const Str& ns = policy->spec->ns;
      const auto* present = draft_.scoped_policies_.find(ns.view());
      draft_.scoped_policies_.put(
          ns.view(), with_policy(present != nullptr ? present->get() : nullptr, ns, policy, old));
      break;
    }
    case PolicyScope::kWorkloadSelector:
      break;  // found by name only
  }
}

void SnapshotEditor::unindex_policy(const Policy& policy) {
  switch (policy.spec->scope) {
    case PolicyScope::kGlobal:
      draft_.global_policies_ = without_policy(*draft_.global_policies_, policy);
      break;
    case PolicyScope::kNamespace: {
      const std::string_view ns = policy.spec->ns.view();
      PolicyListPtr rest = without_policy(**draft_.scoped_policies_.find(ns), policy);
      if (rest) {
        draft_.scoped_policies_.put(ns, std::move(rest));
      } else {
        draft_.scoped_policies_.erase(ns);
      }
      break;
    }
    case PolicyScope::kWorkloadSelector:
      break;
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
