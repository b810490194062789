#include "workload_api/tables.h"

namespace zt::workload_api {

WorkloadGroup WorkloadGroup::with(const WorkloadPtr& added) const {
  if (!best) return {added, nullptr};
  auto rest = make_ref<Others>();
  if (others) rest->workloads = others->workloads;
  const int score = preference_score(*added);
  if (score >= preference_score(*best)) {
    rest->workloads.insert(rest->workloads.begin(), best);
    return {added, std::move(rest)};
  }
  const auto after = std::ranges::find_if(
      rest->workloads, [&](const auto& other) { return preference_score(*other) <= score; });
  rest->workloads.insert(after, added);
  return {best, std::move(rest)};
}

WorkloadGroup WorkloadGroup::without(const Workload& removed) const {
  if (!others) return best.get() == &removed ? WorkloadGroup{} : *this;
  auto rest = make_ref<Others>();
  rest->workloads = others->workloads;
  WorkloadGroup result{best, nullptr};
  if (best.get() == &removed) {
    result.best = rest->workloads.front();
    rest->workloads.erase(rest->workloads.begin());
  } else {
    std::erase_if(rest->workloads, [&](const WorkloadPtr& other) { return other.get() == &removed; });
  }
  if (!rest->workloads.empty()) result.others = std::move(rest);
  return result;
}

void replace(std::vector<ServicePtr>& services, const Service* old, const ServicePtr& service) {
  std::erase_if(services, [&](const ServicePtr& other) { return other.get() == old || other == service; });
  if (!service) return;
  const auto after = std::ranges::lower_bound(services, service->key.view(), {},
                                              [](const ServicePtr& other) { return other->key.view(); });
  services.insert(after, service);
}

}  // namespace zt::workload_api
