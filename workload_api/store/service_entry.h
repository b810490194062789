#pragma once
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "workload_api/model/model.h"
#include "workload_api/store/balancer.h"

namespace zt::workload_api {

// A service with its endpoints and everything that choosing one needs. Immutable: a change of the service or
// of one of its endpoints makes a new one. Any thread; holds its service and workloads alive.
class ServiceEntry : public RefCounted {
 public:
  ServiceEntry(Ref<const Service> service, std::vector<Endpoint> endpoints);

  [[nodiscard]] const Service& service() const { return *service_; }
  [[nodiscard]] const Ref<const Service>& service_ptr() const { return service_; }

  // Endpoints that the service's health policy lets in. Their order changes only with their health.
  [[nodiscard]] std::span<const Endpoint> endpoints() const { return std::span(all_).first(admitted_); }
  // Those it keeps out; they come in when the policy or their workload changes.
  [[nodiscard]] std::span<const Endpoint> withheld() const { return std::span(all_).subspan(admitted_); }

  // One endpoint for a connection from `source` to `service_port`, by the service's mode, preferences and the
  // endpoints' capacities (§3.4); no endpoint if none qualifies. `number` decides among equals: a counter
  // gives round robin, a random number a random choice; with different capacities either gives shares in
  // proportion. Costs O(log endpoints), allocates nothing. A PASSTHROUGH service has no choice to make: the
  // caller looks at Service::passthrough() first.
  // With `avoid`, an endpoint that it names only if there is no other: the other ranks of a FAILOVER service count, those of a STRICT
  // one do not.
  [[nodiscard]] Choice choose(const Workload& source, uint16_t service_port, ResolutionMode mode, uint64_t number,
                              const Avoid* avoid = nullptr) const {
    return balancer_.choose(*service_, endpoints(), source, service_port, mode, number, avoid);
  }

 private:
  Ref<const Service> service_;
  std::vector<Endpoint> all_;
  size_t admitted_;
  Balancer balancer_;
};
using ServiceEntryPtr = Ref<const ServiceEntry>;

// Endpoints of a service that has not been delivered (`stagedServices` of the admin dump).
struct StagedService : RefCounted {
  Str key;  // "namespace/hostname"
  std::vector<Endpoint> endpoints;
};

}  // namespace zt::workload_api
