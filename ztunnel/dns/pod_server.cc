#include "ztunnel/dns/pod_server.h"

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace zt::ztunnel::dns {

namespace {
log::Scope kLog("dns");
// Batches of Acceptor::accept_some(): more than a listener's queue holds.
constexpr size_t kMostWaiting = 4;
constexpr std::chrono::milliseconds kListenerLinger{250};
// On a busy machine a handshake that had begun may take long: while somebody has come within the last linger there is another one.
constexpr int kMostLingers = 8;
}  // namespace

PodServer::PodServer(WorkerShare& share, PodName pod, SocketOptions sockets, Listeners listeners)
    : share_(share),
      sockets_(std::move(sockets)),
      memory_(share.memory, pod.ns + "/" + pod.name + "/dns"),
      dns_(share, std::move(pod)),
      cache_(share.cache, memory_),
      original_(sockets_),
      forwarder_(share.loop, sockets_, share.settings.forward, memory_, share.metrics.dns_dropped.get({"not an answer"})),
      linger_(share.loop) {
  for (auto& fd : listeners.udp) {
    udp_.push_back(std::make_unique<UdpListener>(share.loop, std::move(fd), dns_, cache_, forwarder_, original_, share.batch));
  }
  const auto failed = [this](int error) {
    share_.metrics.accept_errors.get({"dns"}).add();
    ZT_LOG(kLog, kError, "cannot accept connections, waiting", Field::string("error", errno_text(error)));
  };
  for (auto& fd : listeners.tcp) {
    tcp_.push_back(std::make_unique<Acceptor>(
        share.loop, std::move(fd), [this](UniqueFd client, const SocketAddress&) { accept(std::move(client)); }, failed));
  }
}

PodServer::~PodServer() {
  share_.loop.cancel_deferred(*this);
  for (auto& listener : udp_) listener->serve_waiting();
}

Result<> PodServer::start() {
  for (auto& listener : udp_) ZT_TRY(listener->start());
  for (auto& listener : tcp_) ZT_TRY(listener->start());
  return {};
}

void PodServer::drain(const std::function<void(int fd)>& step_back) {
  if (std::exchange(draining_, true)) return;
  for (auto& listener : udp_) step_back(listener->fd());
  for (auto& listener : tcp_) step_back(listener->fd());
  somebody_came_ = false;
  if (!stopped_) linger_.start_after(kListenerLinger, [this] { stop_listening(); });
}

void PodServer::stop_listening() {
  for (auto& listener : tcp_) {
    for (size_t batches = kMostWaiting; batches > 0 && listener->accept_some(); --batches) {
    }
  }
  if (std::exchange(somebody_came_, false) && ++lingers_ < kMostLingers) {
    return linger_.start_after(kListenerLinger, [this] { stop_listening(); });
  }
  stopped_ = true;
  tcp_.clear();
}

size_t PodServer::unfinished() const {
  const auto busy = std::ranges::count_if(sessions_, [](const auto& session) { return session->busy(); });
  return forwarder_.exchanges() + static_cast<size_t>(busy) + (stopped_ ? 0 : 1);
}

void PodServer::on_turn_end() noexcept {
  for (const TcpSession* session : std::exchange(ended_, {})) {
    sessions_.remove_if([session](const auto& each) { return each.get() == session; });
  }
}

void PodServer::accept(UniqueFd fd) {
  somebody_came_ = true;
  if (sessions_.size() >= share_.settings.tcp_sessions_per_pod) return dns_.note_limit("dns_connections_per_pod");
  const auto closed = [this](TcpSession& session) {
    ended_.push_back(&session);
    share_.loop.defer(*this);
  };
  sessions_.push_back(std::make_unique<TcpSession>(share_.loop, std::move(fd), sockets_, dns_, memory_, closed));
  sessions_.back()->start();
}

}  // namespace zt::ztunnel::dns
