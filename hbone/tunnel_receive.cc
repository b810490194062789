// Receiving half of Tunnel: records to frames to sinks, and whose credit goes back when.
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "hbone/tunnel.h"
#include "mesh/reason.h"

namespace zt::hbone {

void Tunnel::read_input() {
  BufferPool::Lease lease = io_.buffers.borrow();
  const size_t carried = partial_.size();
  if (carried > 0) std::memcpy(lease.data(), partial_.data(), carried);
  const size_t room = kWorkerBufferBytes - carried;
  ssize_t n;
  do {
    n = ::recv(fd_.get(), lease.data() + carried, room, 0);
  } while (n < 0 && errno == EINTR);
  const bool early = std::exchange(early_, false);
  // A tunnel that ends with streams on it is, to them, an other side that breaks off.
  const Reason closed_by_peer = role_ == Role::kClient ? Reason::kUpstreamReset : Reason::kDownstreamReset;
  if (n < 0) {
    if (errno != EAGAIN && errno != EWOULDBLOCK)
      return fail_tunnel(errno == ECONNRESET ? closed_by_peer : Reason::kPeerLost, "connection failed: " + errno_text(errno));
    if (!early) return;
    n = 0;  // nothing new, but what came with the handshake has not been looked at
  } else if (n == 0 && !early) {
    if (opener_.finished_cleanly())
      return fail_tunnel(stream_count_ == 0 ? Reason::kOk : closed_by_peer, "connection failed: peer closed the connection");
    return fail_tunnel(stream_count_ == 0 ? Reason::kOk : closed_by_peer, "connection failed: peer closed without close_notify");
  }
  last_received_ = io_.loop.now();
  const size_t filled = carried + static_cast<size_t>(n);
  io_.slices.clear();
  size_t used = 0;
  const bool ok = open_records(lease.data(), filled, used);
  if (closed_) return;
  deliver_touched();
  if (closed_ || !ok) return;
  if (used == filled) {
    if (carried > 0) std::vector<uint8_t>().swap(partial_);
  } else {
    partial_.assign(lease.data() + used, lease.data() + filled);
    partial_.shrink_to_fit();
  }
  // A full buffer: there is more, but the other connections come first. A short read of a stream socket means drained, unless
  // its end is known to follow: no other edge will tell.
  if (static_cast<size_t>(n) == room || early || hung_up_) read_again_ = true;
  if (read_again_ || nghttp2_session_want_write(session_) != 0 || opener_.key_update_due() ||
      opener_.should_request_key_update() || streams_changed_) {
    io_.loop.defer(*this);
  }
}

bool Tunnel::open_records(uint8_t* data, size_t size, size_t& used) {
  while (used < size) {
    auto opened = opener_.open(std::span(data + used, size - used));
    if (!opened) {
      if (const auto alert = opener_.alert_to_send(); alert && !out_blocked_) {
        out_ = out_ ? std::move(out_) : io_.buffers.borrow();
        if (const auto sealed =
                sealer_.seal_alert(std::span<uint8_t, kAlertRecord>(out_.data() + out_end_, kAlertRecord), *alert)) {
          out_end_ += *sealed;
          flush();
        }
      }
      fail_tunnel(opened.error().reason, "tls error: " + opened.error().text);
      return false;
    }
    used += opened->consumed;
    if (opened->kind == OpenedRecord::Kind::kIncomplete) return true;
    if (opened->kind == OpenedRecord::Kind::kClosed) {
      used = size;
      read_again_ = true;  // the end of the TCP stream follows
      return true;
    }
    if (opened->kind == OpenedRecord::Kind::kData && !opened->data.empty() &&
        !feed_session(opened->data.data(), opened->data.size())) {
      return false;
    }
  }
  return true;
}

bool Tunnel::feed_session(const uint8_t* data, size_t size) {
  in_session_ = true;
  const ssize_t rv = nghttp2_session_mem_recv(session_, data, size);
  in_session_ = false;
  if (rv >= 0) return true;
  deliver_touched();  // what came before the fault is good
  if (!closed_) {
    // Tells the peer (GOAWAY) as far as the socket takes it.
    close(Reason::kH2Failed, rv == NGHTTP2_ERR_FLOODED ? H2Error::kEnhanceYourCalm : H2Error::kProtocolError);
    closed_->text = std::string("h2 failed: ") + nghttp2_strerror(static_cast<int>(rv));
  }
  return false;
}

void Tunnel::touch(Stream& stream) {
  if (stream.touched_) return;
  stream.touched_ = true;
  stream.touched_next_ = nullptr;
  if (touched_tail_ == nullptr) {
    touched_head_ = &stream;
  } else {
    touched_tail_->touched_next_ = &stream;
  }
  touched_tail_ = &stream;
}

void Tunnel::deliver_touched() {
  while (touched_head_ != nullptr && !closed_) {
    Stream& stream = *touched_head_;
    touched_head_ = stream.touched_next_;
    if (touched_head_ == nullptr) touched_tail_ = nullptr;
    stream.touched_ = false;
    deliver(stream);
  }
}

// In order: headers, bytes, end, close. The handler may abandon the stream in any of these calls; it is freed here only.
void Tunnel::deliver(Stream& stream) {
  if (stream.delivering_) return;
  stream.delivering_ = true;
  if (stream.headers_complete_ && stream.headers_ != nullptr) {
    Headers headers = std::move(*stream.headers_);
    stream.headers_.reset();
    if (role_ == Role::kServer) {
      if (!stream.closed_) owner_.on_request(stream, std::move(headers));
    } else {
      stream.sending_ = true;
      if (stream.handler_ != nullptr) stream.handler_->on_response(std::move(headers));
    }
  }
  if (stream.slice_first_ >= 0 || stream.kept_ != nullptr) {
    const size_t taken = offer(stream);
    if (taken > 0 && !closed_) credit(stream, taken);
  }
  if (stream.kept_ == nullptr && stream.end_received_ && !stream.end_delivered_ && stream.handler_ != nullptr) {
    stream.end_delivered_ = true;
    stream.handler_->on_end_stream();
  }
  stream.delivering_ = false;
  if (closed_ || !stream.closed_ || stream.touched_) return;
  // A reset overtakes bytes that the sink has not taken; an orderly end waits for them.
  const bool orderly = stream.end_received_ && stream.end_sent_ && stream.close_code_ == H2Error::kNoError;
  if (orderly && stream.kept_ != nullptr && stream.handler_ != nullptr) return;
  StreamHandler* handler = std::exchange(stream.handler_, nullptr);
  const H2Error code = stream.close_code_;
  free_stream(stream);
  if (handler != nullptr) handler->on_closed(orderly ? Reason::kOk : Reason::kStreamReset, code);
}

// Offers kept bytes and this turn's slices to the sink; keeps what it does not take. Returns how much it took.
size_t Tunnel::offer(Stream& stream) {
  auto& iovecs = io_.iovecs;
  iovecs.clear();
  if (stream.kept_ != nullptr) stream.kept_->held.add_to(iovecs);
  const size_t kept_parts = iovecs.size();
  size_t received = 0;
  for (int32_t index = std::exchange(stream.slice_first_, -1); index >= 0;) {
    const auto& slice = io_.slices[static_cast<size_t>(index)];
    iovecs.push_back(slice.data);
    received += slice.data.iov_len;
    index = slice.next;
  }
  stream.slice_last_ = -1;
  // The connection's credit goes back on receipt: whoever is stalled must not hold up the others (contract A3.15).
  if (received > 0) nghttp2_session_consume_connection(session_, received);
  if (stream.handler_ == nullptr) return 0;
  const size_t taken = stream.handler_->on_data(iovecs);
  if (stream.handler_ == nullptr || closed_) return taken;  // abandoned meanwhile
  if (!keep(stream, std::span(iovecs).subspan(kept_parts), taken)) stream.lose(Reason::kResourceLimit, H2Error::kEnhanceYourCalm);
  return taken;
}

// `received`: this turn's slices. The sink took `taken` bytes of what was kept and, after it, of these.
bool Tunnel::keep(Stream& stream, std::span<const iovec> received, size_t taken) {
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
void Tunnel::credit(Stream& stream, size_t bytes) {
  if (stream.closed_) return;
  const uint32_t wanted = stream.window_.wanted(
      {.bytes = bytes, .lags = stream.kept_ != nullptr, .ended = stream.end_received_, .tight = account_.tight()},
      {.initial = config_.stream_window_initial, .max = config_.stream_window_max}, path_rtt_, fd_.get(), io_.loop.now());
  if (wanted < stream.window_.bytes()) set_window(stream, wanted);
  nghttp2_session_consume_stream(session_, stream.id_, bytes);
  if (wanted > stream.window_.bytes()) set_window(stream, wanted);
  if (nghttp2_session_want_write(session_) != 0) io_.loop.defer(*this);
}

void Tunnel::set_window(Stream& stream, uint32_t bytes) {
  if (nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, stream.id_, static_cast<int32_t>(bytes)) != 0) return;
  stream.window_.set(bytes);
  io_.loop.defer(*this);
}

}  // namespace zt::hbone
