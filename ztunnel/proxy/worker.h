#pragma once
#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "base/turn_queue.h"
#include "hbone/worker_io.h"
#include "ztunnel/decide/route.h"
#include "ztunnel/proxy/ended_connections.h"
#include "ztunnel/proxy/handshake_admission.h"
#include "ztunnel/proxy/host_names.h"
#include "ztunnel/proxy/local_peers.h"
#include "ztunnel/proxy/lookups.h"
#include "ztunnel/proxy/set_aside.h"
#include "ztunnel/proxy/state_view.h"
#include "ztunnel/proxy/tls_contexts.h"
#include "ztunnel/proxy/worker_settings.h"
#include "ztunnel/telemetry/metrics_registry.h"

namespace zt::ztunnel {

// One thread of the data path: its loop, its buffers, and what it knows: the state, certificates. A connection that was
// given to a worker lives and dies there.
class Worker {
 public:
  Worker(size_t index, const WorkerSettings& settings, Metrics& metrics, CertificateRequest certificates,
         LookupRequest lookups = {}, HostRequest hosts = {});
  ~Worker();
  Worker(const Worker&) = delete;

  void start();  // the thread, named ztunnel-<index>
  void stop();   // any thread; joins

  // Any thread: runs on the worker.
  void post(std::move_only_function<void()> fn) { loop_.post(std::move(fn)); }
  void publish(workload_api::SnapshotPtr snapshot);

  // Worker's thread from here on.
  [[nodiscard]] EventLoop& loop() { return loop_; }
  [[nodiscard]] hbone::WorkerIo& io() { return io_; }
  [[nodiscard]] const WorkerSettings& settings() const { return settings_; }
  [[nodiscard]] TlsContexts& tls() { return tls_; }
  [[nodiscard]] StateView& state() { return state_; }
  [[nodiscard]] const workload_api::SnapshotPtr& snapshot() const { return state_.snapshot(); }
  [[nodiscard]] const LookupRequest& lookups() const { return lookups_; }
  [[nodiscard]] HostNames& host_names() { return host_names_; }
  // WorkerSettings::name_search until resolv.conf says something else.
  [[nodiscard]] const std::optional<std::vector<std::string>>& name_search() const { return name_search_; }
  void set_name_search(std::vector<std::string> search) { name_search_ = std::move(search); }
  [[nodiscard]] TrafficMetrics::Cell& traffic() { return metrics_.traffic.cell(index_); }
  // Families by label take a lock: for what is rare (handshakes, refusals), never for bytes.
  [[nodiscard]] Metrics& metrics() { return metrics_; }

  // Who may begin a handshake at the listeners that are served here.
  [[nodiscard]] HandshakeAdmission& admission() { return admission_; }
  // Steps of handshakes, one a turn.
  [[nodiscard]] TurnQueue& handshake_turns() { return handshake_turns_; }
  // Which of equal endpoints is next, for all pods of this worker: one count for each pod would send each pod's first connection to
  // the same endpoint.
  [[nodiscard]] const NumberFor& turns() const { return numbers_; }
  // Which of them keep failing.
  [[nodiscard]] SetAside& set_aside() { return set_aside_; }
  // The pods that this worker serves, for each other.
  [[nodiscard]] LocalPeers& local_peers() { return local_peers_; }
  // The last that ended here, for whoever asks why.
  [[nodiscard]] EndedConnections& ended() { return ended_; }

  // Connections that live here, and those that were given to this worker and are on their way into a table.
  std::atomic<uint32_t> connections{0}, arriving{0};
  // Read by whoever accepts, to find the least loaded. Any thread.
  [[nodiscard]] uint32_t load() const {
    return connections.load(std::memory_order_relaxed) + arriving.load(std::memory_order_relaxed) +
           io_.server_tunnels.load(std::memory_order_relaxed);
  }
  [[nodiscard]] size_t index() const { return index_; }

 private:
  const size_t index_;
  const WorkerSettings& settings_;
  Metrics& metrics_;
  EventLoop loop_;
  hbone::WorkerIo io_;
  StateView state_;
  TlsContexts tls_;
  const LookupRequest lookups_;
  HostNames host_names_;
  std::optional<std::vector<std::string>> name_search_;
  HandshakeAdmission admission_;
  TurnQueue handshake_turns_;
  RoundRobin round_robin_;
  SetAside set_aside_;
  LocalPeers local_peers_;
  EndedConnections ended_;
  const NumberFor numbers_{std::ref(round_robin_)};
  std::thread thread_;
};

}  // namespace zt::ztunnel
