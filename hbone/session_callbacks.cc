#include "hbone/session_callbacks.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "hbone/session.h"
#include "hbone/tunnel.h"

namespace zt::hbone {

// nghttp2's C callbacks: each finds its session and does one thing. None may throw, delete a stream or call the session again.
struct SessionCallbacks {
  static Session& self(void* user_data) { return *static_cast<Session*>(user_data); }
  static Stream* stream(nghttp2_session* session, int32_t id) {
    return static_cast<Stream*>(nghttp2_session_get_stream_user_data(session, id));
  }

  static ssize_t send(nghttp2_session*, const uint8_t* data, size_t length, int, void* user_data) {
    const size_t taken = self(user_data).append_control({data, length});
    return taken > 0 ? static_cast<ssize_t>(taken) : NGHTTP2_ERR_WOULDBLOCK;
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
    auto& our = self(user_data);
    if (our.rebuilding_ || frame->hd.type != NGHTTP2_HEADERS) return 0;
    our.arriving_headers_ = 0;
    Stream* found = stream(session, frame->hd.stream_id);
    if (found == nullptr) {
      if (our.role_ != TunnelRole::kServer) return 0;
      found = &our.add_stream(frame->hd.stream_id);
      nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, found);
    }
    // Trailers are read and forgotten: a byte stream has none.
    if (!found->headers_complete_ && found->headers_ == nullptr) found->headers_ = std::make_unique<Headers>();
    return 0;
  }

  static int header(nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name, size_t name_length,
                    const uint8_t* value, size_t value_length, uint8_t, void* user_data) {
    auto& our = self(user_data);
    if (our.rebuilding_) return 0;
    Stream* found = stream(session, frame->hd.stream_id);
    if (found == nullptr) return 0;
    // RFC 9113 §10.5.1: name + value + 32 each. What exceeds the advertised list size costs the sender its stream.
    const auto bytes = static_cast<uint32_t>(name_length + value_length + 32);
    found->header_bytes_ += bytes;
    if (found->header_bytes_ > our.announced_.max_header_bytes) {
      found->headers_.reset();
      our.arriving_headers_ = 0;
      return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    if (found->headers_complete_ || found->headers_ == nullptr) return 0;
    our.arriving_headers_ += bytes;
    found->headers_->emplace_back(std::string(reinterpret_cast<const char*>(name), name_length),
                                  std::string(reinterpret_cast<const char*>(value), value_length));
    return 0;
  }

  static int frame_received(nghttp2_session* session, const nghttp2_frame* frame, void* user_data) {
    auto& our = self(user_data);
    if (our.rebuilding_) return 0;
    Stream* found = frame->hd.stream_id > 0 ? stream(session, frame->hd.stream_id) : nullptr;
    switch (frame->hd.type) {
      case NGHTTP2_HEADERS:
        our.arriving_headers_ = 0;
        if (found == nullptr) break;
        if (!found->headers_complete_) {
          if (our.role_ == TunnelRole::kClient && frame->headers.cat != NGHTTP2_HCAT_RESPONSE &&
              frame->headers.cat != NGHTTP2_HCAT_HEADERS) {
            break;
          }
          // 1xx answers come before the real one.
          if (our.role_ == TunnelRole::kClient && is_informational(*found)) {
            found->headers_->clear();
            break;
          }
          found->headers_complete_ = true;
        }
        if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) found->end_received_ = true;
        our.touch(*found);
        break;
      case NGHTTP2_DATA:
        if (found != nullptr && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
          found->end_received_ = true;
          our.touch(*found);
        }
        break;
      case NGHTTP2_RST_STREAM:
        if (our.role_ == TunnelRole::kServer && found != nullptr && !found->sending_ && !found->answer_queued_)
          our.fault("requests that it takes back");
        break;
      case NGHTTP2_WINDOW_UPDATE:
        if (found != nullptr) {
          if (found->window_blocked_) our.make_ready(*found);
        } else if (frame->hd.stream_id == 0) {
          our.unblock_streams();
        }
        break;
      case NGHTTP2_SETTINGS:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0) {
          our.unblock_streams();
          our.streams_changed_ = true;
          const uint32_t window = nghttp2_session_get_remote_settings(session, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE);
          if (std::exchange(our.peer_window_, window) > window && our.stream_count_ > 0) our.peer_took_credit_ = true;
        }
        break;
      case NGHTTP2_PING:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) != 0) {
          our.ping_outstanding_ = false;
          if (std::ranges::equal(frame->ping.opaque_data, kGoawayPing)) our.goaway_heard_ = true;
          our.wake();
        }
        break;
      case NGHTTP2_GOAWAY:
        our.goaway_received_ = true;
        our.goaway_last_stream_ = frame->goaway.last_stream_id;
        our.goaway_code_ = frame->goaway.error_code;
        our.streams_changed_ = true;
        our.wake();
        break;
      default: break;
    }
    return 0;
  }

  static int data_chunk(nghttp2_session* session, uint8_t, int32_t stream_id, const uint8_t* data, size_t length,
                        void* user_data) {
    auto& our = self(user_data);
    if (our.rebuilding_) return 0;
    Stream* found = stream(session, stream_id);
    if (found == nullptr) {
      // Reset by us a moment ago: the bytes are lost, their credit is not.
      nghttp2_session_consume_connection(session, length);
      return 0;
    }
    our.turn_->add(found->mark_, data, length);
    our.touch(*found);
    return 0;
  }

  static int stream_closed(nghttp2_session* session, int32_t stream_id, uint32_t error_code, void* user_data) {
    auto& our = self(user_data);
    if (our.rebuilding_) return 0;
    Stream* found = stream(session, stream_id);
    if (found == nullptr) return 0;
    nghttp2_session_set_stream_user_data(session, stream_id, nullptr);
    found->closed_ = true;
    found->close_code_ = static_cast<H2Error>(error_code);
    our.touch(*found);
    return 0;
  }

  // nghttp2 resets the stream, later: a request that was not passed on yet need not be, and costs nobody a connection.
  static int frame_invalid(nghttp2_session* session, const nghttp2_frame* frame, int, void* user_data) {
    if (self(user_data).rebuilding_ || self(user_data).role_ != TunnelRole::kServer) return 0;
    if (Stream* found = stream(session, frame->hd.stream_id); found != nullptr) found->headers_.reset();
    return 0;
  }

  // What nghttp2 itself found wrong. Not always fatal; if it is, a GOAWAY follows and it reads no more.
  static int session_error(nghttp2_session*, int, const char* text, size_t length, void* user_data) {
    self(user_data).error_.assign(text, std::min<size_t>(length, 200));
    return 0;
  }

  static int frame_sent(nghttp2_session* session, const nghttp2_frame* frame, void* user_data) {
    if (self(user_data).rebuilding_) return 0;
    if (frame->hd.type == NGHTTP2_RST_STREAM) {
      const Stream* found = stream(session, frame->hd.stream_id);
      if (found == nullptr || !found->reset_by_us_) self(user_data).fault("frames that have to be answered with a reset");
      return 0;
    }
    if (frame->hd.type == NGHTTP2_HEADERS) {
      Stream* found = stream(session, frame->hd.stream_id);
      if (found == nullptr || !found->answer_queued_) return 0;
      found->answer_queued_ = false;
      // The request's side may stay open for ever; the peers close it likewise (contract §2.7).
      if (!found->end_received_) nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, found->id_, NGHTTP2_NO_ERROR);
      return 0;
    }
    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR) {
      self(user_data).error_code_ = static_cast<H2Error>(frame->goaway.error_code);
      auto& found = self(user_data).error_;
      if (frame->goaway.opaque_data_len > 0) {
        found.assign(reinterpret_cast<const char*>(frame->goaway.opaque_data),
                     std::min<size_t>(frame->goaway.opaque_data_len, 200));
      } else if (found.empty()) {
        found = nghttp2_http2_strerror(frame->goaway.error_code);
      }
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
      nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(made, frame_invalid);
      nghttp2_session_callbacks_set_on_data_chunk_recv_callback(made, data_chunk);
      nghttp2_session_callbacks_set_on_stream_close_callback(made, stream_closed);
      nghttp2_session_callbacks_set_on_frame_send_callback(made, frame_sent);
      nghttp2_session_callbacks_set_error_callback2(made, session_error);
      return made;
    }();
    return callbacks;
  }
};

