#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/event_loop.h"
#include "base/memory_account.h"
#include "workload_api/store/snapshot.h"
#include "ztunnel/config/config.h"
#include "ztunnel/dns/cache.h"
#include "ztunnel/dns/forwarder.h"
#include "ztunnel/dns/message.h"
#include "ztunnel/dns/packet_batch.h"
#include "ztunnel/dns/resolve.h"
#include "ztunnel/telemetry/metrics_registry.h"

namespace zt::ztunnel::dns {

// What all pods have in common; immutable after start.
struct Settings {
  ListenAddress listen = LocalhostPort{15053};
  std::string cluster_domain = "cluster.local";
  std::string network;
  std::optional<std::string> preferred_ns;
  bool ipv6 = true;
  std::optional<std::vector<std::string>> search;  // dedicated mode: those of resolv.conf, at first
  std::vector<SocketAddress> upstreams;            // the node's, for queries whose own name server is not known, at first
  ForwardLimits forward;
  size_t cache_bytes_per_worker = 4u << 20;
  size_t tcp_sessions_per_pod = 64;
};

// What the pods of one worker share; the worker's thread.
struct WorkerShare {
  WorkerShare(EventLoop& event_loop, MemoryAccount& all_memory, const Settings& common, Metrics& all_metrics,
              std::function<const workload_api::SnapshotPtr&()> current)
      : loop(event_loop),
        memory(all_memory),
        settings(common),
        metrics(all_metrics),
        snapshot(std::move(current)),
        search(common.search),
        upstreams(common.upstreams),
        cache(common.cache_bytes_per_worker) {}
  EventLoop& loop;
  MemoryAccount& memory;  // the worker's
  const Settings& settings;
  Metrics& metrics;
  std::function<const workload_api::SnapshotPtr&()> snapshot;
  // As Settings says until resolv.conf says something else.
  std::optional<std::vector<std::string>> search;
  std::vector<SocketAddress> upstreams;
  uint64_t edits = 0;  // of `search`
  CacheAccount cache;
  PacketBatch batch;
};

enum class Transport : uint8_t { kUdp, kTcp };

// What is done about a query, over whatever transport it came.
struct Plan {
  enum class Step : uint8_t { kDrop, kAnswer, kForward };
  Step step = Step::kDrop;
  std::optional<Found> fallback = {};  // kForward: what to say if the upstream knows nothing
};

// The DNS of one pod, apart from its sockets: who it is, what it may know, and what is counted and logged.
class PodDns {
 public:
  PodDns(WorkerShare& share, PodName pod);

  // kAnswer: `out` has it. Counts the request.
  [[nodiscard]] Plan plan(const Query& query, Transport transport, Bytes& out);

  // The answer to a query that was forwarded: the upstream's (empty: there was none) or what the plan has fallen back to.
  void finish(const Query& query, Transport transport, std::optional<Found> fallback, Forwarder::Outcome outcome, View response,
              Clock::duration took, Bytes& out);

  // Where to forward to: the name server that the query was sent to, if that is known; if it is one of the node's, the node's others
  // after it. A pod's private name server stands for no other: its names are nobody else's business.
  [[nodiscard]] std::vector<SocketAddress> upstreams(const std::optional<SocketAddress>& original) const;

  void note_upstream(const Query& query, Transport transport);  // it is being asked
  void note_dropped(std::string_view why) { share_.metrics.dns_dropped.get({why}).add(); }
  void note_limit(std::string_view which) { share_.metrics.limit_reached.get({which}).add(); }
  // Of queries for an upstream: answered from the cache; or asked with, or without, somebody else's.
  void note_cached() { cached_.add(); }
  void note_asked(bool shared) { (shared ? shared_ : asked_).add(); }

 private:
  // Series of one type and transport, found once: families take a lock.
  struct Series {
    Counter* requests = nullptr;
    Counter* upstream_requests = nullptr;
    Counter* upstream_failures = nullptr;
    Histogram* upstream_duration = nullptr;
  };
  void look_up_workload();
  void look_at_search();
  Series& series(const Query& query, Transport transport);
  void log(const Query& query, std::string_view result, size_t endpoints);
  template <class Family, class One>
  One& once(Family& family, One*& cached, const Query& query, Transport transport);

  WorkerShare& share_;
  const PodName pod_;
  NameRules names_;
  uint64_t names_of_;  // WorkerShare::edits
  uint64_t generation_ = UINT64_MAX;
  workload_api::WorkloadPtr workload_;  // null while it is not known
  std::map<std::pair<std::string_view, Transport>, Series> series_;
  uint64_t order_ = 0;
  Counter &cached_, &shared_, &asked_;
};

}  // namespace zt::ztunnel::dns
