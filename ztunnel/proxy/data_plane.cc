#include "ztunnel/proxy/data_plane.h"

#include <algorithm>
#include <atomic>
#include <optional>

#include "base/log.h"
#include "mesh/reason.h"

namespace zt::ztunnel {

namespace {

log::Scope kLog("inpod");

constexpr std::chrono::milliseconds kDrainPoll{50};
// Without connections: how long a drain waits for handshakes and for peers that have not acknowledged our GOAWAY. A little more
// than hbone::TunnelConfig::goaway_grace.
constexpr std::chrono::milliseconds kSettleLimit{1'250};
// And for DNS clients that have connected: on a busy machine one may be slow to ask.
constexpr std::chrono::seconds kQueriesLimit{5};
constexpr std::chrono::milliseconds kSettlePoll{5};
// A worker gives a new connection away only to one that has this many fewer: moving it costs a wake-up. A tunnel, which brings many,
// goes to the least loaded.
constexpr uint32_t kImbalance = 4;
// How long one turn goes on with what concerns all connections of a worker.
constexpr std::chrono::microseconds kSweepTurn{200};
// Turns in which no connection has ended, after which those that are left are not ending.
constexpr int kEndPatience = 8;

dns::SocketOptions dns_options(const SocketOptions& sockets) {
  return {
      .netns = sockets.netns, .mark = sockets.mark, .mark_listeners = sockets.mark_listeners, .reuse_port = sockets.reuse_port};
}

}  // namespace

DataPlane::DataPlane(EventLoop& control, const WorkerSettings& settings, const ListenConfig& listen, size_t workers,
                     Metrics& metrics, CertificateRequest certificates, LookupRequest lookups, const dns::Settings* dns,
                     const HostRequest& hosts)
    : settings_(settings), listen_(listen), dns_(dns), shutdown_timer_(control), hand_over_timer_(control), ticket_(control) {
  for (size_t i = 0; i < workers; ++i) {
    workers_.push_back(std::make_unique<Worker>(i, settings_, metrics, certificates, lookups, hosts));
    worker_pods_.push_back(std::make_unique<WorkerPods>());
    if (dns_ == nullptr) continue;
    worker_pods_.back()->dns_share = std::make_unique<dns::WorkerShare>(
        workers_.back()->loop(), workers_.back()->io().budget, *dns_, metrics,
        [worker = workers_.back().get()]() -> const workload_api::SnapshotPtr& { return worker->snapshot(); });
  }
  for (auto& worker : workers_) worker->start();
}

DataPlane::~DataPlane() {
  // Pods go on their own threads, before the threads end.
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->post([pods = worker_pods_[i].get()] {
      pods->giving.reset();
      pods->taking.clear();
      pods->pods.clear();
      pods->dns.clear();
      pods->leaving.clear();
    });
  }
  for (auto& worker : workers_) worker->stop();
}

void DataPlane::publish(const workload_api::SnapshotPtr& snapshot) {
  for (auto& worker : workers_) worker->publish(snapshot);
}

void DataPlane::set_resolver(const ResolverConfig& resolver) {
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->post([worker = workers_[i].get(), share = worker_pods_[i]->dns_share.get(), resolver] {
      if (worker->name_search()) worker->set_name_search(resolver.search);
      if (share == nullptr) return;
      share->upstreams = resolver.name_servers;
      if (!share->search) return;
      share->search = resolver.search;
      ++share->edits;
    });
  }
}

void DataPlane::certificate_changed(const identity::SpiffeId& id, const identity::Credentials& credentials) {
  for (auto& worker : workers_) {
    worker->post([worker = worker.get(), id, credentials] { worker->tls().update(id, credentials); });
  }
}

void DataPlane::set_revocations(const identity::RevocationListsPtr& lists) {
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->post([this, i, lists] {
      workers_[i]->tls().set_revocations(lists);
      sweep_pods(i, [](PodWorker& pod, const std::string&, bool anew) { return pod.close_revoked_some(anew); }, [] {});
    });
  }
}

