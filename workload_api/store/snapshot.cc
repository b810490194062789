#include "workload_api/store/snapshot.h"

#include <tuple>

namespace zt::workload_api {
namespace {

bool visible(const Service& service, std::optional<std::string_view> client_ns) {
  return !client_ns || service.visibility == Visibility::kPublic || service.ns == *client_ns;
}

}  // namespace

const Workload* Snapshot::workload(std::string_view uid) const {
  const WorkloadPtr* found = workloads_.find(uid);
  return found == nullptr ? nullptr : found->get();
}

const Workload* Snapshot::workload(std::string_view network, const IpAddress& ip) const {
  const auto* found = addresses_.find(WorkloadByAddress::Key{network, ip});
  return found == nullptr ? nullptr : found->group.best.get();
}

const Workload* Snapshot::workload_by_hostname(std::string_view ns, std::string_view hostname) const {
  const auto* found = hostnames_.find(WorkloadByHostname::Key{ns, hostname});
  return found == nullptr ? nullptr : found->best.get();
}

const Workload* Snapshot::local_workload(const PodNameView& pod) const {
  const auto* found = local_.find(pod);
  return found == nullptr ? nullptr : found->best.get();
}

const ServiceEntry* Snapshot::service(std::string_view key) const {
  const ServiceEntryPtr* found = services_.find(key);
  return found == nullptr ? nullptr : found->get();
}

const ServiceEntry* Snapshot::service(std::string_view ns, std::string_view hostname) const {
  const auto* found = service_hostnames_.find(hostname);
  if (found == nullptr) return nullptr;
  for (const ServicePtr& candidate : (*found)->services)
    if (candidate->ns == ns) return service(candidate->key.view());
  return nullptr;
}

const ServiceEntry* Snapshot::best(std::span<const ServicePtr> services, std::optional<std::string_view> client_ns,
                                   std::optional<std::string_view> preferred_ns, const ServiceFilter& wanted) const {
  const Service* best = nullptr;
  int best_rank = -1;
  for (const ServicePtr& candidate : services) {
    if (!visible(*candidate, client_ns) || (wanted && !wanted(*candidate))) continue;
    const int rank = (client_ns && candidate->ns == *client_ns ? 4 : 0) + (candidate->canonical ? 2 : 0) +
                     (preferred_ns && candidate->ns == *preferred_ns ? 1 : 0);
    if (rank > best_rank) {
      best = candidate.get();
      best_rank = rank;
    }
  }
  return best == nullptr ? nullptr : service(best->key.view());
}

const ServiceEntry* Snapshot::service_by_vip(std::string_view network, const IpAddress& ip,
                                             std::optional<std::string_view> client_ns) const {
  if (const auto* found = vips_.find(ServicesByVip::Key{network, ip}))
    if (const ServiceEntry* entry = best((*found)->services, client_ns, std::nullopt)) return entry;

  // Rank of a block: client's namespace, then prefix length, then canonical (§3.1).
  const Service* best_block = nullptr;
  std::tuple<bool, uint8_t, bool> best_rank;
  cidrs_.for_each_containing(network, ip, [&](const Service& candidate, uint8_t prefix_length) {
    if (!visible(candidate, client_ns)) return;
    const std::tuple rank(client_ns && candidate.ns == *client_ns, prefix_length, candidate.canonical);
    if (best_block == nullptr || rank > best_rank) {
      best_block = &candidate;
      best_rank = rank;
    }
  });
  return best_block == nullptr ? nullptr : service(best_block->key.view());
}

const ServiceEntry* Snapshot::service_by_hostname(std::string_view hostname, std::optional<std::string_view> client_ns,
                                                  std::optional<std::string_view> preferred_ns,
                                                  const ServiceFilter& wanted) const {
  const auto* found = service_hostnames_.find(hostname);
  return found == nullptr ? nullptr : best((*found)->services, client_ns, preferred_ns, wanted);
}

const Policy* Snapshot::policy(std::string_view key) const {
  const PolicyPtr* found = policies_.find(key);
  return found == nullptr ? nullptr : found->get();
}

}  // namespace zt::workload_api
