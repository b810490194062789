#pragma once
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/background_thread.h"
#include "identity/secret_manager.h"
#include "workload_api/store/snapshot.h"
#include "ztunnel/admin/http_server.h"
#include "ztunnel/proxy/connection_lines.h"
#include "ztunnel/telemetry/version.h"

namespace zt {
class JsonWriter;
}

// The answer to /config_dump (contract §10.6): JSON, members sorted, indented by two, which istioctl decodes.
namespace zt::ztunnel {

struct PodStatus {
  std::string state;  // "Pending", "Up"
  PodName info;
  std::optional<PodConnections> connections;
};

// Everything that a dump shows, taken at one moment on the control thread. The rest of the work needs no
// other thread.
struct DumpInputs {
  workload_api::SnapshotPtr snapshot;
  std::vector<identity::IdentityStatus> certificates;              // sorted by identity
  std::optional<std::map<std::string, PodStatus>> workload_state;  // by pod uid; none in dedicated mode
  std::shared_ptr<const Config> config;
  BuildInfo version;
};

// Produces the dump piece by piece, so that a million workloads need no text of that size: appends some 64
// KiB to its argument and returns whether there is more. Any thread, one at a time.
[[nodiscard]] std::move_only_function<bool(std::string&)> config_dump(DumpInputs inputs);
[[nodiscard]] HttpResponse config_dump_response(DumpInputs inputs);
// The same, prepared on `thread`: sorting a million workloads takes seconds, for which neither the control thread nor that of the
// HTTP servers, with their probes, may be held up.
void answer_config_dump(BackgroundThread& thread, DumpInputs inputs, HttpRespond respond);

// The answer to /connections, ours: what a dump says of pods, their connections above all, and the last that ended. For whoever asks again and again.
struct ConnectionsInputs {
  std::map<std::string, PodStatus> pods;  // by uid
  std::vector<EndedLine> ended;
};
[[nodiscard]] HttpResponse connections_response(const ConnectionsInputs& inputs);

// One object each.
void write_workload(JsonWriter& json, const workload_api::Workload& workload);
void write_service(JsonWriter& json, const workload_api::ServiceEntry& entry);
void write_endpoints(JsonWriter& json, std::span<const workload_api::Endpoint> endpoints);
void write_policy(JsonWriter& json, const workload_api::Authorization& policy);
void write_certificate(JsonWriter& json, const identity::IdentityStatus& status);
void write_pod_status(JsonWriter& json, const PodStatus& status);

}  // namespace zt::ztunnel
