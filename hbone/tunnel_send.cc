// Sending half of Tunnel: whose turn it is, filling record slots, one write a batch.
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "hbone/tunnel.h"
#include "mesh/reason.h"

namespace zt::hbone {

namespace {
constexpr size_t kMaxBatchBytes = kBatchRecords * kMaxPlaintext;
// Batches per turn before the other connections of this worker get theirs.
constexpr int kBatchesPerTurn = 2;
// What a stream that is not known to be bulk may fill at once: a small request needs one slot.
constexpr size_t kFirstPullBytes = 64 * 1024;
constexpr uint32_t kPullsToBeAlone = 8;
}  // namespace

void Tunnel::make_ready(Stream& stream) {
  stream.window_blocked_ = false;
  if (stream.ready_) return;
  stream.ready_ = true;
  stream.ready_next_ = nullptr;
  if (ready_tail_ == nullptr) {
    ready_head_ = &stream;
  } else {
    ready_tail_->ready_next_ = &stream;
  }
  ready_tail_ = &stream;
  io_.loop.defer(*this);
}

Stream* Tunnel::pop_ready() {
  Stream* stream = ready_head_;
  if (stream == nullptr) return nullptr;
  ready_head_ = stream->ready_next_;
  if (ready_head_ == nullptr) ready_tail_ = nullptr;
  stream->ready_next_ = nullptr;
  stream->ready_ = false;
  return stream;
}

void Tunnel::unblock_streams() {
  for (Stream* stream = all_; stream != nullptr; stream = stream->all_next_) {
    if (stream->window_blocked_) make_ready(*stream);
  }
}

void Tunnel::send_turn() {
  if (out_blocked_) return;
  for (int batch = 0; batch < kBatchesPerTurn; ++batch) {
    if (nghttp2_session_want_write(session_) == 0 && ready_head_ == nullptr && !opener_.key_update_due() &&
        !opener_.should_request_key_update())
      break;
    if (!out_) out_ = io_.buffers.borrow();
    out_begin_ = out_end_ = 0;
    if (!drain_session()) return;
    const bool ask_peer = opener_.should_request_key_update();
    if (ask_peer || opener_.key_update_due() || sealer_.needs_key_update()) {
      seal_control();
      const auto sealed =
          sealer_.seal_key_update(std::span<uint8_t, kKeyUpdateRecord>(out_.data() + out_end_, kKeyUpdateRecord), ask_peer);
      if (!sealed) return fail_tunnel(sealed.error().reason, sealed.error().text);
      out_end_ += *sealed;
      opener_.key_update_answered();
      if (ask_peer) opener_.key_update_requested();
    }
    // A session that has said GOAWAY for an error takes no more DATA.
    const bool ended = nghttp2_session_want_read(session_) == 0;
    while (!ended && ready_head_ != nullptr && out_end_ < batch_bytes_) {
      Stream& stream = *pop_ready();
      // Alone is who has been so for a while: among several that drain their sources at each visit, the queue is often empty,
      // and whoever then took a whole batch would get several times the others' share.
      pulls_in_a_row_ = stream.id() == last_pulled_ ? pulls_in_a_row_ + 1 : 0;
      last_pulled_ = stream.id();
      emit_data(stream, pulls_in_a_row_ >= kPullsToBeAlone ? kMaxBatchBytes : kFairQuantumBytes);
      if (closed_) return;
    }
    // Streams may have ended or been reset while they were pulled.
    if (!drain_session()) return;
    seal_control();
    if (out_end_ == 0) break;
    const size_t batch_size = out_end_;
    if (!flush()) {
      batch_bytes_ = std::max(kMinBatchBytes, batch_bytes_ / 2);
      return;
    }
    if (batch_size >= batch_bytes_) batch_bytes_ = std::min(kMaxBatchBytes, batch_bytes_ * 2);
  }
  out_.release();
  out_begin_ = out_end_ = 0;
  if (ready_head_ != nullptr || nghttp2_session_want_write(session_) != 0) io_.loop.defer(*this);
  if (nghttp2_session_want_read(session_) == 0 && nghttp2_session_want_write(session_) == 0) end_with_session();
}

// The last GOAWAY is out: the peer's mistake, or the end that was agreed on.
void Tunnel::end_with_session() {
  if (session_error_.empty()) return close(Reason::kOk);
  const std::string text = "h2 failed: " + session_error_;
  close(Reason::kH2Failed, H2Error::kProtocolError);
  if (closed_) closed_->text = text;
}

void Tunnel::emit_data(Stream& stream, size_t quantum) {
  if (stream.closed_ || stream.handler_ == nullptr || stream.end_sent_ || !stream.sending_) return;
  // Never pull what may not be sent: pulled bytes have nowhere to wait.
  const auto session_credit = std::max(0, nghttp2_session_get_remote_window_size(session_));
  const auto stream_credit = std::max(0, nghttp2_session_get_stream_remote_window_size(session_, stream.id_));
  const auto credit = static_cast<size_t>(std::min(session_credit, stream_credit));
  if (credit == 0) {
    stream.window_blocked_ = true;
    return;
  }
  seal_control();
  const size_t peer_frame = nghttp2_session_get_remote_settings(session_, NGHTTP2_SETTINGS_MAX_FRAME_SIZE);
  const size_t room = (kBatchRecords * kMaxPlaintext) - std::min(kBatchRecords * kMaxPlaintext, out_end_);
  size_t budget = std::min({credit, quantum, std::max(room, kMaxPlaintext), kMaxOurFrameBytes});
  if (!stream.bulk_) budget = std::min(budget, kFirstPullBytes);
  // One frame over many records where the peer takes large frames: a receiver pays per frame. Else a frame a record.
  const size_t frame = peer_frame > kMaxPlaintext ? std::min(peer_frame, budget) : std::min(budget, kMaxPlaintext - kFrameHeader);
  const bool frame_per_record = peer_frame <= kMaxPlaintext;
  budget = frame_per_record ? budget : frame;

  std::array<iovec, kBatchRecords + 1> slots;
  size_t count = 0;
  size_t offered = 0;
  for (uint8_t* record = out_.data() + out_end_; offered < budget && count < slots.size(); record += kRecordSlotBytes) {
    const size_t gap = frame_per_record || count == 0 ? kFrameHeader : 0;
    const size_t size = std::min(kMaxPlaintext - gap, budget - offered);
    slots[count++] = {record + kRecordHeader + gap, size};
    offered += size;
  }

  const PullResult pulled = stream.handler_->pull(std::span(slots.data(), count));
  if (pulled.state == PullResult::State::kReset) {
    stream.sending_ = false;
    nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream.id_, static_cast<uint32_t>(H2Error::kConnectError));
    return;
  }
  const bool end = pulled.state == PullResult::State::kEnd;
  stream.bulk_ = pulled.bytes >= std::min(offered, kFirstPullBytes);
  size_t left = pulled.bytes;
  size_t slot = 0;
  do {
    const size_t bytes = frame_per_record ? std::min(left, slots[slot].iov_len) : left;
    data_ = {.stream = &stream, .bytes = bytes, .end = end && bytes == left, .sent = false, .slots = std::span(&slots[slot], 1)};
    if (bytes == 0 && !data_.end) break;
    left -= bytes;
    ++slot;
    if (data_.end) stream.end_sent_ = true;
    nghttp2_session_resume_data(session_, stream.id_);
    const bool ok = drain_session();
    const bool sent = data_.sent;
    data_.stream = nullptr;
    if (!ok) return;
    if (!sent) {
      if (nghttp2_session_want_read(session_) == 0) break;  // it has ended: its GOAWAY goes out instead
      // The session did not take what its own window allowed: its state and ours differ, and the bytes have left their source.
      return fail_tunnel(Reason::kInternal, "h2 failed: the session refused a frame within its window");
    }
  } while (left > 0);
  // Not before all frames of the pull are sealed: until then the places behind the first hold the payload of the next.
  if (!late_control_.empty()) {
    const auto late = std::exchange(late_control_, {});
    if (!append_control(late.data(), late.size())) return fail_tunnel(Reason::kInternal, "h2 failed: control frames do not fit");
  }
  if (pulled.state == PullResult::State::kMore) make_ready(stream);
}

