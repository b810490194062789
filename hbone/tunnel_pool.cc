#include "hbone/tunnel_pool.h"

#include <algorithm>

#include "mesh/reason.h"

namespace zt::hbone {

size_t TunnelKeyHash::operator()(const TunnelKey& key) const noexcept {
  size_t hash = std::hash<identity::SpiffeId>{}(key.source);
  const auto mix = [&hash](size_t value) { hash ^= value + 0x9e3779b97f4a7c15ULL + (hash << 6) + (hash >> 2); };
  for (const auto& id : key.expected) mix(std::hash<identity::SpiffeId>{}(id));
  mix(std::hash<SocketAddress>{}(key.destination));
  mix(std::hash<IpAddress>{}(key.source_ip));
  mix(std::hash<std::string>{}(key.authority));
  return hash;
}

TunnelPool::TunnelPool(EventLoop& loop, const TunnelPoolConfig& config, Dial dial, Ended ended)
    : loop_(loop), config_(config), dial_(std::move(dial)), ended_(std::move(ended)), tasks_(loop) {}

TunnelPool::~TunnelPool() = default;

// The least loaded tunnel with room. Null if there is none.
TunnelPool::Pooled* TunnelPool::pick(const TunnelKey& key, Entry& entry) {
  Pooled* best = nullptr;
  for (auto& pooled : entry.tunnels) {
    const Tunnel& tunnel = *pooled.tunnel;
    if (tunnel.free_streams() == 0 || tunnel.streams() >= config_.max_streams_per_tunnel) continue;
    if (best == nullptr || tunnel.streams() < best->tunnel->streams()) best = &pooled;
  }
  const bool busy =
      best != nullptr && (best->tunnel->saturated() || (key.spread && best->tunnel->streams() >= config_.spread_streams));
  if (busy && entry.tunnels.size() < config_.max_tunnels_per_key && !entry.attempt) {
    // Use it, but let the next ones have another: nobody waits for a handshake that only spreads load.
    entry.attempt = std::make_shared<Entry::Attempt>();
  }
  return best;
}

Task<Result<Stream*>> TunnelPool::open(const TunnelKey& key, const Headers& headers, StreamHandler& handler,
                                       Clock::duration limit) {
  const auto deadline = loop_.now() + std::min<Clock::duration>(limit, config_.acquire_timeout);
  for (;;) {
    Entry& entry = entries_[key];
    const bool dialling = entry.attempt != nullptr;
    if (Pooled* pooled = pick(key, entry)) {
      if (!dialling && entry.attempt != nullptr) tasks_.spawn(dial(key, entry.attempt));
      auto stream = pooled->tunnel->open(headers, handler);
      watch_idle(*pooled);  // not at the end of the turn: its time may be up in this one
      co_return stream;
    }
    if (!entry.attempt) {
      entry.attempt = std::make_shared<Entry::Attempt>();
      auto started = entry.attempt;
      tasks_.spawn(dial(key, started));
      // It may have failed at once.
      if (started->done.is_set() && started->error) co_return std::unexpected(*started->error);
      if (started->done.is_set()) continue;
    }
    const std::shared_ptr<Entry::Attempt> attempt = entries_[key].attempt;
    if (!attempt) continue;
    const auto left = deadline - loop_.now();
    if (left <= Clock::duration::zero() || !co_await attempt->done.wait(loop_, left)) {
      co_return fail(Reason::kConnectTimeout, "connection timed out waiting for a tunnel to " + key.destination.to_string());
    }
    if (attempt->error) co_return std::unexpected(*attempt->error);
  }
}

Task<void> TunnelPool::dial(TunnelKey key, std::shared_ptr<Entry::Attempt> attempt) {
  ++dials_;
  auto dialled = co_await dial_(key, *this);
  auto place = entries_.find(key);
  if (place != entries_.end() && place->second.attempt == attempt) place->second.attempt.reset();
  if (!dialled) {
    attempt->error = std::move(dialled).error();
    if (place != entries_.end() && place->second.tunnels.empty() && !place->second.attempt) entries_.erase(place);
  } else {
    watch_idle(enter(key, std::move(*dialled)));
  }
  attempt->done.set();
}

TunnelPool::Pooled& TunnelPool::enter(const TunnelKey& key, std::unique_ptr<Tunnel> tunnel) {
  const auto place = entries_.try_emplace(key).first;
  auto& pooled = *(owned_[tunnel.get()] = std::make_unique<Pooled>(loop_, place->first));
  pooled.tunnel = std::move(tunnel);
  place->second.tunnels.push_back(pooled);
  all_.add(pooled);
  return pooled;
}

void TunnelPool::watch_idle(Pooled& pooled, Clock::duration idle) {
  if (pooled.tunnel->streams() > 0) {
    pooled.idle.cancel();
  } else if (!pooled.idle.armed()) {
    pooled.unused_since = loop_.now() - idle;
    pooled.idle.start_after(config_.idle_release - idle, [&pooled] { pooled.tunnel->close(Reason::kOk); });
  }
}

bool TunnelPool::retire_some(bool anew, const std::function<bool(const TunnelKey&)>& gone) {
  return retired_.some(all_, anew, kPiece, [&](Pooled& pooled) {
    if (gone(pooled.key)) pooled.tunnel->drain();
  });
}

bool TunnelPool::close_some_if(bool anew, const std::function<bool(const Tunnel&)>& condition, Reason reason) {
  return looked_at_.some(all_, anew, kPiece, [&](Pooled& pooled) {
    if (condition(*pooled.tunnel)) pooled.tunnel->close(reason);
  });
}

void TunnelPool::on_request(Stream& stream, Headers) noexcept {
  // nghttp2 refuses requests to a client before they get here.
  stream.abandon(H2Error::kProtocolError);
}

void TunnelPool::on_streams_changed(Tunnel& tunnel) noexcept {
  if (const auto known = owned_.find(&tunnel); known != owned_.end()) watch_idle(*known->second);
}

bool TunnelPool::prepare_some_handover(bool anew) {
  return prepared_.some(all_, anew, kPiece, [](Pooled& pooled) { pooled.tunnel->prepare_handover(); });
}

std::optional<TunnelPool::Held> TunnelPool::next_leaving() {
  Pooled* const next = leaving_.next();
  if (next == nullptr) return std::nullopt;
  return held(*next);
}

std::optional<TunnelPool::Held> TunnelPool::find(Tunnel& tunnel) {
  const auto known = owned_.find(&tunnel);
  if (known == owned_.end()) return std::nullopt;
  return held(*known->second);
}

TunnelPool::Held TunnelPool::held(Pooled& pooled) const {
  const auto idle = pooled.idle.armed() ? loop_.now() - pooled.unused_since : Clock::duration{};
  return {pooled.key, *pooled.tunnel, std::chrono::duration_cast<std::chrono::milliseconds>(idle)};
}

void TunnelPool::adopt(const TunnelKey& key, std::unique_ptr<Tunnel> tunnel, std::chrono::milliseconds idle) {
  watch_idle(enter(key, std::move(tunnel)), std::clamp<Clock::duration>(idle, Clock::duration{}, config_.idle_release));
}

void TunnelPool::on_tunnel_closed(Tunnel& tunnel, const Error& why) noexcept {
  const auto known = owned_.find(&tunnel);
  if (known == owned_.end()) return;  // closed while it was being started: the dial reports it
  if (ended_) ended_(known->second->key, why);
  forget(tunnel);
}

void TunnelPool::forget(Tunnel& tunnel) {
  const auto known = owned_.find(&tunnel);
  const auto place = entries_.find(known->second->key);
  const auto gone = std::move(known->second);
  owned_.erase(known);
  gone->OfKey::unlink();
  if (place->second.tunnels.empty() && !place->second.attempt) entries_.erase(place);
}

}  // namespace zt::hbone