Result<DataPlane::BoundPod> DataPlane::bind_dedicated(const std::string& uid, const PodName& workload) const {
  SocketOptions sockets = settings_.sockets;
  sockets.mark_listeners = false;
  return bind(uid, workload, std::move(sockets), settings_.transparency);
}

bool DataPlane::ports_are_taken() const {
  SocketOptions sockets = settings_.sockets;
  sockets.mark_listeners = sockets.reuse_port = false;
  return !listen_tcp(sockets, listen_.inbound, Transparency::kNever, false);
}

Result<> DataPlane::start_self(const PodName& pod) {
  SocketOptions sockets = settings_.sockets;
  sockets.mark = 0;
  sockets.mark_listeners = false;
  // An upgrade's two proxies have different pods, so no port is shared here.
  sockets.reuse_port = false;
  ZT_ASSIGN(auto bound, bind(std::string(kOwnPod), pod, std::move(sockets), Transparency::kNever, true));
  serve(std::move(bound));
  return {};
}

// Binding happens here, at once: the answer to the agent says that the listeners are up. Connections that arrive before the
// workers have them wait in the sockets' queues.
void DataPlane::start(const std::string& uid, const PodName& info, std::shared_ptr<const Netns> netns, StartDone done) {
  SocketOptions sockets = settings_.sockets;
  sockets.netns = std::move(netns);
  auto bound = bind(uid, info, std::move(sockets), settings_.transparency);
  if (!bound) return done(std::unexpected(std::move(bound).error()));
  serve(std::move(*bound));
  done({});
}

Result<DataPlane::BoundPod> DataPlane::bind(const std::string& uid, PodName workload, SocketOptions sockets,
                                            Transparency transparency, bool tunnel_only) const {
  BoundPod pod{.uid = uid, .workload = std::move(workload), .sockets = std::move(sockets), .listeners = {}, .dns = {}};
  for (const auto& [kind, address, local_leg] :
       {std::tuple{ListenerKind::kOutbound, std::optional(listen_.outbound), true},
        std::tuple{ListenerKind::kInboundPlain, std::optional(listen_.inbound_plaintext), false},
        std::tuple{ListenerKind::kInboundTunnel, std::optional(listen_.inbound), false},
        std::tuple{ListenerKind::kSocks5, listen_.socks5, true}}) {
    if (!address || (tunnel_only && kind != ListenerKind::kInboundTunnel)) continue;
    ZT_ASSIGN(auto socket, listen_tcp(pod.sockets, *address, transparency, local_leg));
    pod.listeners.push_back({kind, std::move(socket)});
  }
  if (dns_ != nullptr && !tunnel_only) {
    ZT_ASSIGN(pod.dns, dns::bind_listeners(dns_options(pod.sockets), dns_->listen, dns_->ipv6));
  }
  return pod;
}

