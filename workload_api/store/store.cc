#include "workload_api/store/store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <functional>
#include <iterator>
#include <numeric>
#include <utility>

#include "base/log.h"
#include "mesh/spiffe.h"
#include "workload_api/model/sanity.h"

namespace zt::workload_api {
namespace {

log::Scope scope{"state"};

// The endpoints of a service while one push changes them. Finding the place of an endpoint is a search from
// the front as long as there is little to do, and by a table as soon as there is much.
class EndpointList {
 public:
  EndpointList(std::vector<Endpoint> endpoints, size_t changes) : endpoints_(std::move(endpoints)) {
    if (endpoints_.size() * changes <= kSearchLimit) return;
    indexed_ = true;
    for (size_t i = 0; i < endpoints_.size(); ++i) places_.emplace(endpoints_[i].workload.get(), i);
  }

  // Either workload may be null: `after` is then appended, or `before` taken out.
  void change(const Workload* before, Endpoint after) {
    const Workload* now = after.workload.get();
    const std::optional<size_t> place = before != nullptr ? find(before) : std::nullopt;
    if (place) {
      if (indexed_) places_.erase(before);
      holes_ |= now == nullptr;
      if (indexed_ && now != nullptr) places_.emplace(now, *place);
      endpoints_[*place] = std::move(after);
    } else if (now != nullptr) {
      if (indexed_) places_.emplace(now, endpoints_.size());
      endpoints_.push_back(std::move(after));
    }
  }

  std::vector<Endpoint> take() && {
    if (holes_) std::erase_if(endpoints_, [](const Endpoint& endpoint) { return endpoint.workload == nullptr; });
    return std::move(endpoints_);
  }

 private:
  static constexpr size_t kSearchLimit = 4096;  // comparisons

  [[nodiscard]] std::optional<size_t> find(const Workload* workload) const {
    if (indexed_) {
      const auto found = places_.find(workload);
      return found == places_.end() ? std::nullopt : std::optional(found->second);
    }
    const auto found =
        std::ranges::find_if(endpoints_, [&](const Endpoint& endpoint) { return endpoint.workload.get() == workload; });
    return found == endpoints_.end() ? std::nullopt : std::optional(static_cast<size_t>(found - endpoints_.begin()));
  }

