#pragma once
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/grpc/endpoint.h"
#include "base/result.h"
#include "workload_api/store/store.h"
#include "workload_api/xds/on_demand.h"
#include "workload_api/xds/xds_stats.h"

namespace zt::workload_api {

struct XdsOptions {
  rpc::EndpointOptions endpoint;
  // Who we are (contract §6.2); `node_json` holds JSON texts and overlays.
  std::string node_id;
  std::map<std::string, std::string> node_metadata;
  std::map<std::string, std::string> node_json;
  bool on_demand = false;
  size_t lookups_per_asker = kMaxLookupsOfAsker;
  std::function<double()> random;  // uniform in [0, 1); default: seeded by the system
};

// Keeps the store in step with the control plane, for as long as it lives: connects, reconnects, retains what
// is known through outages. Everything here, callbacks included, is the control thread's; the loop and the
// store outlive it.
class XdsClient {
 public:
  // kInvalidInput if an option cannot be right; never fails because the control plane is away.
  static Result<std::unique_ptr<XdsClient>> create(EventLoop& loop, Store& store, XdsOptions options);
  ~XdsClient();  // lookups that wait are refused; may wait for a message that is just being decoded
  XdsClient(const XdsClient&) = delete;
  XdsClient& operator=(const XdsClient&) = delete;

  // Connects. `on_ready` is called once, when the caches are warm (contract §6.5).
  void start(std::function<void()> on_ready);
  [[nodiscard]] bool ready() const;

  // On-demand mode only: asks the control plane for "network/ip", a workload's uid or "namespace/hostname",
  // which the snapshot does not have. `done` runs once, at once or within kLookupLimit; then look into the
  // newest snapshot. `asker`: on whose behalf (XdsOptions::lookups_per_asker).
  void look_up(const std::string& key, const std::string& asker, LookupDone done);

  [[nodiscard]] XdsStats stats() const;

 private:
  class Impl;
  explicit XdsClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace zt::workload_api
