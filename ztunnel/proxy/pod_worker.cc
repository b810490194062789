#include "ztunnel/proxy/pod_worker.h"

#include "base/log.h"
#include "mesh/reason.h"
#include "ztunnel/proxy/handshaking.h"
#include "ztunnel/proxy/inbound_tunnel.h"

namespace zt::ztunnel {

namespace {
log::Scope kLog("proxy");
// How long a drain keeps its listeners: a round trip over a long distance.
constexpr std::chrono::milliseconds kListenerLinger{250};
// Batches of Acceptor::accept_some(): more than a listener's queue holds.
constexpr size_t kMostWaiting = 128;
// While there is no room for those who have not said hello, each newcomer ends one of them: not as fast as they can come, which would
// cost the pods of this worker their latency and leave nobody the time to say it.
constexpr size_t kCrowdedBatch = 16;
constexpr std::chrono::milliseconds kCrowdedRest{10};
// Of a source that is at a limit of its own the others know nothing: they are not kept waiting, only the turn goes on with what else is
// ready.
bool is_of_one_source(HandshakeLimit limit) {
  return limit == HandshakeLimit::kPerSource || limit == HandshakeLimit::kAfterAbuse;
}

std::string_view listener_name(ListenerKind kind) {
  switch (kind) {
    case ListenerKind::kOutbound: return "outbound";
    case ListenerKind::kInboundPlain: return "inbound-plaintext";
    case ListenerKind::kInboundTunnel: return "inbound";
    case ListenerKind::kSocks5: return "socks5";
  }
  return "";
}
}  // namespace

PodWorker::PodWorker(Worker& worker, const std::string& uid, PodName workload, SocketOptions sockets,
                     std::shared_ptr<PodCounts> counts)
    : worker_(worker),
      memory_(worker.io().budget, workload.ns + "/" + workload.name),
      peers_(memory_),
      pod_{.worker = worker,
           .name = std::move(workload),
           .sockets = std::move(sockets),
           .lookups = {worker.loop(), worker.state(), uid, worker.settings().network, worker.settings().source_wait,
                       worker.lookups()},
           .counts = std::move(counts),
           .peers = peers_},
      linger_timer_(worker.loop()),
      connections_(worker, pod_.counts->connections),
      dialler_(pod_),
      inbound_(pod_, connections_),
      outbound_(pod_, connections_, dialler_),
      units_(pod_, uid, connections_, dialler_, inbound_, outbound_),
      policy_generation_(worker.snapshot()->policy_generation()),
      on_snapshot_(std::in_place, worker.state(), [this](const workload_api::Snapshot& snapshot, bool anew) {
        if (anew) {
          retire_anew_ = true;
          if (snapshot.policy_generation() != std::exchange(policy_generation_, snapshot.policy_generation())) inbound_.recheck();
        }
        // What policies forbid ends first.
        return inbound_.recheck_some(snapshot) && dialler_.retire_some(std::exchange(retire_anew_, false), snapshot);
      }) {}

// Log lines and metrics first; coroutines and tunnels are unwound by the members' destructors.
PodWorker::~PodWorker() {
  units_.drop_all();
  connections_.end_all(Reason::kDrained, "connection closed due to connection drain");
}

Result<> PodWorker::serve(ListenerKind kind, ListenSocket listener, HandOver hand_over) {
  const bool transparent = listener.transparent;
  Acceptor::Accepted accepted;
  if (kind == ListenerKind::kInboundTunnel) {
    handshakes_.emplace(
        worker_.admission(), pod_.counts->handshakes,
        [transparent, hand_over = std::move(hand_over)](UniqueFd fd, SocketAddress client, HandshakeCounts::Ticket ticket) {
          Arrival arrival{.kind = ListenerKind::kInboundTunnel,
                          .fd = std::move(fd),
                          .client = client,
                          .transparent = transparent,
                          .handshake = std::move(ticket),
                          .on_worker = {},
                          .in_pod = {}};
          hand_over(std::move(arrival));
        },
        [this](int fd, SocketAddress client, const Error& why) {
          worker_.metrics().handshakes.get({"server", reason_info(why.reason).name}).add();
          deny_early(worker_, Direction::kInbound, client, local_address(fd), {why.reason, "tls handshake error: " + why.text});
        });
    accepted = [this, self = acceptors_.size()](UniqueFd fd, SocketAddress client) {
      const HandshakeLimit reached = handshakes_->admit(std::move(fd), client);
      if (reached == HandshakeLimit::kNone || ++crowded_ % kCrowdedBatch != 0) return;
      acceptors_[self]->rest(is_of_one_source(reached) ? Clock::duration::zero() : kCrowdedRest);
    };
  } else {
    accepted = [this, kind, transparent, hand_over = std::move(hand_over)](UniqueFd fd, SocketAddress client) {
      if (!admit(kind, fd, client)) return reset_and_close(std::move(fd));
      Arrival arrival{.kind = kind,
                      .fd = std::move(fd),
                      .client = client,
                      .transparent = transparent,
                      .handshake = {},
                      .on_worker = {},
                      .in_pod = Counted(pod_.counts->connections)};
      hand_over(std::move(arrival));
    };
  }
  const auto failed = [&errors = worker_.metrics().accept_errors.get({listener_name(kind)})](int error) {
    errors.add();
    ZT_LOG(kLog, kError, "cannot accept connections, waiting", Field::string("error", errno_text(error)));
  };
  auto acceptor = std::make_unique<Acceptor>(worker_.loop(), std::move(listener.fd), std::move(accepted), failed);
  ZT_TRY(acceptor->start());
  acceptors_.push_back(std::move(acceptor));
  return {};
}

bool PodWorker::admit(ListenerKind kind, const UniqueFd& fd, const SocketAddress& client) {
  const auto room = pod_.room();
  if (room) return true;
  const bool out = kind == ListenerKind::kOutbound || kind == ListenerKind::kSocks5;
  const auto direction = out ? Direction::kOutbound : Direction::kInbound;
  deny_early(worker_, direction, client, original_destination(fd.get()), room.error());
  return false;
}

void PodWorker::accept(Arrival arrival) {
  switch (arrival.kind) {
    case ListenerKind::kOutbound: {
      const SocketAddress destination = original_destination(arrival.fd.get());
      return outbound_.open(std::move(arrival), destination);
    }
    case ListenerKind::kInboundPlain: return inbound_.open_plain(std::move(arrival));
    case ListenerKind::kInboundTunnel: return inbound_.open_tunnel(std::move(arrival));
    case ListenerKind::kSocks5: return outbound_.open_socks(std::move(arrival));
  }
}

void PodWorker::step_back() {
  if (std::exchange(stepped_back_, true)) return;
  for (auto& acceptor : acceptors_) steer_to_second(acceptor->fd());  // another proxy gets the new connections, if there is one
  // Connections in the middle of their handshake belong to our listeners already.
  linger_timer_.start_after(kListenerLinger, [this] { close_listeners(kMostWaiting); });
}

// What waits in the listeners' queues is accepted first, a batch a turn.
void PodWorker::close_listeners(size_t batches) {
  bool more = false;
  for (auto& acceptor : acceptors_) more |= acceptor->accept_some();
  if (!more || batches == 0) return acceptors_.clear();
  linger_timer_.start_after(Clock::duration::zero(), [this, batches] { close_listeners(batches - 1); });
}

bool PodWorker::end_some(bool anew) {
  if (anew) {
    linger_timer_.cancel();
    acceptors_.clear();
    units_.drop_all();
    on_snapshot_.reset();
    outbound_.stop();
    inbound_.stop();
    end_server_tunnels_ = end_client_tunnels_ = true;
  }
  if (handshakes_ && !handshakes_->drop_some()) return false;
  // Their log lines say why; their tunnels would tell them something else.
  if (!connections_.end_some(Reason::kDrained, "connection closed due to connection drain")) return false;
  const auto all = [](const hbone::Tunnel&) { return true; };
  return inbound_.close_some_if(std::exchange(end_server_tunnels_, false), all, Reason::kDrained) &&
         dialler_.close_some_if(std::exchange(end_client_tunnels_, false), all, Reason::kDrained);
}

bool PodWorker::close_revoked_some(bool anew) {
  const auto revoked = [this](const hbone::Tunnel& tunnel) { return peer_revoked(worker_, tunnel); };
  if (anew) look_at_clients_ = true;
  if (!inbound_.cut_revoked_some(anew)) return false;
  return inbound_.close_some_if(anew, revoked, Reason::kCertRevoked) &&
         dialler_.close_some_if(std::exchange(look_at_clients_, false), revoked, Reason::kCertRevoked);
}

}  // namespace zt::ztunnel
