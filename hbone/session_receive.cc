// Receiving half of Session: frames to streams to sinks, and whose credit goes back when.
#include <algorithm>
#include <cassert>
#include <utility>

#include "hbone/session.h"
#include "hbone/tunnel.h"
#include "mesh/reason.h"

namespace zt::hbone {

bool Session::feed(ReceiveTurn& turn, std::span<const uint8_t> content) {
  FrameTally tally;
  for (;;) {
    const auto piece = cursor_.next(content, tally);
    if (piece.empty()) break;
    turn_ = &turn;
    inside_ = true;
    const ssize_t rv = nghttp2_session_mem_recv(session_, piece.data(), piece.size());
    inside_ = false;
    turn_ = nullptr;
    if (rv < 0) {
      deliver_touched(&turn);  // what came before the fault is good
      // NGHTTP2_ERR_FLOODED and, where there is one, ..._TOO_MANY_CONTINUATIONS: the last ones.
      const bool flood = rv <= NGHTTP2_ERR_FLOODED;
      tunnel_.close_for(flood ? H2Error::kEnhanceYourCalm : H2Error::kProtocolError,
                        (flood ? "the peer sends too many frames: " : "") + std::string(nghttp2_strerror(static_cast<int>(rv))));
      return false;
    }
  }
  if (!guard_.received(tally, io_.loop.now()) && flooded_ == nullptr) flooded_ = "frames that move nothing";
  return make_room() && !close_flooded(&turn);
}

bool Session::close_flooded(ReceiveTurn* turn) {
  if (flooded_ == nullptr || tunnel_over()) return false;
  deliver_touched(turn);
  tunnel_.close_for(H2Error::kEnhanceYourCalm, std::string("the peer sends too many ") + flooded_);
  return true;
}

// What the peer makes us say is said before more of what it sends is looked at: one that does not read has its connection closed.
bool Session::make_room() {
  for (size_t queued = nghttp2_session_get_outbound_queue_size(session_); queued > kMaxQueuedFrames;) {
    if (link_.blocked()) {
      flooded_ = "frames whose answers it does not read";
      return true;
    }
    if (!drain_control()) return false;
    const size_t left = nghttp2_session_get_outbound_queue_size(session_);
    if (left >= queued && !link_.blocked()) break;  // requests that wait for the peer's limit
    queued = left;
  }
  return true;
}

size_t Session::held_bytes() const {
  const size_t queued = link_.blocked() ? nghttp2_session_get_outbound_queue_size(session_) * kQueuedFrameBytes : 0;
  return cursor_.held() + arriving_headers_ + late_control_.size() + queued;
}

void Session::touch(Stream& stream) {
  if (!stream.touched_hook_.is_linked()) touched_.push_back(stream);
}

void Session::deliver_touched(ReceiveTurn* turn) {
  while (!touched_.empty() && !tunnel_over()) {
    Stream& stream = touched_.front();
    touched_.pop_front();
    deliver(stream, turn);
  }
}

// In order: headers, bytes, end, close. The handler may abandon the stream in any of these calls; it is freed here only.
void Session::deliver(Stream& stream, ReceiveTurn* turn) {
  assert(!inside_);
  if (stream.delivering_) return;
  const CallScope scope(*this);
  stream.delivering_ = true;
  if (stream.headers_complete_ && stream.headers_ != nullptr) {
    Headers headers = std::move(*stream.headers_);
    stream.headers_.reset();
    if (role_ == TunnelRole::kServer) {
      if (!stream.closed_) tunnel_.request(stream, std::move(headers));
    } else {
      stream.sending_ = true;
      if (stream.handler_ != nullptr) stream.handler_->on_response(std::move(headers));
    }
  }
  if (stream.kept_ != nullptr || (turn != nullptr && turn->has(stream.mark_))) {
    const size_t taken = offer(stream, turn);
    if (taken > 0 && !tunnel_over()) credit(stream, taken);
  }
  if (stream.kept_ == nullptr && stream.end_received_ && !stream.end_delivered_ && stream.handler_ != nullptr) {
    stream.end_delivered_ = true;
    stream.handler_->on_end_stream();
  }
  stream.delivering_ = false;
  if (stream.handler_ == nullptr) stream.kept_.reset();
  if (tunnel_over() || !stream.closed_ || stream.touched_hook_.is_linked()) return;
  // A reset overtakes bytes that the sink has not taken; what was received whole waits for it.
  const bool orderly = stream.end_received_ && stream.end_sent_ && stream.close_code_ == H2Error::kNoError;
  const Reason reason = orderly ? Reason::kOk : Reason::kStreamReset;
  if (stream.end_received_ && stream.close_code_ == H2Error::kNoError && stream.kept_ != nullptr) {
    detach(stream, reason);
    return wake();
  }
  StreamHandler* handler = std::exchange(stream.handler_, nullptr);
  const H2Error code = stream.close_code_;
  free_stream(stream);
  wake();
  if (handler != nullptr) handler->on_closed(reason, code);
}

// Offers kept bytes and this turn's slices to the sink; keeps what it does not take. Returns how much it took.
size_t Session::offer(Stream& stream, ReceiveTurn* turn) {
  std::vector<iovec> parts = std::exchange(io_.spare_parts, {});
  parts.clear();
  if (stream.kept_ != nullptr) stream.kept_->held.add_to(parts);
  const size_t kept_parts = parts.size();
  const size_t received = turn != nullptr ? turn->take(stream.mark_, parts) : 0;
  // The connection's credit goes back on receipt: whoever is stalled must not hold up the others (contract A3.15).
  if (received > 0) nghttp2_session_consume_connection(session_, received);
  size_t taken = 0;
  if (stream.handler_ != nullptr && !parts.empty()) {
    taken = stream.handler_->on_data(parts);
    if (stream.handler_ != nullptr && !keep(stream, std::span(parts).subspan(kept_parts), taken)) {
      stream.lose(Reason::kResourceLimit, H2Error::kEnhanceYourCalm);
    }
  }
  io_.spare_parts = std::move(parts);
  return taken;
}

// `received`: this turn's slices. The sink took `taken` bytes of what was kept and, after it, of these.
bool Session::keep(Stream& stream, std::span<const iovec> received, size_t taken) {
  const size_t kept = stream.kept_ != nullptr ? stream.kept_->held.size() : 0;
  size_t rest = kept;
  for (const iovec& part : received) rest += part.iov_len;
  if (taken >= rest) {
    stream.kept_.reset();
    return true;
  }
  if (stream.kept_ == nullptr) stream.kept_ = std::make_unique<Stream::Kept>(stream, account_);
  KeptBytes& held = stream.kept_->held;
  held.take(std::min(taken, kept));
  size_t skip = taken - std::min(taken, kept);
  for (const iovec& part : received) {
    const size_t drop = std::min(skip, part.iov_len);
    skip -= drop;
    held.append(static_cast<const uint8_t*>(part.iov_base) + drop, part.iov_len - drop, stream.window_.bytes());
  }
  return account_.update(*stream.kept_, held.allocated(), taken > 0);
}

// Gives back the stream's credit for what its sink took, in a window as large as it deserves now.
void Session::credit(Stream& stream, size_t bytes) {
  if (stream.closed_ || stream.window_.withhold(bytes)) return;
  const uint32_t wanted = stream.window_.wanted(
      {.bytes = bytes, .lags = stream.kept_ != nullptr, .ended = stream.end_received_, .tight = account_.tight()},
      {.initial = announced_.stream_window, .max = config_.stream_window_max}, path_rtt_, link_.socket(), io_.loop.now());
  if (wanted < stream.window_.bytes()) set_window(stream, wanted);
  nghttp2_session_consume_stream(session_, stream.id_, bytes);
  if (wanted > stream.window_.bytes()) set_window(stream, wanted);
  if (nghttp2_session_want_write(session_) != 0) wake();
}

void Stream::sink_goes_on() {
  const uint32_t withheld = window_.go_on();
  if (session_ == nullptr || closed_ || session_->tunnel_over()) return;
  session_->set_window(*this, session_->announced_.stream_window);
  nghttp2_session_consume_stream(session_->session_, id_, withheld);
  session_->wake();
}

void Session::set_window(Stream& stream, uint32_t bytes) {
  if (!stream.window_.promise(bytes)) return;
  if (nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, stream.id_, static_cast<int32_t>(bytes)) != 0) return;
  stream.window_.set(bytes);
  wake();
}

}  // namespace zt::hbone
