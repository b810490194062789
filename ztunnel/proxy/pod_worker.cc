#include "ztunnel/proxy/pod_worker.h"

#include <algorithm>

#include "base/log.h"
#include "mesh/reason.h"

namespace zt::ztunnel {

namespace {
log::Scope kLog("proxy");
// How long a connection waits for its own workload to appear in the state (contract appendix A).
constexpr std::chrono::seconds kLocalWorkloadWait{5};
// How far the byte metrics of a long connection lag behind.
constexpr std::chrono::seconds kCountInterval{5};
// How long a drain keeps its listeners: a round trip over a long distance.
constexpr std::chrono::milliseconds kListenerLinger{250};

std::string_view listener_name(ListenerKind kind) {
  switch (kind) {
    case ListenerKind::kOutbound: return "outbound";
    case ListenerKind::kInboundPlain: return "inbound-plaintext";
    case ListenerKind::kInboundTunnel: return "inbound";
  }
  return "";
}
}  // namespace

PodWorker::PodWorker(Worker& worker, std::string uid, PodName workload, SocketOptions sockets)
    : worker_(worker),
      uid_(std::move(uid)),
      workload_(std::move(workload)),
      sockets_(std::move(sockets)),
      round_robin_(worker.index() * 7919),
      number_(std::ref(round_robin_)),
      policy_generation_(worker.snapshot()->policy_generation()),
      count_timer_(worker.loop()),
      linger_timer_(worker.loop()),
      pool_(worker.loop(), worker.settings().pool,
            [this](const hbone::TunnelKey& key, hbone::TunnelOwner& owner) { return dial(key, owner); }),
      tasks_(worker.loop()) {
  worker_.on_snapshot(this, [this](const workload_api::Snapshot& snapshot, bool anew) {
    if (anew) {
      retire_tunnels(snapshot);
      if (snapshot.policy_generation() != std::exchange(policy_generation_, snapshot.policy_generation())) recheck_next_ = first_;
    }
    return recheck_policies(snapshot);
  });
}

// A tunnel to an address whose workload is gone would fail whoever uses it next, or reach a stranger.
void PodWorker::retire_tunnels(const workload_api::Snapshot& snapshot) {
  pool_.retire([&](const hbone::TunnelKey& key) {
    const auto* owner = snapshot.workload(worker_.settings().network, key.destination.ip);
    if (owner == nullptr) return true;
    return std::ranges::find(key.expected, identity_of(*owner)) == key.expected.end();
  });
}

PodWorker::~PodWorker() {
  worker_.forget_listener(this);
  acceptors_.clear();
  // Log lines and metrics first; coroutines and tunnels are unwound by the members' destructors.
  while (first_ != nullptr) {
    Connection& connection = *first_;
    const RelayBytes bytes = connection.relay ? connection.relay->bytes() : RelayBytes{};
    connection.record.finish(Reason::kDrained, "connection closed due to connection drain", bytes);
    remove(connection);
  }
}

Result<> PodWorker::serve(ListenerKind kind, ListenSocket listener, HandOver hand_over) {
  const bool transparent = listener.transparent;
  auto acceptor = std::make_unique<Acceptor>(
      worker_.loop(), std::move(listener),
      [kind, transparent, hand_over = std::move(hand_over)](UniqueFd fd, SocketAddress client) {
        hand_over(kind, std::move(fd), client, transparent);
      },
      worker_.metrics().accept_errors.get({listener_name(kind)}));
  ZT_TRY(acceptor->start());
  acceptors_.push_back(std::move(acceptor));
  return {};
}

void PodWorker::accept(ListenerKind kind, UniqueFd fd, SocketAddress client, bool transparent) {
  switch (kind) {
    case ListenerKind::kOutbound: return tasks_.spawn(outbound(std::move(fd), client));
    case ListenerKind::kInboundPlain: return tasks_.spawn(inbound_plain(std::move(fd), client, transparent));
    case ListenerKind::kInboundTunnel: return tasks_.spawn(inbound_tunnel(std::move(fd), client, transparent));
  }
}

Task<Result<workload_api::WorkloadPtr>> PodWorker::local_workload() {
  const workload_api::WorkloadInfo info{workload_.name, workload_.ns, workload_.service_account};
  const auto deadline = Clock::now() + kLocalWorkloadWait;
  for (;;) {
    if (const auto* found = worker_.snapshot()->local_workload(info)) co_return workload_api::WorkloadPtr(found);
    const auto left = deadline - Clock::now();
    if (left <= Clock::duration::zero() || !co_await worker_.next_snapshot(left)) {
      co_return fail(Reason::kNoWorkload, "failed to fetch information about local workload: " + workload_.service_account + "." +
                                              workload_.ns + " (" + workload_.name + ")");
    }
  }
}

void PodWorker::count_bytes() {
  for (Connection* connection = first_; connection != nullptr; connection = connection->next) {
    if (connection->relay) connection->record.progress(connection->relay->bytes());
  }
  if (first_ != nullptr) count_timer_.start_after(kCountInterval, [this] { count_bytes(); });
}

Connection& PodWorker::adopt(std::unique_ptr<Connection> connection) {
  if (!count_timer_.armed()) count_timer_.start_after(kCountInterval, [this] { count_bytes(); });
  connection->next = first_;
  if (first_ != nullptr) first_->previous = connection.get();
  first_ = connection.get();
  ++count_;
  worker_.connections.fetch_add(1, std::memory_order_relaxed);
  return *connection.release();
}

void PodWorker::remove(Connection& connection) {
  if (connection.previous != nullptr) connection.previous->next = connection.next;
  if (connection.next != nullptr) connection.next->previous = connection.previous;
  if (first_ == &connection) first_ = connection.next;
  if (recheck_next_ == &connection) recheck_next_ = connection.next;
  --count_;
  worker_.connections.fetch_sub(1, std::memory_order_relaxed);
  delete &connection;
}

Relay::Done PodWorker::when_done(Connection& connection) {
  return [this, &connection](Relay& relay) {
    connection.record.finish(relay.end().reason, relay.end().text, relay.bytes());
    remove(connection);
  };
}

void PodWorker::drain() {
  draining_ = true;
  for (auto& acceptor : acceptors_) acceptor->step_back();
  // Connections in the middle of their handshake belong to our listeners already.
  linger_timer_.start_after(kListenerLinger, [this] {
    for (auto& acceptor : acceptors_) acceptor->accept_waiting();
    acceptors_.clear();
  });
  for (auto& tunnel : inbound_tunnels_) tunnel->tunnel_->drain();
}

void PodWorker::kill_all(Reason reason, const std::string& text) {
  for (Connection* connection = first_; connection != nullptr; connection = connection->next) {
    if (connection->relay) connection->relay->kill(reason, text);
  }
}

void PodWorker::close_revoked() {
  const auto revoked = [this](const hbone::Tunnel& tunnel) {
    if (tunnel.closed() || !tunnel.peer_chain()) return false;
    const bool server = tunnel.role() == hbone::Tunnel::Role::kServer;
    const auto good =
        worker_.tls().check_revocation(*tunnel.peer_chain(), server ? hbone::TlsRole::kServer : hbone::TlsRole::kClient);
    if (good) return false;
    ZT_LOG(kLog, kInfo, "closing a tunnel",
           Field::string("peer", tunnel.peer_identity() ? tunnel.peer_identity()->to_string() : ""),
           Field::string("cause", good.error().text));
    return true;
  };
  for (const auto& inbound : inbound_tunnels_) {
    if (revoked(*inbound->tunnel_)) inbound->tunnel_->close(Reason::kCertRevoked);
  }
  pool_.close_if(revoked, Reason::kCertRevoked);
}

PodConnections PodWorker::connections() const {
  PodConnections lines;
  for (const Connection* connection = first_; connection != nullptr; connection = connection->next) {
    const ConnectionInfo& info = connection->record.info();
    const bool inbound = info.direction == Direction::kInbound;
    (inbound ? lines.inbound : lines.outbound)
        .push_back({.source = info.source,
                    .original_destination = inbound ? info.requested_host : info.upstream.to_string(),
                    .actual_destination = inbound ? info.upstream : info.destination,
                    .protocol = info.mutual_tls ? "HBONE" : "TCP"});
  }
  return lines;
}

void InboundTunnel::on_request(hbone::Stream& stream, hbone::Headers headers) noexcept {
  pod_.tasks_.spawn(pod_.inbound_connect(*this, stream, std::move(headers)));
}

void InboundTunnel::on_tunnel_closed(hbone::Tunnel&, const Error&) noexcept {
  // Last use of *this: connections on it were told by their streams.
  pod_.inbound_tunnels_.remove_if([this](const auto& each) { return each.get() == this; });
}

}  // namespace zt::ztunnel
