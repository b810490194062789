#pragma once
#include <span>
#include <vector>

#include "workload_api/store/snapshot.h"

namespace zt::workload_api {

// The tables of the next snapshot, while they are being changed. Keeps the indexes of a Snapshot in step with
// the objects put in and taken out; knows nothing of why. Control thread only.
class SnapshotEditor {
 public:
  // `local`: the workload belongs to this node. Adding a workload makes it the one added last among those
  // that share a key. Many are added in the order given, for much less than one by one; none of them may be
  // there already, nor twice.
  void add_workload(const WorkloadPtr& workload, bool local);
  void add_workloads(std::span<const WorkloadPtr> workloads, const std::vector<bool>& local);
  void remove_workload(const Workload& workload, bool local);

  // Enters a service into the tables by address and hostname, in the place of `old` (may be null).
  void index_service(const Service* old, const ServicePtr& service);
  void unindex_service(const Service& service);
  void put_entry(ServiceEntryPtr entry);
  void remove_entry(std::string_view key);
  void put_staged(Ref<const StagedService> staged);
  void remove_staged(std::string_view key);

  void put_policy(PolicyPtr policy);
  bool remove_policy(std::string_view key);
  void touch_policies() { ++draft_.policy_generation_; }

  [[nodiscard]] const Snapshot& draft() const { return draft_; }
  [[nodiscard]] const ServiceEntryPtr* entry(std::string_view key) const { return draft_.services_.find(key); }
  [[nodiscard]] const Ref<const StagedService>* staged(std::string_view key) const { return draft_.staged_.find(key); }
  [[nodiscard]] const WorkloadPtr* workload(std::string_view uid) const { return draft_.workloads_.find(uid); }

  // A snapshot of the tables as they are now.
  [[nodiscard]] SnapshotPtr publish();

 private:
  void add_address(const WorkloadPtr& workload, size_t index);
  void add_names(const WorkloadPtr& workload, bool local);
  void index_policy(const PolicyPtr& policy, const Policy* old);
  void unindex_policy(const Policy& policy);

  Snapshot draft_;
};

}  // namespace zt::workload_api
