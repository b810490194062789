#pragma once
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/event_loop.h"
#include "base/ticket.h"
#include "zds/zds_session.h"
#include "ztunnel/dns/pod_server.h"
#include "ztunnel/proxy/pod_worker.h"
#include "ztunnel/proxy/worker.h"
#include "ztunnel/proxy/worker_handover.h"
#include "ztunnel/telemetry/runtime_metrics.h"

namespace zt::ztunnel {

// The workers and the pods they serve. Control thread; everything that concerns a worker goes to it by post.
class DataPlane final : public zds::PodManager {
 public:
  // `listen`: addresses of the three listeners. `dns`: null if queries are not answered; outlives this. Workers are made and
  // started here.
  DataPlane(EventLoop& control, const WorkerSettings& settings, const ListenConfig& listen, size_t workers, Metrics& metrics,
            CertificateRequest certificates, LookupRequest lookups = {}, const dns::Settings* dns = nullptr,
            const HostRequest& hosts = {});
  ~DataPlane();

  void publish(const workload_api::SnapshotPtr& snapshot);
  void certificate_changed(const identity::SpiffeId& id, const identity::Credentials& credentials);
  // For new handshakes, and tunnels whose peer is revoked by these are closed (contract §2.11).
  void set_revocations(const identity::RevocationListsPtr& lists);
  // Name servers, and in dedicated mode search domains, for what is asked from now on.
  void set_resolver(const ResolverConfig& resolver);

  // A pod whose listeners hold their ports. Nothing is accepted before serve(): who connects waits in their queues, and
  // is reset if this is destroyed instead.
  struct BoundPod {
    struct Listener {
      ListenerKind kind;
      ListenSocket socket;
    };
    std::string uid;
    PodName workload;
    SocketOptions sockets;  // of its connections
    std::vector<Listener> listeners;
    dns::Listeners dns;
  };
  // Dedicated mode: one workload in our own network namespace, known as `uid`. The error names the address that is taken.
  [[nodiscard]] Result<BoundPod> bind_dedicated(const std::string& uid, const PodName& workload) const;
  // Somebody listens there.
  [[nodiscard]] bool ports_are_taken() const;
  void serve(BoundPod pod);

  // The proxy's own pod (contract §1.4): peers reach our metrics over a tunnel. Only 15008, no source preservation, no mark.
  Result<> start_self(const PodName& pod);

  // zds::PodManager
  void start(const std::string& uid, const PodName& info, std::shared_ptr<const Netns> netns, StartDone done) override;
  void stop(const std::string& uid) override;
  void drain_all() override;

  // --- Hand-over (data_plane_handover.cc; docs/handover.md). Gives connections to the process that waits at `path`, as long as there
  // are some that may be moved, and for `limit`: new ones go to its listeners from here on. What is left then is for shutdown().
  // `progress` once a second, `done` at the end; both on this thread. The error, at once: nobody waits there, and nothing has changed.
  using HandOverDone = std::function<void(const HandOverCounts&)>;
  [[nodiscard]] Result<> hand_over(const std::string& path, Clock::duration limit, HandOverDone progress, HandOverDone done);
  // Somebody who leaves has come: one of the workers takes over what it gives.
  void take_over(UniqueFd visitor);
  // What we say of ourselves to the other process.
  struct HandOverIdentity {
    std::string build, trust_domain, node;
  };
  void identify(HandOverIdentity identity) { identity_ = std::move(identity); }

  // Stops accepting, tells peers, waits for the connections to end, and for those that were on their way when the peers had not
  // heard of it; what is left at the deadline is cut. `done` on this thread.
  void shutdown(Clock::duration deadline, std::function<void()> done);
  // Connections that were left at its deadline.
  [[nodiscard]] size_t cut() const { return cut_; }

  // The connections of all pods, for the admin dump; `done` on this thread.
  void collect_connections(std::function<void(std::map<std::string, PodConnections>)> done);
  // The last that ended, of all workers, the oldest of each first; `done` on this thread.
  void collect_ended(std::function<void(std::vector<EndedLine>)> done);

