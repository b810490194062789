#include "hbone/tunnel.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

namespace zt::hbone {

namespace {
// After a GOAWAY; those of keepalive() are zeros.
constexpr std::array<uint8_t, 8> kGoawayPing{'g', 'o', 'a', 'w', 'a', 'y', '?', '!'};
}  // namespace

// nghttp2's C callbacks: each finds its tunnel and does one thing. None may throw, delete a stream or call the session again.
struct TunnelCallbacks {
  static Tunnel& self(void* user_data) { return *static_cast<Tunnel*>(user_data); }
  static Stream* stream(nghttp2_session* session, int32_t id) {
    return static_cast<Stream*>(nghttp2_session_get_stream_user_data(session, id));
  }

  static ssize_t send(nghttp2_session*, const uint8_t* data, size_t length, int, void* user_data) {
    return self(user_data).append_control(data, length) ? static_cast<ssize_t>(length) : NGHTTP2_ERR_CALLBACK_FAILURE;
  }

  static ssize_t frame_length(nghttp2_session*, uint8_t, int32_t, int32_t, int32_t, uint32_t, void* user_data) {
    const auto& turn = self(user_data).data_;
    // Outside of a turn the read callback defers anyway; 1 keeps nghttp2 from refusing the value.
    return turn.stream != nullptr && turn.bytes > 0 ? static_cast<ssize_t>(turn.bytes) : 1;
  }

  static ssize_t read_data(nghttp2_session*, int32_t stream_id, uint8_t*, size_t, uint32_t* flags, nghttp2_data_source*,
                           void* user_data) {
    auto& turn = self(user_data).data_;
    if (turn.stream == nullptr || turn.stream->id() != stream_id || turn.sent) return NGHTTP2_ERR_DEFERRED;
    turn.sent = true;
    if (turn.end) *flags |= NGHTTP2_DATA_FLAG_EOF;
    if (turn.bytes == 0) return turn.end ? 0 : ssize_t{NGHTTP2_ERR_DEFERRED};
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    return static_cast<ssize_t>(turn.bytes);
  }

  static int send_data(nghttp2_session*, nghttp2_frame* frame, const uint8_t* header, size_t length, nghttp2_data_source*,
                       void* user_data);

