#pragma once
#include <atomic>
#include <functional>
#include <thread>

#include "base/event_loop.h"
#include "hbone/worker_io.h"
#include "ztunnel/proxy/lookups.h"
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
         LookupRequest lookups = {});
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
  [[nodiscard]] TrafficMetrics::Cell& traffic() { return metrics_.traffic.cell(index_); }
  // Families by label take a lock: for what is rare (handshakes, refusals), never for bytes.
  [[nodiscard]] Metrics& metrics() { return metrics_; }

  // Connections that live here; read by whoever accepts, to find the least loaded.
  std::atomic<uint32_t> connections{0};
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
  std::thread thread_;
};

}  // namespace zt::ztunnel