  // What each pod has, as the workers last said; asks them to say it anew.
  [[nodiscard]] std::vector<PodUse> pod_use();

  // Pods that the agent or the configuration gave us: without our own.
  [[nodiscard]] size_t pod_count() const { return pods_.size() - pods_.count(std::string(kOwnPod)); }
  [[nodiscard]] uint64_t pods_started() const { return started_; }
  [[nodiscard]] uint64_t pods_stopped() const { return stopped_; }
  [[nodiscard]] size_t handshakes_in_flight() const { return handshakes_->load(std::memory_order_relaxed); }
  [[nodiscard]] const std::vector<std::unique_ptr<Worker>>& workers() const { return workers_; }

 private:
  static constexpr std::string_view kOwnPod = "self";  // uid
  struct PodEntry {
    size_t acceptor_worker = 0;
    PodName name;
    std::shared_ptr<const PodCounts> counts;
  };
  // Per worker, touched on its thread only.
  struct WorkerPods {
    PodWorkers pods;
    std::vector<std::shared_ptr<PodWorker>> leaving;  // see end_some()
    // After the pods, which they speak of.
    std::unique_ptr<WorkerLeaving> giving;
    std::list<std::unique_ptr<WorkerArriving>> taking;
    // Of the pods whose listeners are this worker's.
    std::unique_ptr<dns::WorkerShare> dns_share;  // null: DNS is not served
    std::unordered_map<std::string, std::unique_ptr<dns::PodServer>> dns;
  };
  void serve_dns(size_t worker, const std::string& uid, PodName workload, const SocketOptions& sockets, dns::Listeners listeners);

  [[nodiscard]] Result<BoundPod> bind(const std::string& uid, PodName workload, SocketOptions sockets, Transparency transparency,
                                      bool tunnel_only = false) const;
  struct Left {
    size_t connections = 0;
    size_t unfinished = 0;  // PodWorker::unfinished()
    size_t queries = 0;     // dns::PodServer::unfinished()
  };
  void count_left(std::function<void(Left)> done);
  // `settling_since`: when no connection was left, to wait a little for what may become one.
  void wait_for_end(Clock::time_point deadline, std::optional<Clock::time_point> settling_since);
  void cut_and_end();
  // Does `step` for each pod of a worker, a piece a turn, and then `done`, on the worker's thread. `anew`: the first piece of this
  // pod; returns whether it was the last. Pods that go meanwhile are passed over.
  using PodStep = std::function<bool(PodWorker& pod, const std::string& uid, bool anew)>;
  void sweep_pods(size_t worker, PodStep step, std::function<void()> done);
  struct Sweep;
  void sweep_some(const std::shared_ptr<Sweep>& sweep);
  // Ends a pod that was taken away, a piece a turn.
  void end_some(size_t worker, const std::weak_ptr<PodWorker>& leaving, bool anew);
  // Until the connections of a worker that are ending have ended.
  void wait_for_ends(size_t worker, size_t left, int patience, std::function<void()> done);

  const WorkerSettings& settings_;
  const ListenConfig& listen_;
  const std::shared_ptr<std::atomic<size_t>> handshakes_ = std::make_shared<std::atomic<size_t>>(0);
  const dns::Settings* const dns_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<WorkerPods>> worker_pods_;
  std::map<std::string, PodEntry> pods_;
  size_t next_acceptor_ = 0;
  uint64_t started_ = 0;
  uint64_t stopped_ = 0;
  Timer shutdown_timer_;
  std::function<void()> shutdown_done_;
  size_t cut_ = 0;
  [[nodiscard]] handover::Hello hello() const;
  void step_back_all();
  struct HandOver;
  void give_all(const std::shared_ptr<HandOver>& hand_over);
  void report_progress(const std::shared_ptr<HandOver>& hand_over);
  HandOverIdentity identity_;
  size_t next_taking_ = 0;
  Timer hand_over_timer_;
  Ticket ticket_;  // what the workers owe us
};

}  // namespace zt::ztunnel
