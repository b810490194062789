#include "ztunnel/proxy/pod_worker.h"

#include "base/log.h"
#include "mesh/reason.h"

namespace zt::ztunnel {

namespace {
log::Scope kLog("proxy");
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

PodWorker::PodWorker(Worker& worker, const std::string& uid, PodName workload, SocketOptions sockets)
    : worker_(worker),
      pod_{.worker = worker,
           .name = std::move(workload),
           .sockets = std::move(sockets),
           .lookups = {worker.loop(), worker.state(), uid, worker.settings().network, worker.settings().source_wait,
                       worker.lookups()}},
      linger_timer_(worker.loop()),
      connections_(worker),
      dialler_(pod_),
      inbound_(pod_, connections_),
      outbound_(pod_, connections_, dialler_),
      policy_generation_(worker.snapshot()->policy_generation()),
      on_snapshot_(worker.state(), [this](const workload_api::Snapshot& snapshot, bool anew) {
        if (anew) {
          dialler_.retire(snapshot);
          if (snapshot.policy_generation() != std::exchange(policy_generation_, snapshot.policy_generation())) inbound_.recheck();
        }
        return inbound_.recheck_some(snapshot);
      }) {}

// Log lines and metrics first; coroutines and tunnels are unwound by the members' destructors.
PodWorker::~PodWorker() { connections_.end_all(Reason::kDrained, "connection closed due to connection drain"); }

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
    case ListenerKind::kOutbound: {
      const SocketAddress destination = original_destination(fd.get());
      return outbound_.open(std::move(fd), client, destination);
    }
    case ListenerKind::kInboundPlain: return inbound_.open_plain(std::move(fd), client, transparent);
    case ListenerKind::kInboundTunnel: return inbound_.open_tunnel(std::move(fd), client, transparent);
  }
}

void PodWorker::drain() {
  for (auto& acceptor : acceptors_) acceptor->step_back();
  // Connections in the middle of their handshake belong to our listeners already.
  linger_timer_.start_after(kListenerLinger, [this] {
    for (auto& acceptor : acceptors_) acceptor->accept_waiting();
    acceptors_.clear();
  });
  inbound_.drain();
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
  inbound_.close_if(revoked, Reason::kCertRevoked);
  dialler_.close_if(revoked, Reason::kCertRevoked);
}

}  // namespace zt::ztunnel
