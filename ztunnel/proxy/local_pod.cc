#include "ztunnel/proxy/local_pod.h"

#include "mesh/reason.h"

namespace zt::ztunnel {

namespace {
// How long a connection waits for its own workload to appear in the state (contract appendix A).
constexpr std::chrono::seconds kLocalWorkloadWait{5};
}  // namespace

Result<> LocalPod::room() const {
  if (counts->connections.load(std::memory_order_relaxed) < worker.settings().connections_per_pod) return {};
  worker.metrics().limit_reached.get({"connections_per_pod"}).add();
  return fail(Reason::kConnectionLimit, "the pod has too many connections");
}

const workload_api::Workload* LocalPod::known() const { return worker.snapshot()->local_workload(name); }

Task<Result<workload_api::WorkloadPtr>> LocalPod::workload() const {
  const auto deadline = Clock::now() + kLocalWorkloadWait;
  for (;;) {
    if (const auto* found = known()) co_return workload_api::WorkloadPtr(found);
    const auto left = deadline - Clock::now();
    if (left <= Clock::duration::zero() || !co_await worker.state().next(left)) {
      co_return fail(Reason::kNoWorkload, "failed to fetch information about local workload: " + name.service_account + "." +
                                              name.ns + " (" + name.name + ")");
    }
  }
}

}  // namespace zt::ztunnel
