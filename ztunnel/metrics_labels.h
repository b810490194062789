#pragma once
#include <string_view>

#include "hbone/connect_headers.h"
#include "workload_api/model.h"
#include "ztunnel/metrics.h"

namespace zt::ztunnel {

// What is known of a connection's two ends; null and empty mean unknown.
struct TrafficParties {
  Reporter reporter = Reporter::kSource;
  const workload_api::Workload* source = nullptr;
  const workload_api::Workload* destination = nullptr;
  const workload_api::Service* service = nullptr;
  const hbone::Baggage* source_baggage = nullptr;  // what a peer says of itself: used where xDS knows nothing
  const hbone::Baggage* destination_baggage = nullptr;
  std::string_view source_principal;       // proven by TLS, never from xDS
  std::string_view destination_principal;  // used if the destination's workload is unknown
  bool mutual_tls = false;
};

// The fill rules of contract §10.1. The result views into what it was made from.
[[nodiscard]] TrafficLabels traffic_labels(const TrafficParties& parties);

}  // namespace zt::ztunnel
