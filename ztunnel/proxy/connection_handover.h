#pragma once
#include "handover/unit.h"
#include "workload_api/store/snapshot.h"
#include "ztunnel/proxy/connection.h"

namespace zt::ztunnel {

// What is known of a connection, on its way to another process and there. Metrics and logs say the same of it before and after, even if the
// two know different things of its workloads: sums over both processes are by label.
[[nodiscard]] handover::ConnectionState state_of(const ConnectionInfo& info, const RelayBytes& bytes, const RelayBytes& counted);
// Error (kInvalidInput): the peer's identity is none.
Result<ConnectionInfo> info_of(const handover::ConnectionState& state, const workload_api::Snapshot& snapshot);

}  // namespace zt::ztunnel
