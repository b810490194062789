#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

#include "workload_api/store/interner.h"
#include "workload_api/store/snapshot.h"
#include "workload_api/store/snapshot_editor.h"

namespace zt::workload_api {

inline constexpr size_t kMaxWorkloadAddresses = 4096;

// Resources of one push, or of one file. The store takes the objects over: nobody else may hold them.
struct Batch {
  std::vector<Ref<Workload>> workloads;
  std::vector<Ref<Service>> services;
  std::vector<Ref<Authorization>> policies;
  std::vector<std::string>
      removed_addresses;  // a workload's uid, or "namespace/hostname" of a service; unknown names are ignored
  std::vector<std::string> removed_policies;
};

// Names that the local file owns; the texts are those of the resources.
struct LocalNames {
  absl::flat_hash_set<Str, StrHash, StrEqual> addresses, policies;
};

// What the local file says. What a snapshot had already, equal, need not be made again to be said: it is in the same_… lists, and
// `compared_with` is that snapshot's generation.
//
// Or, if `edit`, what became of it: `batch` has what is new or different and, as removals, what is there no more; of the rest
// there are so many (`kept`). That is true only of the snapshot it was compared with.
struct LocalContent {
  struct Counts {
    size_t workloads = 0, services = 0, policies = 0;
  };
  Batch batch;  // without removals, unless it is an edit
  std::vector<WorkloadPtr> same_workloads;
  std::vector<ServicePtr> same_services;
  std::vector<Ref<const Authorization>> same_policies;
  uint64_t compared_with = 0;
  std::optional<LocalNames> names;  // of everything in it, if the producer knows them anyway
  bool edit = false;
  Counts kept;

  LocalContent() = default;
  LocalContent(Batch all) : batch(std::move(all)) {}
  [[nodiscard]] size_t workloads() const { return batch.workloads.size() + same_workloads.size() + kept.workloads; }
  [[nodiscard]] size_t services() const { return batch.services.size() + same_services.size() + kept.services; }
  [[nodiscard]] size_t policies() const { return batch.policies.size() + same_policies.size() + kept.policies; }
};

// A resource that was refused; the rest of its batch has been applied.
struct Rejected {
  std::string name;  // xDS name
  std::string why;
};

// What a publication changed that others act on.
struct Changes {
  bool policies = false;  // Snapshot::policy_generation has changed: open connections are to be judged again
  // Identities ("spiffe://…") of this node's workloads. Needed: the first workload with it that talks or
  // answers HBONE has come, fetch its certificate. Forgotten: the last workload with it has gone. Empty if
  // the store was given no node name.
  std::vector<Str> identities_needed;
  std::vector<Str> identities_forgotten;
};

// Keeps what the control plane and the local file say, and publishes it as snapshots. Control thread only;
// the snapshots are for every thread.
//
// What a snapshot says depends only on the resources there are, not on the order in which they came: an
// endpoint counts for its service whichever of the two arrived first, and comes back when a health policy
// begins to admit it (contract §6.10). Only which of several equal
// workloads owns an address is decided by arrival.
class Store {
 public:
  struct Options {
    std::optional<std::string> node_name;  // NODE_NAME; without one every workload counts as local
    // The one workload of a dedicated proxy: then no other is local, and 100,000 others need no place in the table of those.
    std::optional<PodName> only_local = {};
  };
  using Subscriber = std::function<void(const SnapshotPtr&, const Changes&)>;

  explicit Store(Options options);
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;
  ~Store();

  // One push: additions and changes, then removals, then one publication (none if nothing changed). A
  // resource equal to the one that is there changes nothing. Resources of the local file are not removed by a
  // push, but one of the same name takes over. Of workloads with the same uid in one push the last counts.
  std::vector<Rejected> apply(Batch batch);

  // Puts `content` in the place of everything that came from the local file (§6.11). Costs what has changed, and a little for
  // each name; an edit costs only what has changed. An edit must have been compared with snapshot().
  std::vector<Rejected> replace_local(LocalContent content);

