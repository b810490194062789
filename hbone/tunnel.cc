#include "hbone/tunnel.h"

#include <array>
#include <utility>

#include "hbone/tunnel_session.h"
#include "mesh/reason.h"

namespace zt::hbone {

Result<std::unique_ptr<Tunnel>> Tunnel::start(WorkerIo& io, MemoryBudget& account, Role role, UniqueFd fd, TlsEstablished tls,
                                              std::vector<uint8_t> early, const TunnelConfig& config, TunnelOwner& owner) {
  std::unique_ptr<Tunnel> tunnel(new Tunnel(io, account, role, std::move(fd), std::move(tls), config, owner));
  tunnel->partial_ = std::move(early);
  tunnel->read_again_ = tunnel->early_ = !tunnel->partial_.empty();
  ZT_TRY(tunnel->start_session());
  return tunnel;
}

Tunnel::Tunnel(WorkerIo& io, MemoryBudget& account, Role role, UniqueFd fd, TlsEstablished tls, const TunnelConfig& config,
               TunnelOwner& owner)
    : io_(io),
      account_(account),
      config_(config),
      owner_(owner),
      fd_(std::move(fd)),
      sealer_(std::move(tls.sealer)),
      opener_(std::move(tls.opener)),
      peer_identity_(std::move(tls.peer)),
      peer_chain_(std::move(tls.peer_chain)),
      role_(role),
      batch_bytes_(kMinBatchBytes),
      ping_timer_(io.loop),
      goaway_timer_(io.loop),
      last_received_(io.loop.now()) {
  open_count().fetch_add(1, std::memory_order_relaxed);
}

std::atomic<uint32_t>& Tunnel::open_count() { return role_ == Role::kClient ? io_.client_tunnels : io_.server_tunnels; }

Result<> Tunnel::start_session() {
  // The session copies what it needs.
  const auto options = session_options(role_, config_);
  const int made = role_ == Role::kClient ? nghttp2_session_client_new2(&session_, session_callbacks(), this, options.get())
                                          : nghttp2_session_server_new2(&session_, session_callbacks(), this, options.get());
  if (made != 0) return fail(Reason::kH2Failed, nghttp2_strerror(made));

  std::array<nghttp2_settings_entry, 5> settings{};
  size_t count = 0;
  if (role_ == Role::kClient) {
    settings[count++] = {NGHTTP2_SETTINGS_ENABLE_PUSH, 0};
  } else {
    settings[count++] = {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, config_.max_concurrent_streams};
  }
  settings[count++] = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, config_.stream_window_initial};
  settings[count++] = {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, config_.max_frame_bytes};
  settings[count++] = {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE,
                       role_ == Role::kClient ? config_.max_header_bytes_client : config_.max_header_bytes_server};
  if (const int rv = nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings.data(), count); rv != 0) {
    return fail(Reason::kH2Failed, nghttp2_strerror(rv));
  }
  if (const int rv =
          nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, static_cast<int32_t>(config_.connection_window));
      rv != 0) {
    return fail(Reason::kH2Failed, nghttp2_strerror(rv));
  }
  ZT_TRY(io_.loop.watch(fd_.get(), *this));
  ping_timer_.start_after(config_.ping_interval, [this] { keepalive(); });
  io_.loop.defer(*this);
  return {};
}

Tunnel::~Tunnel() {
  if (!closed_) close(Reason::kDrained);
  io_.loop.cancel_deferred(*this);
  if (fd_) io_.loop.unwatch(fd_.get(), *this);
  nghttp2_session_del(session_);
  while (all_ != nullptr) free_stream(*all_);
  open_count().fetch_sub(1, std::memory_order_relaxed);
}

Stream& Tunnel::add_stream(int32_t id) {
  auto* stream = new Stream(*this, config_.stream_window_initial);
  stream->id_ = id;
  stream->all_next_ = all_;
  if (all_ != nullptr) all_->all_prev_ = stream;
  all_ = stream;
  ++stream_count_;
  return *stream;
}

