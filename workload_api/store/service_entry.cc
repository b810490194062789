#include "workload_api/store/service_entry.h"

#include <algorithm>
#include <functional>
#include <iterator>

namespace zt::workload_api {
namespace {

// Moves those that the health policy admits to the front, keeping order; returns how many.
size_t admit(const Service& service, std::vector<Endpoint>& endpoints) {
  if (service.health_policy() == HealthPolicy::kAllowAll) return endpoints.size();
  const auto healthy = [](const Endpoint& endpoint) { return endpoint.workload->status == WorkloadStatus::kHealthy; };
  if (std::ranges::all_of(endpoints, healthy)) return endpoints.size();
  std::vector<Endpoint> ordered;
  ordered.reserve(endpoints.size());
  std::ranges::copy_if(endpoints, std::back_inserter(ordered), healthy);
  const size_t admitted = ordered.size();
  std::ranges::copy_if(endpoints, std::back_inserter(ordered), std::not_fn(healthy));
  endpoints = std::move(ordered);
  return admitted;
}

}  // namespace

ServiceEntry::ServiceEntry(Ref<const Service> service, std::vector<Endpoint> endpoints)
    : service_(std::move(service)),
      all_(std::move(endpoints)),
      admitted_(admit(*service_, all_)),
      balancer_(*service_, this->endpoints()) {}

}  // namespace zt::workload_api
