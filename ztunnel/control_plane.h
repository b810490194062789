#pragma once
#include <memory>

#include "base/event_loop.h"
#include "base/result.h"
#include "identity/ca_client.h"
#include "workload_api/store/store.h"
#include "workload_api/xds/xds_client.h"
#include "ztunnel/config/config.h"
#include "ztunnel/telemetry/metrics_registry.h"

// The clients of the control plane as the configuration asks for them (contract §6.1, §7.1). That the control
// plane is away, or its root or our token not mounted yet, is no error here: both clients try again by
// themselves.
namespace zt::ztunnel {

// Null without XDS_ADDRESS: then the local configuration is all there is. Not started yet.
Result<std::unique_ptr<workload_api::XdsClient>> make_xds_client(EventLoop& loop, workload_api::Store& store,
                                                                 const Config& config);

// Who signs certificates: istiod, or the embedded CA. Each answer's time counts in `metrics`, which must live
// longer.
Result<std::unique_ptr<identity::CaClient>> make_ca_client(const Config& config, Metrics& metrics);

}  // namespace zt::ztunnel
