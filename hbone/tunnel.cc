#include "hbone/tunnel.h"

#include <cassert>
#include <utility>

#include "hbone/socket_transport.h"
#include "mesh/reason.h"

namespace zt::hbone {

// What exists once for each peer, measured; nghttp2's session comes on top.
static_assert(sizeof(Tunnel) <= 1424);

Result<std::unique_ptr<Tunnel>> Tunnel::start(WorkerIo& io, MemoryBudget& account, Role role, UniqueFd fd, TlsEstablished tls,
                                              std::vector<uint8_t> early, const TunnelConfig& config, TunnelOwner& owner) {
  return start(io, account, role, std::make_unique<SocketTransport>(io.loop, std::move(fd)), std::move(tls), std::move(early),
               config, owner);
}

Result<std::unique_ptr<Tunnel>> Tunnel::start(WorkerIo& io, MemoryBudget& account, Role role,
                                              std::unique_ptr<Transport> transport, TlsEstablished tls,
                                              std::vector<uint8_t> early, const TunnelConfig& config, TunnelOwner& owner) {
  std::unique_ptr<Tunnel> tunnel(
      new Tunnel(io, account, role, std::move(transport), std::move(tls), std::move(early), config, owner));
  ZT_TRY(tunnel->session_.begin());
  ZT_TRY(tunnel->link_.attach(*tunnel));
  tunnel->ping_timer_.start_after(config.ping_interval, [raw = tunnel.get()] { raw->keepalive(); });
  tunnel->wake();
  return tunnel;
}

Tunnel::Tunnel(WorkerIo& io, MemoryBudget& account, Role role, std::unique_ptr<Transport> transport, TlsEstablished tls,
               std::vector<uint8_t> early, const TunnelConfig& config, TunnelOwner& owner)
    : io_(io),
      config_(config),
      owner_(owner),
      role_(role),
      peer_identity_(std::move(tls.peer)),
      peer_chain_(std::move(tls.peer_chain)),
      link_(io, account, std::move(transport), std::move(tls.sealer), std::move(tls.opener), std::move(early),
            config.send_timeout, closed_by_peer(), *this),
      session_(*this, io, account, link_, role, config),
      ping_timer_(io.loop),
      goaway_timer_(io.loop),
      last_received_(io.loop.now()) {
  open_count().fetch_add(1, std::memory_order_relaxed);
}

std::atomic<uint32_t>& Tunnel::open_count() { return role_ == Role::kClient ? io_.client_tunnels : io_.server_tunnels; }

Tunnel::~Tunnel() {
  if (frozen_ != nullptr) discard();  // it may go on elsewhere
  if (!closed_) close(Reason::kDrained);
  session_.end_streams(closed_->reason);
  io_.loop.cancel_deferred(*this);
  open_count().fetch_sub(1, std::memory_order_relaxed);
}

Result<Stream*> Tunnel::open(const Headers& headers, StreamHandler& handler) {
  if (free_streams() == 0) return zt::fail(Reason::kH2Failed, "h2 failed: the connection takes no new streams");
  return session_.open(headers, handler);
}

size_t Tunnel::free_streams() const { return closed_ || draining_ || frozen_ != nullptr ? 0 : session_.free_streams(); }

void Tunnel::drain() {
  if (frozen_ != nullptr) {
    frozen_->drain = true;
    return;
  }
  if (closed_ || std::exchange(draining_, true)) return;
  if (role_ == Role::kServer) {
    session_.notice_shutdown();
    goaway_unheard_ = true;
    start_goaway_timer(io_.loop.now() + config_.goaway_grace);
  }
  session_.streams_changed();
  wake();
}

// The grace for what is on its way: for what the peer asked before it read our GOAWAY, or for what we asked before we read its.
void Tunnel::start_goaway_timer(Clock::time_point until) {
  goaway_until_ = until;
  goaway_timer_.start(until, [this] {
    if (role_ == Role::kClient) return session_.give_up_unanswered();
    goaway_unheard_ = false;
    wake();
  });
}

void Tunnel::close(Reason reason, H2Error code) {
  if (closed_) return;
  if (frozen_ != nullptr) {
    if (!frozen_->close) frozen_->close = {reason, code};
    return;
  }
  assert(!session_.inside());
  // Best effort: what the transport takes now. The peer learns the rest from the end of the connection.
  session_.terminate(code);
  if (!link_.blocked() && !link_.in_batch()) {
    link_.open_batch();
    session_.drain_last();
    link_.close_batch();
  }
  fail(reason, std::string(reason_info(reason).name));
}

void Tunnel::close_for(H2Error code, const std::string& what) {
  if (closed_) return;
  close(code == H2Error::kEnhanceYourCalm ? Reason::kPeerFlood : Reason::kH2Failed, code);
  closed_->text = "h2 failed: " + what;
}

void Tunnel::end_with_session() {
  if (session_.error().empty()) return close(Reason::kOk);
  close_for(session_.error_code(), std::string(session_.error()));
}

void Tunnel::fail(Reason reason, std::string text) {
  if (closed_) return;
  closed_ = Error{reason, std::move(text)};
  ping_timer_.cancel();
  goaway_timer_.cancel();
  link_.close();
  wake();
}

void Tunnel::on_transport(Ready ready) noexcept {
  if (closed_) return;
  if (ready.writable && link_.on_writable()) wake();
  if (closed_) return;
  if (ready.ending) link_.set_ending();
  if (ready.readable || ready.ending) read_input();
}

void Tunnel::read_input() {
  ReceiveTurn turn(io_);
  const auto input = link_.read(turn);
  if (!input) return fail(input.error().reason, input.error().text);
  if (*input == RecordLink::Input::kNothing) return;
  if (*input == RecordLink::Input::kEnded) {
    return fail(session_.streams() == 0 ? Reason::kOk : closed_by_peer(),
                link_.ended_cleanly() ? "connection failed: peer closed the connection"
                                      : "connection failed: peer closed without close_notify");
  }
  last_received_ = io_.loop.now();
  for (;;) {
    const auto content = link_.open(turn);
    if (!content) {
      session_.deliver_touched(&turn);  // the records before it are good
      if (closed_) return;
      link_.alert();
      return fail(content.error().reason, content.error().text);
    }
    if (!content->has_value()) break;
    if (!(*content)->empty() && !session_.feed(turn, **content)) return;
  }
  session_.deliver_touched(&turn);
  if (closed_) return;
  if (!link_.keep_rest(turn, session_.held_bytes())) return fail(Reason::kResourceLimit, "memory is short");
  if (link_.read_again() || session_.wants_to_send() || link_.key_update_due() || session_.streams_have_changed()) wake();
}

void Tunnel::on_turn_end() noexcept {
  if (!closed_ && link_.take_read_again()) read_input();
  if (!closed_) session_.send_turn();
  if (!closed_) session_.deliver_touched(nullptr);  // streams that ended by what was sent
  if (!closed_) session_.close_flooded(nullptr);
  if (closed_) {
    if (std::exchange(owner_told_, true)) return;
    // Streams first: their handlers may still look at the tunnel, and may not open new streams on it.
    session_.end_streams(closed_->reason);
    owner_.on_tunnel_closed(*this, *closed_);
    return;
  }
  if (session_.goaway_heard()) goaway_unheard_ = false;
  if (session_.goaway_received() && !std::exchange(goaway_seen_, true)) {
    draining_ = true;
    if (role_ == Role::kClient) start_goaway_timer(io_.loop.now() + config_.goaway_grace);
  }
  if (draining_ && !goaway_unheard_ && session_.streams() == 0 && !link_.blocked()) {
    // RFC 9113 §6.8: nothing is in flight any more, so the connection may go.
    close(Reason::kOk);
    return;
  }
  if (session_.take_streams_changed()) owner_.on_streams_changed(*this);
}

void Tunnel::keepalive() {
  if (closed_) return;
  // Anything received counts as life: a PONG may wait behind a bulk transfer.
  const auto silent = io_.loop.now() - last_received_;
  if (session_.ping_outstanding() && silent >= config_.ping_timeout) {
    close(Reason::kPeerLost);
    return;
  }
  if (silent >= config_.ping_interval / 2 && !session_.ping_outstanding()) session_.ping();
  ping_timer_.start_after(session_.ping_outstanding() ? config_.ping_timeout / 4 : config_.ping_interval,
                          [this] { keepalive(); });
}

}  // namespace zt::hbone
