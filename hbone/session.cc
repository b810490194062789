#include "hbone/session.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <utility>

#include "hbone/session_callbacks.h"
#include "hbone/tunnel.h"
#include "mesh/reason.h"

namespace zt::hbone {

// What exists once for each connection, measured. Whoever makes it larger says so here.
static_assert(sizeof(Stream) <= 144);

namespace {
constexpr size_t kClientPreface = sizeof NGHTTP2_CLIENT_MAGIC - 1;

std::vector<nghttp2_nv> to_nv(const Headers& headers) {
  std::vector<nghttp2_nv> nv;
  nv.reserve(headers.size());
  for (const auto& [name, value] : headers) {
    nv.push_back({reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
                  reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE});
  }
  return nv;
}

// What the answer says of who is at fault: the requests of a peer that gets many of these are not worth more (contract §2.7).
bool blames_peer(const Headers& answer) {
  for (const auto& [name, value] : answer) {
    if (name == ":status") return value.size() == 3 && value[0] == '4';
  }
  return false;
}
}  // namespace

Session::Session(Tunnel& tunnel, WorkerIo& io, MemoryBudget& account, RecordLink& link, TunnelRole role,
                 const TunnelConfig& config)
    : tunnel_(tunnel),
      io_(io),
      account_(account),
      link_(link),
      config_(config),
      announced_{
          .stream_window = config.stream_window_initial,
          .connection_window = config.connection_window,
          .max_frame_bytes = config.max_frame_bytes,
          .max_header_bytes = role == TunnelRole::kClient ? config.max_header_bytes_client : config.max_header_bytes_server,
          .max_concurrent_streams = role == TunnelRole::kServer ? config.max_concurrent_streams : 0,
      },
      role_(role),
      cursor_(role == TunnelRole::kServer ? kClientPreface : 0, config.max_frame_bytes, most_held()) {}

Session::~Session() {
  assert(!inside_ && calls_ == 0);
  nghttp2_session_del(session_);
  while (!all_.empty()) free_stream(all_.front());
}

bool Session::tunnel_over() const { return tunnel_.closed(); }
void Session::wake() { tunnel_.wake(); }

Result<> Session::make(const TunnelState* resumed) {
  // The session copies what it needs.
  const auto options = session_options(role_, config_);
  nghttp2_mem allocator = memory_.allocator();
  const int made = role_ == TunnelRole::kClient
                       ? nghttp2_session_client_new3(&session_, session_callbacks(), this, options.get(), &allocator)
                       : nghttp2_session_server_new3(&session_, session_callbacks(), this, options.get(), &allocator);
  if (made != 0) return fail(Reason::kH2Failed, nghttp2_strerror(made));

  // Rebuilding takes one more than there are.
  const auto streams = resumed == nullptr
                           ? announced_.max_concurrent_streams
                           : std::max(announced_.max_concurrent_streams, static_cast<uint32_t>(resumed->streams.size() + 1));
  std::array<nghttp2_settings_entry, 5> settings{};
  size_t count = 0;
  // A session that was handed over keeps no table of headers: nobody could rebuild it.
  if (resumed != nullptr) settings[count++] = {NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, 0};
  settings[count++] = role_ == TunnelRole::kClient ? nghttp2_settings_entry{NGHTTP2_SETTINGS_ENABLE_PUSH, 0}
                                                   : nghttp2_settings_entry{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, streams};
  settings[count++] = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, announced_.stream_window};
  settings[count++] = {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, announced_.max_frame_bytes};
  settings[count++] = {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, announced_.max_header_bytes};
  if (const int rv = nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings.data(), count); rv != 0) {
    return fail(Reason::kH2Failed, nghttp2_strerror(rv));
  }
  return {};
}

Result<> Session::begin() {
  ZT_TRY(make(nullptr));
  if (const int rv = nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0,
                                                           static_cast<int32_t>(announced_.connection_window));
      rv != 0) {
    return fail(Reason::kH2Failed, nghttp2_strerror(rv));
  }
  return {};
}

Stream& Session::add_stream(int32_t id) {
  auto* stream = new Stream(this, announced_.stream_window, account_.limit());
  stream->id_ = id;
  all_.push_back(*stream);
  ++stream_count_;
  return *stream;
}

void Session::free_stream(Stream& stream) {
  if (data_.stream == &stream) data_.stream = nullptr;
  --stream_count_;
  streams_changed_ = true;
  delete &stream;  // which takes it off every list
}

// The stream has ended here, and what it has received whole waits for its sink: from now on it is its own.
void Session::detach(Stream& stream, Reason reason) {
  if (!stream.closed_ && stream.id_ > 0) nghttp2_session_set_stream_user_data(session_, stream.id_, nullptr);
  stream.session_ = nullptr;
  stream.end_reason_ = reason;
  stream.headers_.reset();
  stream.all_hook_.unlink();
  stream.ready_hook_.unlink();
  stream.touched_hook_.unlink();
  if (data_.stream == &stream) data_.stream = nullptr;
  --stream_count_;
  streams_changed_ = true;
}

void Session::end_streams(Reason reason) {
  const CallScope scope(*this);
  while (!all_.empty()) {
    Stream& stream = all_.front();
    if (stream.end_received_ && stream.kept_ != nullptr && stream.handler_ != nullptr) {
      detach(stream, reason);
      stream.deliver_detached();  // its sink may have said meanwhile that it takes bytes
      continue;
    }
    StreamHandler* handler = std::exchange(stream.handler_, nullptr);
    if (!stream.closed_ && stream.id_ > 0) nghttp2_session_set_stream_user_data(session_, stream.id_, nullptr);
    free_stream(stream);
    if (handler != nullptr) handler->on_closed(reason, H2Error::kNoError);
  }
}