void Tunnel::free_stream(Stream& stream) {
  // Off every list: a stream may end while it waits for its turn.
  if (stream.all_prev_ != nullptr) stream.all_prev_->all_next_ = stream.all_next_;
  if (stream.all_next_ != nullptr) stream.all_next_->all_prev_ = stream.all_prev_;
  if (all_ == &stream) all_ = stream.all_next_;
  if (stream.ready_) {
    Stream** link = &ready_head_;
    Stream* previous = nullptr;
    while (*link != nullptr && *link != &stream) {
      previous = *link;
      link = &(*link)->ready_next_;
    }
    if (*link == &stream) {
      *link = stream.ready_next_;
      if (ready_tail_ == &stream) ready_tail_ = previous;
    }
  }
  if (data_.stream == &stream) data_.stream = nullptr;
  --stream_count_;
  streams_changed_ = true;
  delete &stream;
}

namespace {
void to_nv(const Headers& headers, std::vector<nghttp2_nv>& out) {
  for (const auto& [name, value] : headers) {
    out.push_back({reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
                   reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE});
  }
}
}  // namespace

Result<Stream*> Tunnel::open(const Headers& headers, StreamHandler& handler) {
  if (free_streams() == 0) return fail(Reason::kH2Failed, "h2 failed: the connection takes no new streams");
  std::vector<nghttp2_nv> nv;
  to_nv(headers, nv);
  Stream& stream = add_stream(-1);
  const nghttp2_data_provider provider = stream_data();
  const int32_t id = nghttp2_submit_request(session_, nullptr, nv.data(), nv.size(), &provider, &stream);
  if (id < 0) {
    free_stream(stream);
    return fail(Reason::kH2Failed, std::string("h2 failed: ") + nghttp2_strerror(id));
  }
  stream.id_ = id;
  stream.handler_ = &handler;
  io_.loop.defer(*this);
  return &stream;
}

size_t Tunnel::free_streams() const {
  if (closed_ || draining_ || nghttp2_session_check_request_allowed(session_) == 0) return 0;
  // Before the peer's SETTINGS this is assumed_peer_streams.
  const size_t limit = nghttp2_session_get_remote_settings(session_, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
  return limit > stream_count_ ? limit - stream_count_ : 0;
}

bool Tunnel::saturated() const { return out_blocked_ && ready_head_ != nullptr && ready_head_ != ready_tail_; }

void Tunnel::drain() {
  if (closed_ || std::exchange(draining_, true)) return;
  if (role_ == Role::kServer) {
    nghttp2_submit_shutdown_notice(session_);
    nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, kGoawayPing.data());
    goaway_unheard_ = true;
    goaway_timer_.start_after(config_.goaway_grace, [this] {
      goaway_unheard_ = false;
      io_.loop.defer(*this);
    });
  }
  streams_changed_ = true;
  io_.loop.defer(*this);
}

void Tunnel::close(Reason reason, H2Error code) {
  if (closed_) return;
  // Best effort: what the socket takes now. The peer learns the rest from the end of the TCP connection.
  nghttp2_session_terminate_session(session_, static_cast<uint32_t>(code));
  if (!out_blocked_ && !in_session_) {
    out_ = out_ ? std::move(out_) : io_.buffers.borrow();
    if (drain_session()) {
      seal_control();
      if (const auto sealed = sealer_.seal_close_notify(std::span<uint8_t, kAlertRecord>(out_.data() + out_end_, kAlertRecord))) {
        out_end_ += *sealed;
      }
      flush();
    }
  }
  fail_tunnel(reason, std::string(reason_info(reason).name));
}

void Tunnel::fail_tunnel(Reason reason, std::string text) {
  if (closed_) return;
  closed_ = Error{reason, std::move(text)};
  ping_timer_.cancel();
  goaway_timer_.cancel();
  if (fd_) {
    io_.loop.unwatch(fd_.get(), *this);
    fd_.reset();
  }
  out_.release();
  out_begin_ = out_end_ = control_bytes_ = 0;
  io_.loop.defer(*this);
}

void Tunnel::give_up_unanswered() {
  for (Stream *stream = all_, *next = nullptr; stream != nullptr; stream = next) {
    next = stream->all_next_;
    if (!stream->headers_complete_ && !stream->closed_) stream->lose(Reason::kPeerLost, H2Error::kCancel);
  }
}