int SessionCallbacks::send_data(nghttp2_session*, nghttp2_frame*, const uint8_t* header, size_t length, nghttp2_data_source*,
                                void* user_data) {
  auto& our = self(user_data);
  if (our.rebuilding_) return 0;
  // The payload is in its slots already: put the frame header in its gap and seal record by record.
  std::memcpy(our.data_.payload - kFrameHeader, header, kFrameHeader);
  size_t left = length + kFrameHeader;
  while (left > 0) {
    const size_t take = std::min(left, kMaxPlaintext);
    if (!our.link_.seal(take)) return NGHTTP2_ERR_CALLBACK_FAILURE;
    left -= take;
  }
  return 0;
}

const nghttp2_session_callbacks* session_callbacks() { return SessionCallbacks::table(); }

nghttp2_data_provider stream_data() { return {.source = {.ptr = nullptr}, .read_callback = SessionCallbacks::read_data}; }

SessionOptions session_options(TunnelRole role, const TunnelConfig& config) {
  nghttp2_option* option = nullptr;
  nghttp2_option_new(&option);
  nghttp2_option_set_no_auto_window_update(option, 1);  // credit is ours to give, see Session::credit()
  nghttp2_option_set_no_closed_streams(option, 1);      // closed streams are kept only for RFC 7540 priorities
  nghttp2_option_set_peer_max_concurrent_streams(option, config.assumed_peer_streams);
  nghttp2_option_set_max_outbound_ack(option, 1000);  // PING and SETTINGS floods
  nghttp2_option_set_max_settings(option, 32);
  // Rapid reset is FloodGuard's: nghttp2 would end it with INTERNAL_ERROR, and with no word why.
  if (role == TunnelRole::kServer) nghttp2_option_set_stream_reset_rate_limit(option, UINT64_MAX, UINT64_MAX);
  return SessionOptions(option);
}

}  // namespace zt::hbone
