#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "identity/secret_manager.h"
#include "workload_api/store/snapshot.h"
#include "workload_api/xds/xds_stats.h"
#include "ztunnel/telemetry/metrics_registry.h"

namespace zt::ztunnel {

// What a pod of this node has of us.
struct PodUse {
  std::string uid, ns, name, service_account{};
  uint32_t connections = 0;  // now, both directions
  uint32_t tunnels = 0;      // now, that peers opened
  size_t memory = 0;         // bytes held for it
};

// What the control thread knows and a scrape shows. Values since start unless said otherwise.
struct RuntimeSample {
  size_t active_proxies = 0;   // now: pods that are served
  size_t pending_proxies = 0;  // now: pods whose start has failed and is tried again
  uint64_t proxies_started = 0;
  uint64_t proxies_stopped = 0;
  bool agent_connected = false;
  size_t workloads = 0, services = 0, policies = 0;  // now
  workload_api::SnapshotPtr mesh;                    // the newest; null until there is one
  identity::SecretManagerStats certificates;
  std::optional<workload_api::XdsStats> xds;      // none: no control plane
  std::vector<uint32_t> worker_connections;       // now, by worker
  size_t client_tunnels = 0, server_tunnels = 0;  // now
  size_t handshakes = 0;                          // now, in flight
  size_t memory_held = 0;                         // now, bytes held for peers and applications
  size_t memory_promised = 0;                     // now, bytes that peers may send beyond what each may
  size_t memory_limit = 0;                        // now, bytes
  uint64_t memory_cuts = 0;                       // what was given up because of the limit
  std::vector<PodUse> pods;
  double handover_stop = 0;           // seconds; the longest of a unit that was given to the next process
  std::vector<double> longest_turns;  // seconds, by worker, within the last minute
};

// Takes the control thread's samples and answers scrapes from the newest, so that a scrape never waits for
// that thread (nor it for a scrape). Make it before the first scrape; `metrics` keeps what it needs of it.
class RuntimeMetrics {
 public:
  // `aead`: what the record layer computes with.
  RuntimeMetrics(Metrics& metrics, std::string aead);

  // Any thread; the control thread once a second or so, and when a pod comes or goes.
  void publish(RuntimeSample sample);
  // The newest; never null. Any thread.
  [[nodiscard]] std::shared_ptr<const RuntimeSample> latest() const { return latest_->get(); }

 private:
  struct Latest {
    std::mutex mutex;
    std::shared_ptr<const RuntimeSample> sample = std::make_shared<RuntimeSample>();
    std::shared_ptr<const RuntimeSample> get() {
      const std::lock_guard lock(mutex);
      return sample;
    }
  };
  void publish_xds(const workload_api::XdsStats& xds);

  Metrics& metrics_;
  std::shared_ptr<Latest> latest_ = std::make_shared<Latest>();
};

}  // namespace zt::ztunnel
