#pragma once
#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ztunnel/telemetry/denial_log.h"
#include "ztunnel/telemetry/live_events.h"
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
  // Where time goes before bytes move. `to`: peer (15008 of another proxy), application (of a pod of ours), plain (somebody outside).
  HistogramFamily connect_duration;
  HistogramFamily pool_wait;         // for a stream of a tunnel, dialled or not
  HistogramFamily certificate_wait;  // of connections that had to wait for one
  HistogramFamily first_byte;        // `reporter`: from accepting a connection to the server's first byte
  HistogramFamily stall;             // `reporter`: how long the receiver took nothing, over the life of connections where it did
  // `limit`: handshakes, handshakes_per_source, handshakes_per_pod, handshakes_after_abuse, tunnels_per_pod, connections_per_pod:
  // how often somebody was refused, or somebody silent ended, because of it.
  CounterFamily limit_reached;
  // Live connections to the next process and from the one before (docs/handover.md). `way`: given, taken.
  CounterFamily handover_connections;
  CounterFamily handover_stayed;  // `cause`: tunnels and pairs that were still here when the hand-over ended
  HistogramFamily ca_duration;    // `result`: ok, failed

  // Series of the families above that each connection counts in: no lock to find them.
  struct Times {
    Histogram &connect_peer, &connect_application, &connect_plain, &pool_wait, &certificate_wait;
    std::array<Histogram*, 2> first_byte, stall;  // by Reporter
  };
  const Times times;

  LiveEvents live;  // of single connections, for whoever watches

  DenialLog denial_log;  // what early_denials counts, as far as it fits a second

  // Further families whose values are computed at the scrape, after all others.
  void add(std::unique_ptr<Family> family) { added_.push_back(std::move(family)); }

  // The whole scrape, "# EOF" included, in pieces: appends some 64 KiB and returns whether there is more. All traffic is of one moment,
  // the call's. At most kMostScrapes are kept: when one more comes, the oldest throws at its next piece. This outlives it.
  static constexpr size_t kMostScrapes = 4;
  using Clock = TrafficMetrics::Clock;
  [[nodiscard]] std::move_only_function<bool(std::string& out)> scrape(Clock::time_point now = Clock::now());
  // The same at once, for tests.
  [[nodiscard]] std::string render(Clock::time_point now = Clock::now());

  // Every family, whether or not it has series now, in the order of a scrape.
  struct Description {
    FamilyInfo info;
    std::string type;
  };
  [[nodiscard]] std::vector<Description> describe() const;

 private:
  class Scrape;
  [[nodiscard]] std::vector<const Family*> before_traffic() const;
  [[nodiscard]] std::vector<const Family*> after_traffic() const;
  void append_rest(std::string& out) const;

  std::mutex scrapes_mutex_;
  std::deque<TrafficSamplePtr> scrapes_;  // guarded by scrapes_mutex_; scrapes hold weak pointers
  std::string build_;                     // istio_build never changes
  std::vector<std::unique_ptr<Family>> added_;
};

}  // namespace zt::ztunnel