void DataPlane::serve(BoundPod pod) {
  const size_t acceptor = next_acceptor_++ % workers_.size();
  const auto counts = std::make_shared<PodCounts>(handshakes_, workers_.size());
  pods_[pod.uid] = {.acceptor_worker = acceptor, .name = pod.workload, .counts = counts};
  if (pod.uid != kOwnPod) ++started_;
  ZT_LOG(kLog, kInfo, "pod started", Field::string("uid", pod.uid), Field::string("name", pod.workload.name),
         Field::string("namespace", pod.workload.ns));
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->post([this, i, uid = pod.uid, workload = pod.workload, sockets = pod.sockets, counts] {
      worker_pods_[i]->pods[uid] = std::make_unique<PodWorker>(*workers_[i], uid, workload, sockets, counts);
    });
  }
  workers_[acceptor]->post([this, acceptor, uid = pod.uid, workload = pod.workload, sockets = pod.sockets, counts,
                            listeners = std::move(pod.listeners), dns = std::move(pod.dns)]() mutable {
    const auto found = worker_pods_[acceptor]->pods.find(uid);
    if (found == worker_pods_[acceptor]->pods.end()) return;
    serve_dns(acceptor, uid, std::move(workload), sockets, std::move(dns));
    for (auto& [kind, listener] : listeners) {
      auto served = found->second->serve(kind, std::move(listener), [this, acceptor, uid, counts](Arrival arrival) {
        // The least loaded worker gets it, once and for all. What it has been given counts at once, not when it looks at it: else all
        // of a burst would go to one.
        size_t best = acceptor;
        for (size_t i = 0; i < workers_.size(); ++i) {
          const uint32_t margin = best == acceptor && arrival.kind != ListenerKind::kInboundTunnel ? kImbalance : 0;
          if (workers_[i]->load() + margin < workers_[best]->load()) best = i;
        }
        arrival.on_worker = Counted(workers_[best]->arriving);
        const auto take = [this, uid](size_t worker, Arrival given) {
          auto& pods = worker_pods_[worker]->pods;
          if (const auto pod_worker = pods.find(uid); pod_worker != pods.end()) pod_worker->second->accept(std::move(given));
        };
        if (best == acceptor) return take(best, std::move(arrival));
        // `counts` lives as long as what it counts.
        workers_[best]->post([take, best, counts, given = std::move(arrival)]() mutable { take(best, std::move(given)); });
      });
      if (!served) ZT_LOG(kLog, kError, "cannot serve a listener", Field::string("error", served.error().text));
    }
  });
}

void DataPlane::serve_dns(size_t worker, const std::string& uid, PodName workload, const SocketOptions& sockets,
                          dns::Listeners listeners) {
  WorkerPods& mine = *worker_pods_[worker];
  if (!mine.dns_share || listeners.udp.empty()) return;
  auto server =
      std::make_unique<dns::PodServer>(*mine.dns_share, std::move(workload), dns_options(sockets), std::move(listeners));
  if (auto started = server->start(); !started) {
    ZT_LOG(kLog, kError, "cannot serve DNS", Field::string("error", started.error().text));
  }
  mine.dns[uid] = std::move(server);
}

void DataPlane::stop(const std::string& uid) {
  if (pods_.erase(uid) == 0) return;
  ++stopped_;
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->post([this, i, uid] {
      worker_pods_[i]->dns.erase(uid);
      auto left = worker_pods_[i]->pods.extract(uid);
      if (left.empty()) return;
      end_some(i, worker_pods_[i]->leaving.emplace_back(std::move(left.mapped())), true);
    });
  }
  ZT_LOG(kLog, kInfo, "pod stopped", Field::string("uid", uid));
}

// The connections of other pods have their turns meanwhile.
void DataPlane::end_some(size_t worker, const std::weak_ptr<PodWorker>& leaving, bool anew) {
  const auto pod = leaving.lock();
  if (!pod) return;  // we are ending ourselves
  if (pod->end_some(anew)) {
    std::erase(worker_pods_[worker]->leaving, pod);
  } else {
    workers_[worker]->post([this, worker, leaving] { end_some(worker, leaving, false); });
  }
}

void DataPlane::step_back_all() {
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->post([this, i] {
      for (auto& [uid, pod] : worker_pods_[i]->pods) pod->step_back();
      for (auto& [uid, dns] : worker_pods_[i]->dns) dns->drain(steer_to_second);
    });
  }
}

void DataPlane::drain_all() {
  step_back_all();
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->post(
        [this, i] { sweep_pods(i, [](PodWorker& pod, const std::string&, bool anew) { return pod.drain_some(anew); }, [] {}); });
  }
}

void DataPlane::shutdown(Clock::duration deadline, std::function<void()> done) {
  shutdown_done_ = std::move(done);
  drain_all();
  wait_for_end(Clock::now() + deadline, std::nullopt);
}