void Session::give_up_unanswered() {
  // A stream that is not closed stays in the list when it is lost.
  for (Stream& stream : all_) {
    if (!stream.headers_complete_ && !stream.closed_) stream.lose(Reason::kPeerLost, H2Error::kCancel);
  }
}

Result<Stream*> Session::open(const Headers& headers, StreamHandler& handler) {
  assert(!inside_);
  const auto nv = to_nv(headers);
  Stream& stream = add_stream(-1);
  const nghttp2_data_provider provider = stream_data();
  const int32_t id = nghttp2_submit_request(session_, nullptr, nv.data(), nv.size(), &provider, &stream);
  if (id < 0) {
    free_stream(stream);
    return fail(Reason::kH2Failed, std::string("h2 failed: ") + nghttp2_strerror(id));
  }
  stream.id_ = id;
  stream.handler_ = &handler;
  wake();
  return &stream;
}

size_t Session::free_streams() const {
  if (nghttp2_session_check_request_allowed(session_) == 0) return 0;
  // Before the peer's SETTINGS this is assumed_peer_streams.
  const size_t limit = nghttp2_session_get_remote_settings(session_, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
  return limit > stream_count_ ? limit - stream_count_ : 0;
}

void Session::ping() {
  nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, nullptr);
  ping_outstanding_ = true;
  wake();
}

void Session::notice_shutdown() {
  nghttp2_submit_shutdown_notice(session_);
  nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, kGoawayPing.data());
  wake();
}

void Session::terminate(H2Error code) { nghttp2_session_terminate_session(session_, static_cast<uint32_t>(code)); }

// The peer has made us reset or refuse something.
void Session::fault(const char* what) {
  if (!guard_.fault(io_.loop.now()) && flooded_ == nullptr) flooded_ = what;
}

Tunnel& Stream::tunnel() const { return session_->tunnel_; }

void Stream::readable() {
  if (session_ == nullptr || !sending_ || end_sent_ || closed_) return;
  session_->make_ready(*this);
}

void Stream::resume_delivery() {
  if (session_ == nullptr) return deliver_detached();
  if (session_->tunnel_over()) return;  // offered when the tunnel's streams are told
  if (session_->frozen_) return;        // offered when it thaws, here or elsewhere
  if (kept_ == nullptr && !end_received_ && !closed_) return;
  session_->deliver(*this, nullptr);
}

void Stream::respond(const Headers& headers, bool end_stream) {
  if (session_ == nullptr || closed_ || session_->tunnel_over()) return;
  assert(!session_->inside_);
  const auto nv = to_nv(headers);
  const nghttp2_data_provider provider = stream_data();
  nghttp2_submit_response(session_->session_, id_, nv.data(), nv.size(), end_stream ? nullptr : &provider);
  if (end_stream) {
    end_sent_ = true;
    answer_queued_ = true;
    reset_by_us_ = true;  // counted here, not when the reset that follows is sent
    if (blames_peer(headers)) session_->fault("requests that are refused");
  } else {
    sending_ = true;
    session_->make_ready(*this);
  }
  session_->wake();
}

void Stream::lose(Reason reason, H2Error code) noexcept {
  kept_.reset();
  StreamHandler* handler = std::exchange(handler_, nullptr);
  if (session_ == nullptr) {
    if (!delivering_) delete this;
  } else if (!closed_ && !session_->tunnel_over()) {
    assert(!session_->inside_);
    nghttp2_submit_rst_stream(session_->session_, NGHTTP2_FLAG_NONE, id_, static_cast<uint32_t>(code));
    reset_by_us_ = true;
    sending_ = false;
    session_->wake();
  } else if (closed_ && !touched_hook_.is_linked() && !delivering_ && !session_->tunnel_over()) {
    session_->wake();
    session_->free_stream(*this);
  }
  if (handler != nullptr) handler->on_closed(reason, code);
}

void Stream::abandon(H2Error code) {
  handler_ = nullptr;
  if (session_ == nullptr) {
    if (!delivering_) delete this;
    return;
  }
  if (session_->tunnel_over()) return;  // freed with the tunnel
  if (closed_) {
    if (touched_hook_.is_linked() || delivering_) return;
    session_->wake();
    session_->free_stream(*this);
    return;
  }
  assert(!session_->inside_);
  if (!answer_queued_) nghttp2_submit_rst_stream(session_->session_, NGHTTP2_FLAG_NONE, id_, static_cast<uint32_t>(code));
  reset_by_us_ = true;
  // What was kept for the sink will not be asked for any more.
  if (!delivering_) kept_.reset();
  sending_ = false;
  session_->wake();
}

void Stream::deliver_detached() {
  if (delivering_) return;
  if (kept_ != nullptr && handler_ != nullptr) {
    delivering_ = true;
    std::vector<iovec> parts;
    kept_->held.add_to(parts);
    const size_t taken = handler_->on_data(parts);
    if (handler_ != nullptr) {
      kept_->held.take(taken);
      // Less than before always fits.
      if (kept_->held.empty()) {
        kept_.reset();
      } else if (!kept_->account().update(*kept_, kept_->held.allocated(), taken > 0)) {
        kept_.reset();
      }
      if (kept_ == nullptr && handler_ != nullptr && !end_delivered_) {
        end_delivered_ = true;
        handler_->on_end_stream();
      }
    }
    delivering_ = false;
  }
  if (handler_ != nullptr && kept_ != nullptr) return;
  StreamHandler* handler = std::exchange(handler_, nullptr);
  const Reason reason = end_reason_;
  const H2Error code = close_code_;
  delete this;
  if (handler != nullptr) handler->on_closed(reason, code);
}

}  // namespace zt::hbone