void Tunnel::on_ready(uint32_t events) noexcept {
  if (closed_) return;
  if ((events & EPOLLOUT) != 0 && out_blocked_) {
    out_blocked_ = false;
    if (flush()) io_.loop.defer(*this);
  }
  if (closed_) return;
  if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) hung_up_ = true;
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) read_input();
}

void Tunnel::on_turn_end() noexcept {
  if (!closed_ && std::exchange(read_again_, false)) read_input();
  if (!closed_) send_turn();
  if (!closed_) deliver_touched();  // streams that ended by what was sent
  if (closed_) {
    if (owner_told_) return;
    owner_told_ = true;
    // Streams first: their handlers may still look at the tunnel, and may not open new streams on it.
    while (all_ != nullptr) {
      Stream& stream = *all_;
      StreamHandler* handler = std::exchange(stream.handler_, nullptr);
      if (!stream.closed_ && session_ != nullptr && stream.id_ > 0)
        nghttp2_session_set_stream_user_data(session_, stream.id_, nullptr);
      free_stream(stream);
      if (handler != nullptr) handler->on_closed(closed_->reason, H2Error::kNoError);
    }
    owner_.on_tunnel_closed(*this, *closed_);
    return;
  }
  if (draining_ && !goaway_unheard_ && stream_count_ == 0 && !out_blocked_) {
    // RFC 9113 §6.8: nothing is in flight any more, so the connection may go.
    close(Reason::kOk);
    return;
  }
  if (std::exchange(streams_changed_, false)) owner_.on_streams_changed(*this);
}

void Tunnel::keepalive() {
  if (closed_) return;
  // Anything received counts as life: a PONG may wait behind a bulk transfer.
  const auto silent = io_.loop.now() - last_received_;
  if (ping_outstanding_ && silent >= config_.ping_timeout) {
    close(Reason::kPeerLost);
    return;
  }
  if (silent >= config_.ping_interval / 2 && !ping_outstanding_) {
    nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, nullptr);
    ping_outstanding_ = true;
    io_.loop.defer(*this);
  }
  ping_timer_.start_after(ping_outstanding_ ? config_.ping_timeout / 4 : config_.ping_interval, [this] { keepalive(); });
}

void Stream::readable() {
  if (!sending_ || end_sent_ || closed_) return;
  tunnel_->make_ready(*this);
}

void Stream::resume_delivery() {
  if (kept_ == nullptr && !end_received_ && !closed_) return;
  tunnel_->deliver(*this);
}

void Stream::respond(const Headers& headers, bool end_stream) {
  if (closed_ || tunnel_->closed()) return;
  std::vector<nghttp2_nv> nv;
  to_nv(headers, nv);
  const nghttp2_data_provider provider = stream_data();
  nghttp2_submit_response(tunnel_->session_, id_, nv.data(), nv.size(), end_stream ? nullptr : &provider);
  if (end_stream) {
    end_sent_ = true;
    answer_queued_ = true;
  } else {
    sending_ = true;
    tunnel_->make_ready(*this);
  }
  tunnel_->io_.loop.defer(*tunnel_);
}

void Stream::lose(Reason reason, H2Error code) noexcept {
  kept_.reset();
  StreamHandler* handler = std::exchange(handler_, nullptr);
  if (!closed_ && !tunnel_->closed()) {
    nghttp2_submit_rst_stream(tunnel_->session_, NGHTTP2_FLAG_NONE, id_, static_cast<uint32_t>(code));
    sending_ = false;
    tunnel_->io_.loop.defer(*tunnel_);
  } else if (closed_ && !touched_ && !delivering_ && !tunnel_->closed()) {
    tunnel_->free_stream(*this);
  }
  if (handler != nullptr) handler->on_closed(reason, code);
}

void Stream::abandon(H2Error code) {
  handler_ = nullptr;
  Tunnel& tunnel = *tunnel_;
  if (tunnel.closed()) return;  // freed with the tunnel
  if (closed_) {
    if (!touched_ && !delivering_) tunnel.free_stream(*this);
    return;
  }
  if (!answer_queued_) nghttp2_submit_rst_stream(tunnel.session_, NGHTTP2_FLAG_NONE, id_, static_cast<uint32_t>(code));
  // What was kept for the sink will not be asked for any more.
  kept_.reset();
  sending_ = false;
  tunnel.io_.loop.defer(tunnel);
}

}  // namespace zt::hbone
