#include "ztunnel/control_plane.h"

#include <chrono>
#include <utility>

#include "identity/embedded_ca.h"
#include "identity/istiod/istiod_ca_client.h"
#include "mesh/reason.h"

namespace zt::ztunnel {
namespace {

// Istiod knows tokens by the cluster that they are of.
rpc::CallCredentials credentials_of(const Config& config) {
  return {config.control.token, {{"clusterid", config.general.cluster_id}}};
}

// Counts how long a CA takes to answer.
class TimedCa final : public identity::CaClient {
 public:
  TimedCa(std::unique_ptr<identity::CaClient> ca, Metrics& metrics)
      : answered_(metrics.ca_duration.get({"ok"})), failed_(metrics.ca_duration.get({"failed"})), ca_(std::move(ca)) {}

  void fetch(const identity::SpiffeId& id, Done done) override {
    ca_->fetch(id, [this, begun = Clock::now(), done = std::move(done)](Result<identity::CertificatePtr> answer) {
      (answer ? answered_ : failed_).observe(std::chrono::duration<double>(Clock::now() - begun).count());
      done(std::move(answer));
    });
  }

 private:
  Histogram& answered_;
  Histogram& failed_;
  std::unique_ptr<identity::CaClient> ca_;  // last: no answer comes after it has gone
};

}  // namespace

Result<std::unique_ptr<workload_api::XdsClient>> make_xds_client(EventLoop& loop, workload_api::Store& store,
                                                                 const Config& config) {
  const ControlPlaneConfig& control = config.control;
  if (!control.xds_address) return nullptr;
  return workload_api::XdsClient::create(loop, store,
                                         {.endpoint = {.address = *control.xds_address,
                                                       .roots = control.xds_root,
                                                       .alt_hostname = control.alt_xds_hostname,
                                                       .credentials = credentials_of(config),
                                                       .headers = control.xds_headers},
                                          .node_id = config.node.id,
                                          .node_metadata = config.node.metadata,
                                          .node_json = config.node.json,
                                          .on_demand = control.xds_on_demand,
                                          .lookups_per_asker = config.limits.lookups_per_pod,
                                          .random = {}});
}

Result<std::unique_ptr<identity::CaClient>> make_ca_client(const Config& config, Metrics& metrics) {
  const ControlPlaneConfig& control = config.control;
  std::unique_ptr<identity::CaClient> ca;
  if (control.embedded_ca_dir) {
    ZT_ASSIGN(ca, identity::EmbeddedCa::open({.directory = *control.embedded_ca_dir, .ttl = control.secret_ttl, .wall_now = {}}));
  } else if (control.ca_address) {
    ZT_ASSIGN(ca, identity::IstiodCaClient::create({.endpoint = {.address = *control.ca_address,
                                                                 .roots = control.ca_root,
                                                                 .alt_hostname = control.alt_ca_hostname,
                                                                 .credentials = credentials_of(config),
                                                                 .headers = control.ca_headers},
                                                    .ttl = control.secret_ttl,
                                                    .impersonate = config.general.mode == ProxyMode::kShared}));
  } else {
    return fail(Reason::kInvalidInput,
                "no certificate authority: set CA_ADDRESS to istiod, or EMBEDDED_CA_DIR to a directory that "
                "all nodes share "
                "(its root is made on first use)");
  }
  return std::make_unique<TimedCa>(std::move(ca), metrics);
}

}  // namespace zt::ztunnel
