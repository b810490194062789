#pragma once
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "ztunnel/admin/http_server.h"
#include "ztunnel/telemetry/metrics_registry.h"
#include "ztunnel/telemetry/runtime_metrics.h"

// What the page on the admin port draws, as server-sent events: once a second `sample`, what the node has and who talks to whom, from
// the sums that the workers keep anyway and from the control thread's sample; and `connection` for each connection that opens, ends or
// is refused, as far as the workers' rings hold them (ztunnel/telemetry/live_events.h). Everything is bounded: watchers, what is kept
// for slow ones, pairs in a sample.
namespace zt::ztunnel {

class LiveFeed {
 public:
  static constexpr size_t kMostWatchers = 8;
  static constexpr size_t kKept = 2048;      // events, for watchers that are slow
  static constexpr size_t kMostPairs = 500;  // in one sample: those that changed last
  static constexpr std::chrono::milliseconds kPoll{250};

  struct Node {
    std::string name, version;
  };
  // `latest`: never null. Both outlive this.
  LiveFeed(Metrics& metrics, const RuntimeMetrics& runtime, Node node)
      : metrics_(metrics), runtime_(runtime), node_(std::move(node)) {}
  LiveFeed(const LiveFeed&) = delete;

  // An answer without end, or 503. The HTTP server's thread, as for its pieces; they may outlive this.
  [[nodiscard]] HttpResponse open();

 private:
  using Clock = TrafficMetrics::Clock;
  struct Watcher {
    uint64_t next_event = 0, next_sample = 0;
    bool begun = false;
  };
  // A pair of workloads as the samples know it.
  struct Pair {
    uint64_t number = 0;
    std::weak_ptr<const SeriesLabels> labels;
    std::string fixed;  // its members that never change, as JSON
    TrafficCounts counts{};
    uint64_t changed = 0, seen = 0;  // samples
  };
  void append(Watcher& watcher, std::string& out);
  void refresh();
  void take_events();
  void take_sample();
  [[nodiscard]] std::string sample_text(uint64_t since) const;
  void leave();

  Metrics& metrics_;
  const RuntimeMetrics& runtime_;
  const Node node_;
  size_t watchers_ = 0;
  std::deque<std::string> events_;
  uint64_t first_event_ = 0;  // number of the first that is kept
  uint64_t left_out_ = 0;
  Clock::time_point refreshed_, sampled_;
  std::unordered_map<const SeriesLabels*, Pair> pairs_;
  uint64_t pair_numbers_ = 0;
  uint64_t samples_ = 0;
  std::shared_ptr<const RuntimeSample> now_;
  const std::shared_ptr<LiveFeed*> self_ = std::make_shared<LiveFeed*>(this);
};

}  // namespace zt::ztunnel