// Asks all workers what is left, after what was posted to them before.
void DataPlane::count_left(std::function<void(Left)> done) {
  struct Count {
    std::atomic<size_t> connections = 0, unfinished = 0, queries = 0, missing = 0;
  };
  auto count = std::make_shared<Count>();
  count->missing = workers_.size();
  const auto all =
      ticket_.on_answer([count, done = std::move(done)] { done({count->connections, count->unfinished, count->queries}); });
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->post([this, i, count, all] {
      for (const auto& [uid, pod] : worker_pods_[i]->pods) {
        count->connections += pod->connection_count();
        count->unfinished += pod->unfinished();
      }
      for (const auto& [uid, dns] : worker_pods_[i]->dns) count->queries += dns->unfinished();
      if (count->missing.fetch_sub(1) == 1) all();
    });
  }
}

void DataPlane::wait_for_end(Clock::time_point deadline, std::optional<Clock::time_point> settling_since) {
  count_left([this, deadline, settling_since](Left left) {
    const auto now = Clock::now();
    if (left.connections > 0 && now < deadline) {
      shutdown_timer_.start_after(kDrainPoll, [this, deadline] { wait_for_end(deadline, std::nullopt); });
    } else if (left.connections > 0) {
      ZT_LOG(kLog, kWarn, "connection failed to drain within the timeout",
             Field::count("connections", static_cast<int64_t>(left.connections)));
      cut_ = left.connections;
      cut_and_end();
    } else if (!settling_since) {
      // Once more: a connection may have been on its way from one worker to another.
      wait_for_end(deadline, now);
    } else if (now < deadline && ((left.unfinished > 0 && now < *settling_since + kSettleLimit) ||
                                  (left.queries > 0 && now < *settling_since + kQueriesLimit))) {
      shutdown_timer_.start_after(kSettlePoll, [this, deadline, settling_since] { wait_for_end(deadline, settling_since); });
    } else {
      if (left.unfinished + left.queries > 0) {
        ZT_LOG(kLog, kInfo, "leaving before all that had come to us was begun or ended",
               Field::count("handshakes", static_cast<int64_t>(left.unfinished)),
               Field::count("queries", static_cast<int64_t>(left.queries)));
      }
      cut_and_end();
    }
  });
}

struct DataPlane::Sweep {
  size_t worker;
  PodStep step;
  std::function<void()> done;
  std::vector<std::string> uids;
  size_t next = 0;
  bool anew = true;
};

void DataPlane::sweep_pods(size_t worker, PodStep step, std::function<void()> done) {
  auto sweep = std::make_shared<Sweep>(Sweep{.worker = worker, .step = std::move(step), .done = std::move(done), .uids = {}});
  for (const auto& [uid, pod] : worker_pods_[worker]->pods) sweep->uids.push_back(uid);
  sweep_some(sweep);
}

void DataPlane::sweep_some(const std::shared_ptr<Sweep>& sweep) {
  const auto until = Clock::now() + kSweepTurn;
  auto& pods = worker_pods_[sweep->worker]->pods;
  while (sweep->next < sweep->uids.size()) {
    const std::string& uid = sweep->uids[sweep->next];
    const auto pod = pods.find(uid);
    if (pod == pods.end() || sweep->step(*pod->second, uid, std::exchange(sweep->anew, false))) {
      ++sweep->next;
      sweep->anew = true;
    }
    if (Clock::now() >= until) break;
  }
  if (sweep->next == sweep->uids.size()) return sweep->done();
  workers_[sweep->worker]->post([this, sweep] { sweep_some(sweep); });
}

void DataPlane::wait_for_ends(size_t worker, size_t left, int patience, std::function<void()> done) {
  size_t now = 0;
  for (const auto& [uid, pod] : worker_pods_[worker]->pods) now += pod->connection_count();
  if (now >= left) --patience;
  if (now == 0 || patience == 0) return done();
  workers_[worker]->post([this, worker, now, patience, done = std::move(done)] { wait_for_ends(worker, now, patience, done); });
}