  static int begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user_data) {
    auto& tunnel = self(user_data);
    if (frame->hd.type != NGHTTP2_HEADERS) return 0;
    Stream* found = stream(session, frame->hd.stream_id);
    if (found == nullptr) {
      if (tunnel.role_ != Tunnel::Role::kServer) return 0;
      found = &tunnel.add_stream(frame->hd.stream_id);
      nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, found);
    }
    // Trailers are read and forgotten: a byte stream has none.
    if (!found->headers_complete_ && found->headers_ == nullptr) found->headers_ = std::make_unique<Headers>();
    return 0;
  }

  static int header(nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name, size_t name_length,
                    const uint8_t* value, size_t value_length, uint8_t, void* user_data) {
    auto& tunnel = self(user_data);
    Stream* found = stream(session, frame->hd.stream_id);
    if (found == nullptr) return 0;
    // RFC 9113 §10.5.1: name + value + 32 each. What exceeds the advertised list size costs the sender its stream.
    found->header_bytes_ += static_cast<uint32_t>(name_length + value_length + 32);
    const uint32_t limit = tunnel.role_ == Tunnel::Role::kServer ? tunnel.config_.max_header_bytes_server
                                                                 : tunnel.config_.max_header_bytes_client;
    if (found->header_bytes_ > limit) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    if (found->headers_complete_ || found->headers_ == nullptr) return 0;
    found->headers_->emplace_back(std::string(reinterpret_cast<const char*>(name), name_length),
                                  std::string(reinterpret_cast<const char*>(value), value_length));
    return 0;
  }

  static int frame_received(nghttp2_session* session, const nghttp2_frame* frame, void* user_data) {
    auto& tunnel = self(user_data);
    Stream* found = frame->hd.stream_id > 0 ? stream(session, frame->hd.stream_id) : nullptr;
    switch (frame->hd.type) {
      case NGHTTP2_HEADERS:
        if (found == nullptr) break;
        if (!found->headers_complete_) {
          if (tunnel.role_ == Tunnel::Role::kClient && frame->headers.cat != NGHTTP2_HCAT_RESPONSE &&
              frame->headers.cat != NGHTTP2_HCAT_HEADERS) {
            break;
          }
          // 1xx answers come before the real one.
          if (tunnel.role_ == Tunnel::Role::kClient && is_informational(*found)) {
            found->headers_->clear();
            break;
          }
          found->headers_complete_ = true;
        }
        if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) found->end_received_ = true;
        tunnel.touch(*found);
        break;
      case NGHTTP2_DATA:
        if (found != nullptr && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
          found->end_received_ = true;
          tunnel.touch(*found);
        }
        break;
      case NGHTTP2_WINDOW_UPDATE:
        if (found != nullptr) {
          if (found->window_blocked_) tunnel.make_ready(*found);
        } else if (frame->hd.stream_id == 0) {
          tunnel.unblock_streams();
        }
        break;
      case NGHTTP2_SETTINGS:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0) {
          tunnel.unblock_streams();
          tunnel.streams_changed_ = true;
        }
        break;
      case NGHTTP2_PING:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) != 0) {
          tunnel.ping_outstanding_ = false;
          if (std::ranges::equal(frame->ping.opaque_data, kGoawayPing)) {
            tunnel.goaway_unheard_ = false;
            tunnel.io_.loop.defer(tunnel);
          }
        }
        break;
      case NGHTTP2_GOAWAY:
        tunnel.draining_ = true;
        tunnel.streams_changed_ = true;
        if (tunnel.role_ == Tunnel::Role::kClient && !tunnel.goaway_timer_.armed()) {
          tunnel.goaway_timer_.start_after(tunnel.config_.goaway_grace, [&tunnel] { tunnel.give_up_unanswered(); });
        }
        break;
      default:
        break;
    }
    return 0;
  }

  static int data_chunk(nghttp2_session* session, uint8_t, int32_t stream_id, const uint8_t* data, size_t length, void* user_data) {
    auto& tunnel = self(user_data);
    Stream* found = stream(session, stream_id);
    if (found == nullptr) {
      // Reset by us a moment ago: the bytes are lost, their credit is not.
      nghttp2_session_consume_connection(session, length);
      return 0;
    }
    auto& slices = tunnel.io_.slices;
    const auto index = static_cast<int32_t>(slices.size());
    slices.push_back({{const_cast<uint8_t*>(data), length}, -1});
    if (found->slice_first_ < 0) {
      found->slice_first_ = index;
    } else {
      slices[static_cast<size_t>(found->slice_last_)].next = index;
    }
    found->slice_last_ = index;
    tunnel.touch(*found);
    return 0;
  }

  static int stream_closed(nghttp2_session* session, int32_t stream_id, uint32_t error_code, void* user_data) {
    auto& tunnel = self(user_data);
    Stream* found = stream(session, stream_id);
    if (found == nullptr) return 0;
    nghttp2_session_set_stream_user_data(session, stream_id, nullptr);
    found->closed_ = true;
    found->close_code_ = static_cast<H2Error>(error_code);
    tunnel.touch(*found);
    return 0;
  }

  // What nghttp2 itself found wrong; it then queues a GOAWAY and reads no more.
  static int session_error(nghttp2_session*, int, const char* text, size_t length, void* user_data) {
    auto& found = self(user_data).session_error_;
    if (found.empty()) found.assign(text, std::min<size_t>(length, 200));
    return 0;
  }

  static int frame_sent(nghttp2_session* session, const nghttp2_frame* frame, void* user_data) {
    if (frame->hd.type == NGHTTP2_HEADERS) {
      Stream* found = stream(session, frame->hd.stream_id);
      if (found == nullptr || !found->answer_queued_) return 0;
      found->answer_queued_ = false;
      // The request's side may stay open for ever; the peers close it likewise (contract §2.7).
      if (!found->end_received_) nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, found->id_, NGHTTP2_NO_ERROR);
      return 0;
    }
    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR) {
      auto& found = self(user_data).session_error_;
      if (found.empty()) found = nghttp2_http2_strerror(frame->goaway.error_code);
    }
    return 0;
  }

  static bool is_informational(const Stream& found) {
    for (const auto& [name, value] : *found.headers_) {
      if (name == ":status") return value.size() == 3 && value[0] == '1';
    }
    return false;
  }

  static const nghttp2_session_callbacks* table() {
    static const nghttp2_session_callbacks* const callbacks = [] {
      nghttp2_session_callbacks* made = nullptr;
      nghttp2_session_callbacks_new(&made);
      nghttp2_session_callbacks_set_send_callback(made, send);
      nghttp2_session_callbacks_set_send_data_callback(made, send_data);
      nghttp2_session_callbacks_set_data_source_read_length_callback(made, frame_length);
      nghttp2_session_callbacks_set_on_begin_headers_callback(made, begin_headers);
      nghttp2_session_callbacks_set_on_header_callback(made, header);
      nghttp2_session_callbacks_set_on_frame_recv_callback(made, frame_received);
      nghttp2_session_callbacks_set_on_data_chunk_recv_callback(made, data_chunk);
      nghttp2_session_callbacks_set_on_stream_close_callback(made, stream_closed);
      nghttp2_session_callbacks_set_on_frame_send_callback(made, frame_sent);
      nghttp2_session_callbacks_set_error_callback2(made, session_error);
      return made;
    }();
    return callbacks;
  }

  struct FreeOption {
    void operator()(nghttp2_option* option) const { nghttp2_option_del(option); }
  };
  using OptionPtr = std::unique_ptr<nghttp2_option, FreeOption>;

  static OptionPtr options(Tunnel::Role role, const TunnelConfig& config) {
    nghttp2_option* option = nullptr;
    nghttp2_option_new(&option);
    nghttp2_option_set_no_auto_window_update(option, 1);  // credit is ours to give, see Tunnel::credit()
    nghttp2_option_set_no_closed_streams(option, 1);      // closed streams are kept only for RFC 7540 priorities
    nghttp2_option_set_peer_max_concurrent_streams(option, config.assumed_peer_streams);
    nghttp2_option_set_max_outbound_ack(option, 1000);  // PING and SETTINGS floods
    nghttp2_option_set_max_settings(option, 32);
    if (role == Tunnel::Role::kServer) nghttp2_option_set_stream_reset_rate_limit(option, 1000, 33);  // rapid reset
    return OptionPtr(option);
  }
};