  std::vector<Endpoint> endpoints_;
  absl::flat_hash_map<const Workload*, size_t> places_;
  bool indexed_ = false;
  bool holes_ = false;
};

// Of workloads with the same uid keeps the last; the others become null.
void drop_superseded(std::vector<Ref<Workload>>& workloads) {
  if (workloads.size() < 2) return;
  struct Place {
    uint64_t hash;
    size_t index;
  };
  std::vector<Place> places;
  places.reserve(workloads.size());
  for (size_t i = 0; i < workloads.size(); ++i) places.push_back({WorkloadByUid::hash(workloads[i]->uid.view()), i});
  const auto uid = [&](const Place& place) { return workloads[place.index]->uid.view(); };
  std::ranges::sort(places, [&](const Place& a, const Place& b) {
    if (a.hash != b.hash) return a.hash < b.hash;
    const auto order = uid(a) <=> uid(b);
    return order != 0 ? order < 0 : a.index < b.index;
  });
  for (size_t i = 1; i < places.size(); ++i)
    if (places[i - 1].hash == places[i].hash && uid(places[i - 1]) == uid(places[i])) workloads[places[i - 1].index] = nullptr;
}

}  // namespace

Store::Store(Options options) : options_(std::move(options)), current_(editor_.publish()) {}
Store::~Store() = default;

// ---- What a push says

std::vector<Rejected> Store::apply(Batch batch) {
  std::vector<Rejected> rejected;
  if (!local_file_.addresses.empty())
    for (const auto& workload : batch.workloads) local_file_.addresses.erase(workload->uid);
  upsert(std::move(batch.workloads), rejected);
  for (auto& service : batch.services) {
    if (!local_file_.addresses.empty())
      local_file_.addresses.erase(NamespacedHostname{service->ns, service->hostname}.to_string());
    upsert(std::exchange(service, nullptr));
  }
  for (auto& policy : batch.policies) {
    upsert(policy);
    if (!local_file_.policies.empty()) local_file_.policies.erase(policy->key);
  }
  for (const auto& name : batch.removed_addresses)
    if (!local_file_.addresses.contains(name)) remove_address(name);
  for (const auto& key : batch.removed_policies)
    if (!local_file_.policies.contains(key)) remove_policy(key);
  commit();
  return rejected;
}

std::vector<Rejected> Store::replace_local(LocalContent content) {
  std::vector<Rejected> rejected;
  if (content.edit) {
    assert(content.compared_with == current_->generation());
    edit_local(std::move(content.batch), rejected);
    commit();
    return rejected;
  }
  const bool named = content.names.has_value();
  LocalNames owned = named ? std::move(*content.names) : LocalNames();
  if (!named) owned.addresses.reserve(content.workloads() + content.services());
  // Since then a push may have changed or removed what was the same: the file says it anew.
  const bool pushed = content.compared_with != current_->generation();
  for (const auto& same : content.same_workloads) {
    if (!named) owned.addresses.insert(same->uid);
    const WorkloadPtr* present = pushed ? editor_.workload(same->uid.view()) : nullptr;
    if (pushed && (present == nullptr || *present != same)) content.batch.workloads.push_back(make_ref<Workload>(*same));
  }
  for (const auto& same : content.same_services) {
    if (!named) owned.addresses.insert(same->key);
    const ServiceEntryPtr* present = pushed ? editor_.entry(same->key.view()) : nullptr;
    if (pushed && (present == nullptr || (*present)->service_ptr() != same))
      content.batch.services.push_back(make_ref<Service>(*same));
  }
  for (const auto& same : content.same_policies) {
    if (!named) owned.policies.insert(same->key);
    const Policy* present = pushed ? editor_.draft().policy(same->key.view()) : nullptr;
    if (pushed && (present == nullptr || present->spec != same)) content.batch.policies.push_back(make_ref<Authorization>(*same));
  }
  Batch& batch = content.batch;
  if (!named)
    for (const auto& workload : batch.workloads) owned.addresses.insert(workload->uid);
  upsert(std::move(batch.workloads), rejected);
  for (auto& service : batch.services) {
    intern(*service);
    if (!named) owned.addresses.insert(service->key);
    upsert(std::exchange(service, nullptr));
  }
  for (auto& policy : batch.policies) {
    upsert(policy);
    if (!named) owned.policies.insert(policy->key);
  }
  for (const Str& name : local_file_.addresses)
    if (!owned.addresses.contains(name)) remove_address(name.view());
  for (const Str& key : local_file_.policies)
    if (!owned.policies.contains(key)) remove_policy(key.view());
  local_file_ = std::move(owned);
  commit();
  return rejected;
}

void Store::edit_local(Batch edit, std::vector<Rejected>& rejected) {
  for (const auto& workload : edit.workloads) local_file_.addresses.insert(workload->uid);
  upsert(std::move(edit.workloads), rejected);
  for (auto& service : edit.services) {
    intern(*service);
    local_file_.addresses.insert(service->key);
    upsert(std::exchange(service, nullptr));
  }
  for (auto& policy : edit.policies) {
    upsert(policy);
    local_file_.policies.insert(policy->key);
  }
  for (const auto& name : edit.removed_addresses)
    if (local_file_.addresses.erase(name) > 0) remove_address(name);
  for (const auto& key : edit.removed_policies)
    if (local_file_.policies.erase(key) > 0) remove_policy(key);
}

void Store::upsert(std::vector<Ref<Workload>> workloads, std::vector<Rejected>& rejected) {
  drop_superseded(workloads);
  std::vector<WorkloadPtr> added;
  std::vector<bool> local;
  added.reserve(workloads.size());
  local.reserve(workloads.size());
  // Of many, not twice what they need, and copied on the way there.
  const size_t memberships = std::transform_reduce(workloads.begin(), workloads.end(), size_t{0}, std::plus(),
                                                   [](const auto& workload) { return workload ? workload->services.size() : 0; });
  if (memberships > endpoint_changes_.capacity()) endpoint_changes_.reserve(endpoint_changes_.size() + memberships);
  for (Ref<Workload>& workload : workloads) {
    if (!workload) continue;
    if (workload->addresses.size() > kMaxWorkloadAddresses) {
      rejected.push_back(
          {workload->uid.str(), fmt::format("{} addresses, more than {}", workload->addresses.size(), kMaxWorkloadAddresses)});
      continue;
    }
    intern(*workload);
    WorkloadPtr before;
    if (const WorkloadPtr* present = editor_.workload(workload->uid.view())) before = *present;
    if (before && *before == *workload) continue;
    const WorkloadPtr after = std::exchange(workload, nullptr);
    note_memberships(before, after);
    note_policies(before.get(), after.get());
    if (before) {
      note_identity(*before, -1);
      editor_.remove_workload(*before, is_local(*before));
    }
    note_identity(*after, +1);
    added.push_back(after);
    local.push_back(is_local(*after));
  }
  if (added.empty()) return;
  editor_.add_workloads(added, local);
  dirty_ = true;
}

void Store::upsert(Ref<Service> service) {
  intern(*service);
  const ServiceEntryPtr* present = editor_.entry(service->key.view());
  const auto pending = service_changes_.find(service->key);
  // Within one push a name may come more than once.
  const ServicePtr before = pending != service_changes_.end() ? pending->second
                            : present != nullptr              ? (*present)->service_ptr()
                                                              : nullptr;
  if (before && *before == *service) return;
  const ServicePtr after = std::move(service);
  editor_.index_service(before.get(), after);
  service_changes_[after->key] = after;
  dirty_ = true;
}

// Once for each version of a policy that is loaded, whoever sent it: what it says is followed all the same, as the peer does.
void Store::warn_of_dead_values(const Authorization& policy) {
  const auto dead = dead_value(policy);
  if (!dead) return;
  ++dead_policies_;
  ZT_LOG(scope, kWarn,
         policy.action == PolicyAction::kDeny
             ? "a policy has a value that nothing can match: as DENY it lets through what it names"
             : "a policy has a value that nothing can match",
         Field::string("policy", policy.key.view()), Field::string("field", dead->field), Field::string("value", dead->value),
         Field::string("why", dead->why), Field::count("more", static_cast<int64_t>(dead->more)));
}

void Store::upsert(Ref<Authorization> policy) {
  intern(*policy);
  if (const Policy* present = editor_.draft().policy(policy->key.view()); present != nullptr && *present->spec == *policy) return;
  warn_of_dead_values(*policy);
  editor_.put_policy(make_ref<Policy>(std::move(policy)));
  changes_.policies = dirty_ = true;
}

void Store::remove_address(std::string_view name) {
  if (const WorkloadPtr* present = editor_.workload(name)) {
    const WorkloadPtr before = *present;
    note_memberships(before, nullptr);
    note_identity(*before, -1);
    editor_.remove_workload(*before, is_local(*before));
    dirty_ = true;
    return;
  }
  const ServiceEntryPtr* present = editor_.entry(name);
  const auto pending = service_changes_.find(name);
  const ServicePtr before = pending != service_changes_.end() ? pending->second
                            : present != nullptr              ? (*present)->service_ptr()
                                                              : nullptr;
  if (!before) return;
  editor_.unindex_service(*before);
  service_changes_[before->key] = nullptr;
  dirty_ = true;
}

void Store::remove_policy(std::string_view key) {
  if (editor_.remove_policy(key)) changes_.policies = dirty_ = true;
}

// ---- One text for all of equal content, and what is derived from others

void Store::intern(Box<GatewayAddress>& gateway) {
  if (!gateway) return;
  if (auto* name = std::get_if<NamespacedHostname>(&gateway.get()->destination)) {
    interner_.intern(name->ns);
    interner_.intern(name->hostname);
  } else {
    interner_.intern(std::get<NetworkAddress>(gateway.get()->destination).network);
  }
}

void Store::intern(Workload& workload) {
  // Not uid and name: they are unique, so a table of them would only cost.
  for (Str* text : {&workload.ns, &workload.network, &workload.trust_domain, &workload.service_account, &workload.node,
                    &workload.canonical_name, &workload.canonical_revision, &workload.workload_name, &workload.cluster_id})
    interner_.intern(*text);
  interner_.intern(workload.locality);
  canonicalize(workload);
  for (ServiceMembership& membership : workload.services) {
    interner_.intern(membership.service);
    interner_.intern(membership.ports);
  }
  interner_.intern(workload.authorization_policies);
  intern(workload.waypoint);
  intern(workload.network_gateway);

  scratch_.clear();
  append_spiffe_id(scratch_, workload.trust_domain.view(), workload.ns.view(), workload.service_account.view());
  workload.identity = interner_.make(scratch_);
}

void Store::intern(Service& service) {
  if (service.key.empty()) service.key = Str(NamespacedHostname{service.ns, service.hostname}.to_string());
  for (Str* text : {&service.key, &service.name, &service.ns, &service.hostname}) interner_.intern(*text);
  interner_.intern(service.ports);
  for (NetworkAddress& vip : service.vips) interner_.intern(vip.network);
  for (NetworkCidr& block : service.cidr_vips) interner_.intern(block.network);
  for (Str& san : service.subject_alt_names) interner_.intern(san);
  intern(service.waypoint);
}

void Store::intern(Authorization& policy) {
  if (policy.key.empty()) policy.key = Str(fmt::format("{}/{}", policy.ns.view(), policy.name.view()));
  interner_.intern(policy.key);
  interner_.intern(policy.ns);
}

// ---- What follows from a change

bool Store::is_local(const Workload& workload) const {
  if (options_.only_local) return WorkloadByPodName::key(workload) == *options_.only_local;
  return !options_.node_name || workload.node == *options_.node_name;
}

void Store::note_memberships(const WorkloadPtr& before, const WorkloadPtr& after) {
  if (before)
    for (const ServiceMembership& membership : before->services) {
      const bool stays = after && after->membership(membership.service.view()) != nullptr;
      endpoint_changes_.push_back({membership.service, before, stays ? after : nullptr});
    }
  if (after)
    for (const ServiceMembership& membership : after->services)
      if (!before || before->membership(membership.service.view()) == nullptr)
        endpoint_changes_.push_back({membership.service, nullptr, after});
}

void Store::note_identity(const Workload& workload, int change) {
  if (!options_.node_name || !is_local(workload)) return;
  IdentityUse& use = identities_[workload.identity];
  identity_changes_.try_emplace(workload.identity, use);
  const bool tunnelled = workload.protocol == TunnelProtocol::kHbone || workload.native_tunnel;
  use.workloads += static_cast<uint32_t>(change);
  use.tunnelled += static_cast<uint32_t>(tunnelled ? change : 0);
}

void Store::note_policies(const Workload* before, const Workload* after) {
  if (!is_local(*after) && (before == nullptr || !is_local(*before))) return;
  const bool same = before != nullptr ? before->ns == after->ns && before->authorization_policies == after->authorization_policies
                                      : after->authorization_policies.empty();
  if (!same) changes_.policies = true;
}

// Each service that a push changes is made anew once, whatever happened to it and its endpoints.
void Store::change_services() {
  // By service; within one, in the order they were made. Equal names are nearly always the same text, so it
  // is the text's identity that is compared; a service whose changes fall into two parts is made twice.
  const auto service_of = [this](uint32_t change) { return endpoint_changes_[change].service.identity(); };
  std::vector<uint32_t> ordered(endpoint_changes_.size());
  std::iota(ordered.begin(), ordered.end(), 0u);
  std::ranges::sort(ordered, {}, [&](uint32_t change) { return std::pair(service_of(change), change); });
  for (auto first = ordered.begin(); first != ordered.end();) {
    const Str key = endpoint_changes_[*first].service;
    const auto last = std::find_if(first, ordered.end(), [&](uint32_t change) { return service_of(change) != key.identity(); });
    std::optional<ServicePtr> service;
    if (const auto changed = service_changes_.find(key); changed != service_changes_.end()) {
      service = std::move(changed->second);
      service_changes_.erase(changed);
    }
    rebuild(key, service, {first, last});
    first = last;
  }
  for (const auto& [key, service] : service_changes_) rebuild(key, service, {});
  // Not clear(): after a large push they would keep their size.
  endpoint_changes_ = {};
  service_changes_ = {};
}

void Store::rebuild(const Str& key, const std::optional<ServicePtr>& changed, std::span<const uint32_t> changes) {
  const ServiceEntryPtr* entry = editor_.entry(key.view());
  const Ref<const StagedService>* staged = editor_.staged(key.view());

  std::vector<Endpoint> present;
  const auto append = [&](std::span<const Endpoint> endpoints) {
    present.insert(present.end(), endpoints.begin(), endpoints.end());
  };
  present.reserve(changes.size() + (entry != nullptr    ? (*entry)->endpoints().size() + (*entry)->withheld().size()
                                    : staged != nullptr ? (*staged)->endpoints.size()
                                                        : 0));
  if (entry != nullptr) {
    append((*entry)->endpoints());
    append((*entry)->withheld());
  } else if (staged != nullptr) {
    append((*staged)->endpoints);
  }
  EndpointList list(std::move(present), changes.size());
  for (const uint32_t place : changes) {
    const EndpointChange& change = endpoint_changes_[place];
    Endpoint after;
    if (change.after) after = {change.after, change.after->membership(key.view())->ports};
    list.change(change.before.get(), std::move(after));
  }
  std::vector<Endpoint> endpoints = std::move(list).take();

  const ServicePtr service = changed ? *changed : entry != nullptr ? (*entry)->service_ptr() : nullptr;
  if (service) {
    if (staged != nullptr) editor_.remove_staged(key.view());
    editor_.put_entry(make_ref<ServiceEntry>(service, std::move(endpoints)));
    return;
  }
  if (entry != nullptr) editor_.remove_entry(key.view());
  if (!endpoints.empty()) {
    auto waiting = make_ref<StagedService>();
    waiting->key = key;
    waiting->endpoints = std::move(endpoints);
    editor_.put_staged(std::move(waiting));
  } else if (staged != nullptr) {
    editor_.remove_staged(key.view());
  }
}

// ---- Publication

void Store::commit() {
  change_services();

  for (const auto& [identity, before] : identity_changes_) {
    const auto now = identities_.find(identity);
    if (before.tunnelled == 0 && now->second.tunnelled > 0) changes_.identities_needed.push_back(identity);
    if (before.workloads > 0 && now->second.workloads == 0) changes_.identities_forgotten.push_back(identity);
    if (now->second.workloads == 0) identities_.erase(now);
  }
  identity_changes_ = {};
  if (changes_.policies) editor_.touch_policies();
  const Changes changes = std::exchange(changes_, {});
  if (!std::exchange(dirty_, false)) return;

  retired_.push_back(std::exchange(current_, editor_.publish()));
  collect();
  // A subscriber may come or go while they are called.
  const SnapshotPtr published = current_;
  std::vector<uint64_t> ids;
  for (const auto& [id, subscriber] : subscribers_) ids.push_back(id);
  for (const uint64_t id : ids) {
    const auto found = std::ranges::find(subscribers_, id, &std::pair<uint64_t, Subscriber>::first);
    if (found == subscribers_.end()) continue;
    const Subscriber subscriber = found->second;
    subscriber(published, changes);
  }
}

void Store::collect() {
  std::erase_if(retired_, [](const SnapshotPtr& snapshot) { return snapshot.use_count() == 1; });
}

Store::Subscription Store::subscribe(Subscriber subscriber) {
  subscribers_.emplace_back(++last_subscriber_, std::move(subscriber));
  return {this, last_subscriber_};
}

Store::Subscription::Subscription(Subscription&& other) noexcept : store_(std::exchange(other.store_, nullptr)), id_(other.id_) {}

Store::Subscription& Store::Subscription::operator=(Subscription&& other) noexcept {
  std::swap(store_, other.store_);
  std::swap(id_, other.id_);
  return *this;
}

Store::Subscription::~Subscription() {
  if (store_ != nullptr) std::erase_if(store_->subscribers_, [&](const auto& entry) { return entry.first == id_; });
}

}  // namespace zt::workload_api
