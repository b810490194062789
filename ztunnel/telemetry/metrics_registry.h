#pragma once
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "ztunnel/telemetry/denial_log.h"
#include "ztunnel/telemetry/metrics.h"
#include "ztunnel/telemetry/metrics_families.h"

namespace zt::ztunnel {

// Every metric of the process, in the order in which a scrape shows them: first those that the peer has too
// (contract §10.1), then our own, zt_*. Made once; counting and scraping from any thread, add() before the
// first scrape.
class Metrics {
 public:
  // `istio_version`: the tag of istio_build; "" or "unknown": our own version, since something must tell what runs here.
  Metrics(size_t workers, const TrafficLimits& limits, std::string istio_version);

  TrafficMetrics traffic;

  // xDS client. `url`: type URL. `reason`: ConnectionError, Error, Reconnect, Complete.
  CounterFamily xds_connection_terminations;
  CounterFamily xds_messages;
  CounterFamily xds_message_bytes;
  // The source's eight labels in traffic order, then the hostname.
  CounterFamily on_demand_dns;
  // `reporter`.
  CounterFamily crl_rejections;
  CounterFamily crl_untracked;
  // `request_query_type` in lower case, `request_protocol` udp or tcp, the client's canonical service and
  // revision.
  CounterFamily dns_requests;
  CounterFamily dns_upstream_requests;
  CounterFamily dns_upstream_failures;
  HistogramFamily dns_upstream_duration;
  GaugeFamily active_proxies;
  GaugeFamily pending_proxies;
  CounterFamily proxies_started;
  CounterFamily proxies_stopped;

  // Ours. `role`: client or server. `result`: ok, or the name of a Reason.
  CounterFamily handshakes;
  HistogramFamily handshake_duration;
  CounterFamily pool_dials;  // `result`
  CounterFamily connects_resent;
  CounterFamily connect_failovers;    // `reason`: a connection went to another endpoint because the one before failed so
  CounterFamily endpoints_set_aside;  // how often one was, for failing again and again
  CounterFamily early_denials;        // `reporter`, `reason`: refused before anything was known; in no traffic metric
  CounterFamily accept_errors;        // `listener`
  CounterFamily dns_forwarded;  // UDP queries for an upstream. `result`: cached, shared (with one that was under way), asked
  CounterFamily dns_dropped;    // `reason`
  // `limit`: handshakes, handshakes_per_source, handshakes_per_pod, handshakes_after_abuse, tunnels_per_pod, connections_per_pod:
  // how often somebody was refused, or somebody silent ended, because of it.
  CounterFamily limit_reached;
  // Live connections to the next process and from the one before (docs/handover.md). `way`: given, taken.
  CounterFamily handover_connections;
  CounterFamily handover_stayed;  // `cause`: tunnels and pairs that were still here when the hand-over ended
  HistogramFamily ca_duration;    // `result`: ok, failed

  DenialLog denial_log;  // what early_denials counts, as far as it fits a second

  // Further families whose values are computed at the scrape, after all others.
  void add(std::unique_ptr<Family> family) { added_.push_back(std::move(family)); }

  // The whole scrape, "# EOF" included.
  [[nodiscard]] std::string render(TrafficMetrics::Clock::time_point now = TrafficMetrics::Clock::now());

 private:
  std::string build_;  // istio_build never changes
  std::vector<std::unique_ptr<Family>> added_;
};

}  // namespace zt::ztunnel