  // The shared copy of a text. Producers that run on the control thread make the texts of their objects with
  // it: that saves making a copy only for apply() to drop it. Not for what is unique (uid, pod name).
  [[nodiscard]] Str text(std::string_view text) { return interner_.make(text); }

  // The newest; never null.
  [[nodiscard]] const SnapshotPtr& snapshot() const { return current_; }

  // Calls `subscriber` on the control thread after each publication until the subscription is destroyed,
  // which must be before the store is. Not called for the snapshot that is there already.
  class Subscription {
   public:
    Subscription() = default;
    Subscription(Subscription&& other) noexcept;
    Subscription& operator=(Subscription&& other) noexcept;
    ~Subscription();

   private:
    friend class Store;
    Subscription(Store* store, uint64_t id) : store_(store), id_(id) {}
    Store* store_ = nullptr;
    uint64_t id_ = 0;
  };
  [[nodiscard]] Subscription subscribe(Subscriber subscriber);

  // Frees what older snapshots held and no reader holds any more. Publications do it too; call it now and
  // then when nothing is published. Keeping this on the control thread spares workers from freeing what a
  // large push replaced.
  void collect();

  // For tests and metrics.
  [[nodiscard]] size_t retired_snapshots() const { return retired_.size(); }
  [[nodiscard]] const Interner& interner() const { return interner_; }
  // Versions of policies that came with a value which nothing can match (sanity.h); each was warned of once.
  [[nodiscard]] uint64_t dead_policies() const { return dead_policies_; }

 private:
  // A workload as an endpoint of a service, before and after; null: it was or is none. A first push has one for each there is.
  struct EndpointChange {
    Str service;
    WorkloadPtr before, after;
  };
  struct IdentityUse {
    uint32_t workloads = 0;
    uint32_t tunnelled = 0;
  };
  void upsert(std::vector<Ref<Workload>> workloads, std::vector<Rejected>& rejected);
  void upsert(Ref<Service> service);
  void upsert(Ref<Authorization> policy);
  void warn_of_dead_values(const Authorization& policy);
  void remove_address(std::string_view name);
  void remove_policy(std::string_view key);
  void edit_local(Batch edit, std::vector<Rejected>& rejected);
  void commit();

  void intern(Workload& workload);
  void intern(Service& service);
  void intern(Authorization& policy);
  void intern(Box<GatewayAddress>& gateway);

  [[nodiscard]] bool is_local(const Workload& workload) const;
  void note_memberships(const WorkloadPtr& before, const WorkloadPtr& after);
  void note_identity(const Workload& workload, int change);
  void note_policies(const Workload* before, const Workload* after);
  void change_services();
  // `service`: set if the service itself changed; null: it was removed.
  // `changes`: places in endpoint_changes_.
  void rebuild(const Str& key, const std::optional<ServicePtr>& service, std::span<const uint32_t> changes);

  Options options_;
  Interner interner_;
  SnapshotEditor editor_;
  SnapshotPtr current_;
  std::vector<SnapshotPtr> retired_;  // older ones that somebody still held when last looked at

  // The push being applied.
  absl::flat_hash_map<Str, ServicePtr, StrHash, StrEqual> service_changes_;    // null: removed
  std::vector<EndpointChange> endpoint_changes_;                               // in the order they were made
  absl::flat_hash_map<Str, IdentityUse, StrHash, StrEqual> identity_changes_;  // what those that were touched were before
  Changes changes_;
  bool dirty_ = false;

  absl::flat_hash_map<Str, IdentityUse, StrHash, StrEqual> identities_;
  std::string scratch_;
  LocalNames local_file_;
  std::vector<std::pair<uint64_t, Subscriber>> subscribers_;
  uint64_t last_subscriber_ = 0;
  uint64_t dead_policies_ = 0;
};

}  // namespace zt::workload_api
