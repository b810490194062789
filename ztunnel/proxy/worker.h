#pragma once
#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/event_loop.h"
#include "base/task.h"
#include "hbone/tls/context.h"
#include "hbone/tunnel_pool.h"
#include "hbone/worker_io.h"
#include "identity/revocation.h"
#include "identity/secret_manager.h"
#include "workload_api/store/snapshot.h"
#include "ztunnel/config/config.h"
#include "ztunnel/decide/authorize.h"
#include "ztunnel/proxy/sockets.h"
#include "ztunnel/telemetry/metrics_registry.h"

namespace zt::ztunnel {

class Worker;

// What all workers are made from; immutable after start.
struct WorkerSettings {
  SocketOptions sockets;  // netns is filled per pod
  hbone::TunnelConfig tunnel;
  hbone::TunnelPoolConfig pool;
  hbone::TlsOptions tls;
  Clock::duration handshake_timeout;
  Clock::duration connect_answer_timeout;
  Clock::duration certificate_timeout;
  Clock::duration policy_wait;
  MissingPolicy missing_policy = MissingPolicy::kUndecided;
  Clock::duration source_wait = std::chrono::milliseconds(250);  // Worker::find_source()
  bool response_baggage = true;
  bool localhost_app_tunnel = true;
  bool policy_info_logging = false;
  std::string network;
  std::vector<uint16_t> illegal_ports;
  size_t memory_budget_per_worker;
  Transparency transparency = Transparency::kBestEffort;
};

// Asks the control thread for certificates. Thread-safe: get() posts there, `done` comes on the control thread.
using CertificateRequest = std::function<void(const identity::SpiffeId& id, identity::SecretManager::Waiter done)>;

// Asks the control plane for what it does not send unasked (XDS_ON_DEMAND). Thread-safe; `done` comes on the control
// thread within XdsClient's limit, after the snapshot with the answer has been published. Null: nothing is on demand.
using LookupRequest = std::function<void(std::string key, std::function<void()> done)>;

// SSL_CTXs of one worker, by identity; made when a certificate changes, not per connection. Worker's thread.
class TlsContexts {
 public:
  TlsContexts(Worker& worker, CertificateRequest request) : worker_(worker), request_(std::move(request)) {}

  // The context for connections of `id`, waiting for the first certificate up to the configured limit.
  // kIdentityUnavailable, kIdentityTimeout.
  Task<Result<std::shared_ptr<const hbone::TlsContext>>> get(identity::SpiffeId id, hbone::TlsRole role);
  // A certificate or the roots changed; empty credentials: forgotten or expired.
  void update(const identity::SpiffeId& id, const identity::Credentials& credentials);

  // Revocation lists for handshakes from now on; tunnels that are there are DataPlane's to look at.
  void set_revocations(identity::RevocationListsPtr lists) { revocations_ = std::move(lists); }
  // kCertRevoked, with the certificate's serial number. Counts what it refuses.
  Result<> check_revocation(std::span<const identity::X509Ptr> chain, hbone::TlsRole role);

 private:
  struct Entry {
    identity::Credentials credentials;
    std::shared_ptr<const hbone::TlsContext> contexts[2];  // by role, made on first use
    std::optional<Error> error;                            // of the request in flight when it ended
    std::shared_ptr<Event> waiting;                        // set when the request in flight ends
  };
  Worker& worker_;
  CertificateRequest request_;
  identity::RevocationListsPtr revocations_;
  const std::shared_ptr<hbone::VerifiedPeers> verified_peers_ = std::make_shared<hbone::VerifiedPeers>();
  std::unordered_map<identity::SpiffeId, Entry> entries_;
};

// One thread of the data path: its loop, its buffers, its view of the state. A connection that was given to a worker lives and
// dies there.
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
  [[nodiscard]] TrafficMetrics::Cell& traffic() { return metrics_.traffic.cell(index_); }
  // Families by label take a lock: for what is rare (handshakes, refusals), never for bytes.
  [[nodiscard]] Metrics& metrics() { return metrics_; }
  [[nodiscard]] const workload_api::SnapshotPtr& snapshot() const { return snapshot_; }
  // Waits for the next snapshot; false if `limit` passed first.
  Event::Wait next_snapshot(Clock::duration limit) { return snapshot_changed_->wait(loop_, limit); }
  [[nodiscard]] bool on_demand() const { return lookups_ != nullptr; }
  // Only on demand: waits until the control plane has said what it knows of `key`, or `limit` has passed; what it
  // said is in snapshot() then.
  Task<void> look_up(std::string key, Clock::duration limit);
  // Only on demand, for what peers name. Whoever may send makes us ask, and each key costs the control plane a subscription:
  // what it does not know it is not asked again for a minute, and only so many of each kind are asked for.
  // find_source(): waits for a moment until the control plane has said who has this address, if nobody knows. For the
  // source of a connection that has come, which is named in metrics and logs by what snapshot() says then.
  Task<void> find_source(IpAddress ip);
  // The service of this name, if nobody knows it, as seen from namespace `ns`.
  Task<void> find_service(std::string ns, std::string host);
  static constexpr size_t kMaxAsked = 256;
  // What a new snapshot asks of a pod, a piece a call, so that ten thousand connections that are judged anew keep nobody
  // waiting: `anew` begins from the start; returns whether nothing is left. The snapshot of a later piece may be newer than
  // that of the first; the pod is then gone through once more.
  using SnapshotStep = std::function<bool(const workload_api::Snapshot&, bool anew)>;
  void on_snapshot(void* key, SnapshotStep step) { listeners_[key].step = std::move(step); }
  void forget_listener(void* key);

  // Connections that live here; read by whoever accepts, to find the least loaded.
  std::atomic<uint32_t> connections{0};
  [[nodiscard]] size_t index() const { return index_; }

 private:
  struct Asked {
    Clock::time_point when;
    std::shared_ptr<Event> answered;
  };
  using AskedKeys = std::unordered_map<std::string, Asked>;
  Task<void> ask(AskedKeys& keys, std::string key, Clock::duration limit, std::function<bool()> known);
  struct SnapshotListener {
    SnapshotStep step;
    bool queued = false;  // in sweep_
    bool begun = false;   // its first piece is done
    bool again = false;   // a newer snapshot came since
  };
  void take_snapshot(workload_api::SnapshotPtr snapshot);
  void sweep();

  const size_t index_;
  const WorkerSettings& settings_;
  Metrics& metrics_;
  EventLoop loop_;
  hbone::WorkerIo io_;
  TlsContexts tls_;
  const LookupRequest lookups_;
  AskedKeys asked_sources_, asked_services_;
  workload_api::SnapshotPtr snapshot_;
  std::shared_ptr<Event> snapshot_changed_ = std::make_shared<Event>();
  std::unordered_map<void*, SnapshotListener> listeners_;
  std::deque<void*> sweep_;  // listeners that have not yet gone through the snapshot
  Timer sweep_timer_{loop_};
  std::thread thread_;
};

}  // namespace zt::ztunnel