void DataPlane::cut_and_end() {
  auto remaining = std::make_shared<std::atomic<size_t>>(workers_.size());
  const auto all = ticket_.on_answer([this] { std::exchange(shutdown_done_, nullptr)(); });
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->post([this, i, remaining, all] {
      const auto kill = [](PodWorker& pod, const std::string&, bool anew) {
        return pod.connections().kill_some(anew, Reason::kDrained, "connection closed due to connection drain");
      };
      sweep_pods(i, kill, [this, i, remaining, all] {
        wait_for_ends(i, SIZE_MAX, kEndPatience, [remaining, all] {
          if (remaining->fetch_sub(1) == 1) all();
        });
      });
    });
  }
}

std::vector<PodUse> DataPlane::pod_use() {
  std::vector<PodUse> all;
  for (const auto& [uid, pod] : pods_) {
    PodUse& use = all.emplace_back(PodUse{.uid = uid, .ns = pod.name.ns, .name = pod.name.name});
    use.service_account = pod.name.service_account;
    use.connections = pod.counts->connections.load(std::memory_order_relaxed);
    use.tunnels = pod.counts->tunnels.load(std::memory_order_relaxed);
    for (const auto& held : pod.counts->memory) use.memory += held.load(std::memory_order_relaxed);
  }
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->post([pods = worker_pods_[i].get()] {
      for (const auto& [uid, pod] : pods->pods) pod->publish_memory();
    });
  }
  return all;
}

void DataPlane::collect_connections(std::function<void(std::map<std::string, PodConnections>)> done) {
  struct Gathered {
    std::map<std::string, PodConnections> pods;  // control thread
    size_t missing;
    std::function<void(std::map<std::string, PodConnections>)> done;
  };
  auto gathered = std::make_shared<Gathered>(Gathered{{}, workers_.size(), std::move(done)});
  const auto give = ticket_.on_answer([gathered](std::map<std::string, PodConnections> mine) {
    for (auto& [uid, lines] : mine) {
      auto& all = gathered->pods[uid];
      std::move(lines.inbound.begin(), lines.inbound.end(), std::back_inserter(all.inbound));
      std::move(lines.outbound.begin(), lines.outbound.end(), std::back_inserter(all.outbound));
    }
    if (--gathered->missing == 0) gathered->done(std::move(gathered->pods));
  });
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->post([this, i, give] {
      const auto mine = std::make_shared<std::map<std::string, PodConnections>>();
      const auto walk = std::make_shared<ConnectionTable::Walk>();
      const auto step = [mine, walk](PodWorker& pod, const std::string& uid, bool anew) {
        PodConnections& lines = (*mine)[uid];
        if (anew) walk->begin(pod.connections().all());
        for (size_t left = ConnectionTable::kPiece; left > 0; --left) {
          const Connection* const connection = walk->next();
          if (connection == nullptr) return true;
          append_line(lines, connection->record.info(), connection->relay ? connection->relay->bytes() : RelayBytes{});
        }
        return walk->done();
      };
      sweep_pods(i, step, [give, mine] { give(std::move(*mine)); });
    });
  }
}

void DataPlane::collect_ended(std::function<void(std::vector<EndedLine>)> done) {
  struct Gathered {
    std::vector<EndedLine> lines;  // control thread
    size_t missing;
    std::function<void(std::vector<EndedLine>)> done;
  };
  auto gathered = std::make_shared<Gathered>(Gathered{{}, workers_.size(), std::move(done)});
  const auto give = ticket_.on_answer([gathered](std::vector<EndedLine> mine) {
    std::move(mine.begin(), mine.end(), std::back_inserter(gathered->lines));
    if (--gathered->missing == 0) gathered->done(std::move(gathered->lines));
  });
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->post([this, i, give] {
      std::vector<EndedLine> lines;
      for (auto& ended : workers_[i]->ended().all()) lines.push_back({.worker = i, .ended = std::move(ended)});
      give(std::move(lines));
    });
  }
}

}  // namespace zt::ztunnel
