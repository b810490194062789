#include "workload_api/store/tables.h"

namespace zt::workload_api {

void WorkloadGroup::add(const WorkloadPtr& added) {
  if (!best) {
    best = added;
    return;
  }
  auto& list = own(others).workloads;
  const int score = preference_score(*added);
  if (score >= preference_score(*best)) {
    list.push_back(std::exchange(best, added));
    return;
  }
  // Behind it come those that are better.
  const auto better = std::ranges::find_if(list, [&](const WorkloadPtr& other) { return preference_score(*other) > score; });
  list.insert(better, added);
}

void WorkloadGroup::remove(const Workload& removed) {
  if (best.get() == &removed) {
    best = nullptr;
    if (!others) return;
    best = std::move(own(others).workloads.back());
    others->workloads.pop_back();
  } else if (others) {
    // From the back: whoever comes and goes was added last.
    auto& list = own(others).workloads;
    const auto found =
        std::ranges::find(list.rbegin(), list.rend(), &removed, [](const WorkloadPtr& other) { return other.get(); });
    if (found != list.rend()) list.erase(std::next(found).base());
  }
  if (others && others->workloads.empty()) others = nullptr;
}

void replace(ServiceList& services, const Service* old, const ServicePtr& service) {
  if (old == nullptr && !service) return;
  const std::string_view key = service ? service->key.view() : old->key.view();
  const auto at = std::ranges::lower_bound(services, key, {}, [](const ServicePtr& other) { return other->key.view(); });
  const bool present = at != services.end() && (*at)->key == key;
  if (!service) {
    // Not one that has come for the same key since: blocks that are written differently may be one block.
    if (present && at->get() == old) services.erase(at);
  } else if (present) {
    *at = service;
  } else {
    services.insert(at, service);
  }
}

}  // namespace zt::workload_api
