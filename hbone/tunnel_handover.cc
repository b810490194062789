// A tunnel's way to another process. What is in it and why it can be rebuilt: docs/handover.md.
#include <algorithm>
#include <cassert>
#include <utility>

#include "hbone/tunnel.h"
#include "mesh/reason.h"

namespace zt::hbone {

void Tunnel::prepare_handover() {
  if (closed_ || std::exchange(prepared_, true)) return;
  session_.announce_no_table();
}

void Tunnel::settle() {
  assert(frozen_ == nullptr);
  if (!closed_) session_.settle();
}

std::optional<Unmovable> Tunnel::unmovable() const {
  if (closed_) return Unmovable::kClosed;
  if (!prepared_) return Unmovable::kNotPrepared;
  return session_.unmovable();
}

TunnelState Tunnel::freeze() {
  assert(frozen_ == nullptr && !unmovable());
  frozen_ = std::make_unique<Frozen>();
  ping_timer_.cancel();
  goaway_timer_.cancel();
  io_.loop.cancel_deferred(*this);
  session_.freeze();
  link_.freeze();

  const auto since = [now = io_.loop.now()](Clock::time_point then) {
    return std::max(std::chrono::duration_cast<std::chrono::milliseconds>(now - then), std::chrono::milliseconds(0));
  };
  TunnelState state;
  state.role = role_;
  state.peer = peer_identity_;
  state.peer_chain = peer_chain_;
  link_.export_to(state);
  session_.export_to(state);
  state.draining = draining_;
  state.goaway_unheard = goaway_unheard_;
  const bool grace = goaway_unheard_ || (role_ == Role::kClient && goaway_seen_);
  if (grace && goaway_until_ > io_.loop.now()) {
    state.goaway_left = std::chrono::duration_cast<std::chrono::milliseconds>(goaway_until_ - io_.loop.now());
  }
  state.silent = since(last_received_);
  return state;
}

Result<std::unique_ptr<Tunnel>> Tunnel::resume(WorkerIo& io, MemoryBudget& account, std::unique_ptr<Transport> transport,
                                               const TunnelState& state, const TunnelConfig& config, TunnelOwner& owner,
                                               const AttachStream& attach) {
  ZT_ASSIGN(auto sealer, RecordSealer::make(state.sealer));
  ZT_ASSIGN(auto opener, RecordOpener::make(state.opener));
  TlsEstablished tls{.sealer = std::move(sealer),
                     .opener = std::move(opener),
                     .suite = state.sealer.suite,
                     .group = {},
                     .peer = state.peer,
                     .peer_chain = state.peer_chain};
  std::unique_ptr<Tunnel> tunnel(
      new Tunnel(io, account, state.role, std::move(transport), std::move(tls), state.partial, config, owner));
  tunnel->frozen_ = std::make_unique<Frozen>();
  tunnel->prepared_ = true;
  tunnel->link_.resume(state);
  ZT_TRY(tunnel->session_.rebuild(state, attach));
  tunnel->draining_ = state.draining;
  tunnel->goaway_unheard_ = state.goaway_unheard;
  tunnel->goaway_seen_ = state.goaway_received;
  const auto now = io.loop.now();
  tunnel->goaway_until_ = now + std::clamp(state.goaway_left, std::chrono::milliseconds(0), config.goaway_grace);
  tunnel->last_received_ = now - std::clamp(state.silent, std::chrono::milliseconds(0), config.ping_timeout);
  return tunnel;
}

void Tunnel::thaw() {
  assert(frozen_ != nullptr);
  const auto asked = std::exchange(frozen_, nullptr);
  session_.thaw();
  if (const auto attached = link_.thaw(*this); !attached) return fail(attached.error().reason, attached.error().text);
  ping_timer_.start_after(session_.ping_outstanding() ? config_.ping_timeout / 4 : config_.ping_interval,
                          [this] { keepalive(); });
  if (goaway_unheard_ || (role_ == Role::kClient && goaway_seen_)) start_goaway_timer(goaway_until_);
  if (asked->drain) drain();
  if (asked->close) close(asked->close->first, asked->close->second);
  wake();
}

void Tunnel::discard() {
  assert(frozen_ != nullptr);
  session_.forget_streams();
  closed_ = Error{Reason::kOk, "handed over"};
  owner_told_ = true;
  link_.close();
}

}  // namespace zt::hbone
