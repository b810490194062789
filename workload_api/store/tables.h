#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "mesh/pod_name.h"
#include "workload_api/model/model.h"
#include "workload_api/model/policy.h"
#include "workload_api/store/hash_trie.h"
#include "workload_api/store/service_entry.h"

// Keys and entries of the tables a Snapshot is made of (the Rules of each HashTrie).
namespace zt::workload_api {

namespace hashing {
inline uint64_t mix(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a ^ 0x9e3779b97f4a7c15) * (b ^ 0xd1b54a32d192ed03);
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}
inline uint64_t of(std::string_view text) { return std::hash<std::string_view>{}(text); }
inline uint64_t of(const IpAddress& ip) {
  uint64_t words[2] = {0, 0};
  std::memcpy(words, ip.bytes().data(), ip.bytes().size());
  return mix(words[0], words[1] + ip.is_v4());
}
}  // namespace hashing

// ---- Workloads

// §3.1: what makes one of several workloads with an address the better one.
inline int preference_score(const Workload& workload) {
  return (workload.uid.view().find("//Pod/") != std::string_view::npos ? 2 : 0) +
         (workload.protocol == TunnelProtocol::kHbone ? 1 : 0);
}

// Workloads that share a key. The best is the one with the highest score, and of equals the one added last.
// Nearly always there is one, so that one costs no allocation.
struct WorkloadGroup {
  struct Others : RefCounted {
    std::vector<WorkloadPtr> workloads;  // the better, the further back
  };
  WorkloadPtr best;
  Ref<Others> others;  // null if there are none; changed in place while no snapshot holds it

  template <class Visit>
  void for_each(Visit&& visit) const {
    visit(*best);
    if (others)
      for (const WorkloadPtr& workload : others->workloads) visit(*workload);
  }
  void add(const WorkloadPtr& added);
  void remove(const Workload& removed);  // best is null if nothing is left
};

struct WorkloadByUid {
  using Entry = WorkloadPtr;
  static std::string_view key(const Entry& entry) { return entry->uid.view(); }
  static uint64_t hash(const Entry& entry) { return hashing::of(entry->uid.view()); }
  static uint64_t hash(std::string_view uid) { return hashing::of(uid); }
  static bool equal(const Entry& entry, std::string_view uid) { return entry->uid.view() == uid; }
};

struct WorkloadByAddress {
  struct Key {
    std::string_view network;
    const IpAddress& ip;
  };
  struct Entry {
    WorkloadGroup group;
    uint64_t index = 0;  // the address is group.best->addresses[index]
    [[nodiscard]] Key key() const { return {group.best->network.view(), group.best->addresses[index]}; }
  };
  static Key key(const Entry& entry) { return entry.key(); }
  static uint64_t hash(const Key& key) { return hashing::mix(hashing::of(key.network), hashing::of(key.ip)); }
  static uint64_t hash(const Entry& entry) { return hash(entry.key()); }
  static bool equal(const Entry& entry, const Key& key) {
    const Key own = entry.key();
    return own.ip == key.ip && own.network == key.network;
  }
};

struct WorkloadByHostname {
  struct Key {
    std::string_view ns, hostname;
  };
  using Entry = WorkloadGroup;
  static uint64_t hash(const Key& key) { return hashing::mix(hashing::of(key.ns), hashing::of(key.hostname)); }
  static uint64_t hash(const Entry& entry) { return hash(Key{entry.best->ns.view(), entry.best->hostname.view()}); }
  static bool equal(const Entry& entry, const Key& key) {
    return entry.best->hostname.view() == key.hostname && entry.best->ns.view() == key.ns;
  }
};

struct WorkloadByPodName {
  using Entry = WorkloadGroup;
  static PodNameView key(const Workload& workload) {
    return {workload.name.view(), workload.ns.view(), workload.service_account.view()};
  }
  static uint64_t hash(const PodNameView& pod) {
    return hashing::mix(hashing::mix(hashing::of(pod.name), hashing::of(pod.ns)), hashing::of(pod.service_account));
  }
  static uint64_t hash(const Entry& entry) { return hash(key(*entry.best)); }
  static bool equal(const Entry& entry, const PodNameView& pod) { return key(*entry.best) == pod; }
};

// ---- Services. The tables by address and name hold services; the table by key holds them with their
// endpoints, which change far more often.

using ServicePtr = Ref<const Service>;

// Services that share a key, in the order of their names: ties go to the first, and every node decides them
// alike. Like all lists in the tables, changed in place while no snapshot holds it.
using ServiceList = absl::InlinedVector<ServicePtr, 1>;  // nearly always one
template <class KeyType>
struct ServicesOf : RefCounted {
  KeyType key;
  ServiceList services;
};
using VipServices = ServicesOf<NetworkAddress>;
using BlockServices = ServicesOf<NetworkCidr>;
using HostnameServices = ServicesOf<Str>;

// Puts `service` in the place of `old`, which has the same name; either may be null.
void replace(ServiceList& services, const Service* old, const ServicePtr& service);

struct ServiceByKey {
  using Entry = ServiceEntryPtr;
  static uint64_t hash(const Entry& entry) { return hashing::of(entry->service().key.view()); }
  static uint64_t hash(std::string_view key) { return hashing::of(key); }
  static bool equal(const Entry& entry, std::string_view key) { return entry->service().key.view() == key; }
};

struct ServicesByVip {
  using Key = WorkloadByAddress::Key;
  using Entry = Ref<VipServices>;
  static Key key(const NetworkAddress& address) { return {address.network.view(), address.ip}; }
  static uint64_t hash(const Key& key) { return WorkloadByAddress::hash(key); }
  static uint64_t hash(const Entry& entry) { return hash(key(entry->key)); }
  static bool equal(const Entry& entry, const Key& key) {
    return entry->key.ip == key.ip && entry->key.network.view() == key.network;
  }
};

struct ServicesByHostname {
  using Entry = Ref<HostnameServices>;
  static uint64_t hash(std::string_view hostname) { return hashing::of(hostname); }
  static uint64_t hash(const Entry& entry) { return hash(entry->key.view()); }
  static bool equal(const Entry& entry, std::string_view hostname) { return entry->key.view() == hostname; }
};

struct StagedByKey {
  using Entry = Ref<const StagedService>;
  static uint64_t hash(std::string_view key) { return hashing::of(key); }
  static uint64_t hash(const Entry& entry) { return hash(entry->key.view()); }
  static bool equal(const Entry& entry, std::string_view key) { return entry->key.view() == key; }
};

// ---- Policies

struct PolicyByKey {
  using Entry = PolicyPtr;
  static uint64_t hash(std::string_view key) { return hashing::of(key); }
  static uint64_t hash(const Entry& entry) { return hash(entry->spec->key.view()); }
  static bool equal(const Entry& entry, std::string_view key) { return entry->spec->key.view() == key; }
};

struct PolicyList : RefCounted {
  Str ns;
  std::vector<PolicyPtr> policies;  // in the order they came
};

using PolicyListPtr = Ref<PolicyList>;

struct PoliciesByNamespace {
  using Entry = PolicyListPtr;
  static uint64_t hash(std::string_view ns) { return hashing::of(ns); }
  static uint64_t hash(const Entry& entry) { return hash(entry->ns.view()); }
  static bool equal(const Entry& entry, std::string_view ns) { return entry->ns.view() == ns; }
};

}  // namespace zt::workload_api
