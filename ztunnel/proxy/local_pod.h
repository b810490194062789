#pragma once
#include "base/task.h"
#include "workload_api/model/model.h"
#include "ztunnel/config/config.h"
#include "ztunnel/proxy/peer_accounts.h"
#include "ztunnel/proxy/pod_counts.h"
#include "ztunnel/proxy/request_on_its_way.h"
#include "ztunnel/proxy/sockets.h"
#include "ztunnel/proxy/worker.h"

namespace zt::ztunnel {

// The pod that a PodWorker serves, as both directions need it. Worker's thread.
struct LocalPod {
  Worker& worker;
  const PodName name;
  const SocketOptions sockets;  // made in its network namespace
  Lookups lookups;
  const std::shared_ptr<PodCounts> counts;
  PeerAccounts& peers;  // what is held for it here
  RequestsOnTheirWay requests{};

  // Whether it may have one connection more (ZT_CONNECTIONS_PER_POD); if not, that is counted. kConnectionLimit.
  [[nodiscard]] Result<> room() const;
  // Its workload in the newest snapshot; null if nobody has told of it.
  [[nodiscard]] const workload_api::Workload* known() const;
  // Waits for it to appear in the state. kNoWorkload.
  [[nodiscard]] Task<Result<workload_api::WorkloadPtr>> workload() const;
};

}  // namespace zt::ztunnel
