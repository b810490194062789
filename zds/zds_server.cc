#include "zds/zds_server.h"

#include <fmt/core.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/log.h"
#include "mesh/reason.h"
#include "zds/zds_socket.h"

namespace zt::zds {

namespace {
log::Scope log_server("zds");
}  // namespace

ZdsServer::ZdsServer(EventLoop& loop, Options options) : loop_(loop), options_(std::move(options)), next_accept_(loop) {}

ZdsServer::~ZdsServer() {
  if (listener_) loop_.unwatch(listener_.get(), *this);
}

Result<> ZdsServer::start() {
  ZT_ASSIGN(listener_, listen_zds(options_.path));
  ZT_TRY(loop_.watch(listener_.get(), *this));
  ZT_LOG(log_server, kInfo, "listening for proxies", Field::string("path", options_.path));
  return {};
}

Result<> ZdsServer::set_pod(ZdsPod pod) {
  if (const size_t size = encode(AddWorkload{pod.uid, pod.info}).size(); size > kMaxZdsMessage) {
    return fail(Reason::kInvalidInput, fmt::format("uid, name, namespace and service account together take {} bytes, the limit "
                                                   "is {}",
                                                   size, kMaxZdsMessage));
  }
  const std::string uid = pod.uid;
  pods_.insert_or_assign(uid, std::move(pod));
  for (const auto& peer : peers_) peer->mark(uid);
  return {};
}

void ZdsServer::remove_pod(const std::string& uid) {
  if (pods_.erase(uid) == 0) return;
  for (const auto& peer : peers_) peer->mark(uid);
}

size_t ZdsServer::proxies() const {
  return static_cast<size_t>(std::count_if(peers_.begin(), peers_.end(), [](const auto& peer) { return peer->said_hello(); }));
}

bool ZdsServer::is_served(const std::string& uid) const {
  const ZdsPeer* peer = newest();
  return peer != nullptr && peer->has_accepted(uid);
}

// The last that came and said hello: one that only connects does not take the pods away from a working proxy.
ZdsPeer* ZdsServer::newest() const {
  const auto found = std::find_if(peers_.rbegin(), peers_.rend(), [](const auto& peer) { return peer->said_hello(); });
  return found == peers_.rend() ? nullptr : found->get();
}

void ZdsServer::on_ready(uint32_t) noexcept { accept_one(); }

void ZdsServer::accept_one() {
  if (next_accept_.armed()) return;
  UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
  // The listener is edge-triggered: whoever waits behind this one is only found by coming back.
  next_accept_.start_after(kAcceptInterval, [this] { accept_one(); });
  if (!socket) {
    ZT_LOG(log_server, kError, "cannot accept a proxy", Field::string("error", errno_text(errno)));
    return;
  }
  if (peers_.size() >= kMaxPeers) {
    ZT_LOG(log_server, kError, "too many proxies are connected, refusing one", Field::count("limit", kMaxPeers));
    return;
  }
  auto peer = std::make_unique<ZdsPeer>(loop_, std::move(socket), ++last_id_, static_cast<ZdsPeerOwner&>(*this));
  if (auto started = peer->start(); !started) {
    ZT_LOG(log_server, kError, "cannot accept a proxy", Field::string("error", started.error().text));
    return;
  }
  peers_.push_back(std::move(peer));
}

void ZdsServer::on_hello(ZdsPeer& peer) {
  ZT_LOG(log_server, kInfo, "proxy connected", Field::count("proxy", static_cast<int64_t>(peer.id())),
         Field::count("pods", static_cast<int64_t>(pods_.size())));
  report_proxies();
}

void ZdsServer::on_snapshot_done(ZdsPeer& peer) {
  ZT_LOG(log_server, kInfo, "proxy has the snapshot", Field::count("proxy", static_cast<int64_t>(peer.id())));
}

void ZdsServer::on_answer(const std::string& uid, const std::string& error) {
  if (options_.on_answer) options_.on_answer(uid, error);
}

void ZdsServer::on_closed(ZdsPeer& peer, const std::string& why) {
  ZT_LOG(log_server, kInfo, "proxy disconnected", Field::count("proxy", static_cast<int64_t>(peer.id())),
         Field::string("reason", why));
  const bool was_newest = is_newest(peer);
  const bool counted = peer.said_hello();
  std::erase_if(peers_, [&](const auto& other) { return other.get() == &peer; });
  if (ZdsPeer* heir = newest(); was_newest && heir != nullptr) heir->mark_all();
  if (counted) report_proxies();
}

void ZdsServer::report_proxies() {
  if (options_.on_proxies) options_.on_proxies(proxies());
}

}  // namespace zt::zds
