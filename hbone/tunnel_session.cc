#include "hbone/tunnel_session.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace zt::hbone {

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
    const uint32_t limit =
        tunnel.role_ == Tunnel::Role::kServer ? tunnel.config_.max_header_bytes_server : tunnel.config_.max_header_bytes_client;
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
      default: break;
    }
    return 0;
  }

  static int data_chunk(nghttp2_session* session, uint8_t, int32_t stream_id, const uint8_t* data, size_t length,
                        void* user_data) {
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

  // What nghttp2 itself found wrong. Not always fatal; if it is, a GOAWAY follows and it reads no more.
  static int session_error(nghttp2_session*, int, const char* text, size_t length, void* user_data) {
    self(user_data).session_error_.assign(text, std::min<size_t>(length, 200));
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
      nghttp2_session_callbacks_set_on_data_chunk_recv_callback(made, data_chunk);
      nghttp2_session_callbacks_set_on_stream_close_callback(made, stream_closed);
      nghttp2_session_callbacks_set_on_frame_send_callback(made, frame_sent);
      nghttp2_session_callbacks_set_error_callback2(made, session_error);
      return made;
    }();
    return callbacks;
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

const nghttp2_session_callbacks* session_callbacks() { return TunnelCallbacks::table(); }

nghttp2_data_provider stream_data() { return {.source = {.ptr = nullptr}, .read_callback = TunnelCallbacks::read_data}; }

SessionOptions session_options(Tunnel::Role role, const TunnelConfig& config) {
  nghttp2_option* option = nullptr;
  nghttp2_option_new(&option);
  nghttp2_option_set_no_auto_window_update(option, 1);  // credit is ours to give, see Tunnel::credit()
  nghttp2_option_set_no_closed_streams(option, 1);      // closed streams are kept only for RFC 7540 priorities
  nghttp2_option_set_peer_max_concurrent_streams(option, config.assumed_peer_streams);
  nghttp2_option_set_max_outbound_ack(option, 1000);  // PING and SETTINGS floods
  nghttp2_option_set_max_settings(option, 32);
  if (role == Tunnel::Role::kServer) nghttp2_option_set_stream_reset_rate_limit(option, 1000, 33);  // rapid reset
  return SessionOptions(option);
}

}  // namespace zt::hbone