bool Tunnel::append_control(const uint8_t* data, size_t size) {
  if (data_.stream != nullptr && data_.bytes > 0) {
    // The place after out_end_ belongs to the DATA frame's slots just now.
    late_control_.insert(late_control_.end(), data, data + size);
    return true;
  }
  while (size > 0) {
    if (control_bytes_ == kMaxPlaintext) seal_control();
    if (out_end_ + kRecordSlotBytes > kWorkerBufferBytes) return false;
    const size_t take = std::min(size, kMaxPlaintext - control_bytes_);
    std::memcpy(out_.data() + out_end_ + kRecordHeader + control_bytes_, data, take);
    control_bytes_ += take;
    data += take;
    size -= take;
  }
  return true;
}

void Tunnel::seal_control() {
  if (control_bytes_ == 0) return;
  const auto sealed =
      sealer_.seal_in_place(out_.data() + out_end_, std::exchange(control_bytes_, 0), ContentType::kApplicationData);
  if (!sealed) return fail_tunnel(sealed.error().reason, sealed.error().text);
  out_end_ += *sealed;
}

bool Tunnel::drain_session() {
  in_session_ = true;
  const int rv = nghttp2_session_send(session_);
  in_session_ = false;
  if (rv == 0 && !closed_) return true;
  if (!closed_) fail_tunnel(Reason::kH2Failed, std::string("h2 failed: ") + nghttp2_strerror(rv));
  return false;
}

bool Tunnel::flush() {
  while (out_begin_ < out_end_) {
    const ssize_t n = ::send(fd_.get(), out_.data() + out_begin_, out_end_ - out_begin_, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) {
        out_blocked_ = true;
        return false;
      }
      const bool broken_off = errno == EPIPE || errno == ECONNRESET;
      const Reason other_side = role_ == Role::kClient ? Reason::kUpstreamReset : Reason::kDownstreamReset;
      fail_tunnel(broken_off ? other_side : Reason::kPeerLost, "connection failed: " + errno_text(errno));
      return false;
    }
    out_begin_ += static_cast<size_t>(n);
  }
  out_begin_ = out_end_ = 0;
  out_.release();
  return true;
}

}  // namespace zt::hbone