int TunnelCallbacks::send_data(nghttp2_session*, nghttp2_frame*, const uint8_t* header, size_t length, nghttp2_data_source*,
                               void* user_data) {
  auto& tunnel = self(user_data);
  // The payload is in the slots already: put the frame header in its gap and seal record by record.
  uint8_t* content = static_cast<uint8_t*>(tunnel.data_.slots.front().iov_base) - kFrameHeader;
  std::memcpy(content, header, kFrameHeader);
  size_t left = length + kFrameHeader;
  while (left > 0) {
    const size_t take = std::min(left, kMaxPlaintext);
    const auto sealed = tunnel.sealer_.seal_in_place(tunnel.out_.data() + tunnel.out_end_, take, ContentType::kApplicationData);
    if (!sealed) return NGHTTP2_ERR_CALLBACK_FAILURE;
    tunnel.out_end_ += *sealed;
    left -= take;
  }
  return 0;
}

Result<std::unique_ptr<Tunnel>> Tunnel::start(WorkerIo& io, Role role, UniqueFd fd, TlsEstablished tls, std::vector<uint8_t> early,
                                              const TunnelConfig& config, TunnelOwner& owner) {
  std::unique_ptr<Tunnel> tunnel(new Tunnel(io, role, std::move(fd), std::move(tls), config, owner));
  tunnel->partial_ = std::move(early);
  tunnel->read_again_ = tunnel->early_ = !tunnel->partial_.empty();
  ZT_TRY(tunnel->start_session());
  return tunnel;
}

Tunnel::Tunnel(WorkerIo& io, Role role, UniqueFd fd, TlsEstablished tls, const TunnelConfig& config, TunnelOwner& owner)
    : io_(io),
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
  const auto option = TunnelCallbacks::options(role_, config_);
  const int made = role_ == Role::kClient
                       ? nghttp2_session_client_new2(&session_, TunnelCallbacks::table(), this, option.get())
                       : nghttp2_session_server_new2(&session_, TunnelCallbacks::table(), this, option.get());
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
  if (const int rv = nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0,
                                                           static_cast<int32_t>(config_.connection_window));
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
  auto* stream = new Stream(*this);
  stream->id_ = id;
  stream->window_ = config_.stream_window_initial;
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
  nghttp2_data_provider provider{.source = {.ptr = nullptr}, .read_callback = TunnelCallbacks::read_data};
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
  const size_t limit = std::min<size_t>(config_.assumed_peer_streams,
                                        nghttp2_session_get_remote_settings(session_, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS));
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
      if (!stream.closed_ && session_ != nullptr && stream.id_ > 0) nghttp2_session_set_stream_user_data(session_, stream.id_, nullptr);
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
  nghttp2_data_provider provider{.source = {.ptr = nullptr}, .read_callback = TunnelCallbacks::read_data};
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
