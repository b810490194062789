// Sending half of Session: whose turn it is, filling record slots, one write a batch.
#include <algorithm>
#include <array>
#include <cassert>
#include <utility>

#include "hbone/session.h"
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

void Session::make_ready(Stream& stream) {
  stream.window_blocked_ = false;
  if (stream.ready_hook_.is_linked()) return;
  ready_.push_back(stream);
  wake();
}

void Session::unblock_streams() {
  for (Stream& stream : all_) {
    if (stream.window_blocked_) make_ready(stream);
  }
}

void Session::send_turn() {
  if (link_.blocked()) return;
  for (int batch = 0; batch < kBatchesPerTurn; ++batch) {
    if ((!wants_to_send() && !link_.key_update_due()) || (batch > 0 && io_.loop.overdue())) break;
    link_.open_batch();
    const bool sent = send_batch();
    link_.close_batch();
    if (tunnel_over() || link_.blocked()) return;
    if (!sent) break;
  }
  if (wants_to_send()) wake();
  // The last GOAWAY is out: the peer's mistake, or the end that was agreed on.
  if (ended() && !wants_control()) tunnel_.end_with_session();
}

// False: nothing to send, blocked, or over.
bool Session::send_batch() {
  const Drained drained = drain();
  if (drained == Drained::kOver) return false;
  if (auto sealed = link_.seal_key_update(); !sealed) return give_up(sealed.error());
  if (drained == Drained::kAll) {
    emit_ready();
    if (tunnel_over()) return false;
    // Streams may have ended or been reset while they were pulled.
    if (drain() == Drained::kOver) return false;
  }
  if (auto sealed = link_.seal_control(); !sealed) return give_up(sealed.error());
  const size_t size = link_.batched();
  if (size == 0) return false;
  if (!link_.flush()) {
    batch_bytes_ = std::max(kMinBatchBytes, batch_bytes_ / 2);
    return false;
  }
  if (size >= batch_bytes_) batch_bytes_ = std::min(kMaxBatchBytes, batch_bytes_ * 2);
  return true;
}

bool Session::give_up(const Error& why) {
  tunnel_.fail(why.reason, why.text);
  return false;
}

bool Session::drain_control() {
  link_.open_batch();
  bool over = drain() == Drained::kOver;
  if (!over) {
    if (auto sealed = link_.seal_control(); !sealed) {
      over = !give_up(sealed.error());
    } else {
      link_.flush();
    }
  }
  link_.close_batch();
  return !over && !tunnel_over();
}

void Session::drain_last() {
  if (drain() == Drained::kOver || !link_.seal_control() || !link_.seal_close_notify()) return;
  link_.flush();
}

void Session::emit_ready() {
  const size_t enough = std::min(batch_bytes_, io_.loop.share(kMaxBatchBytes, kMinBatchBytes));
  // A session that has said GOAWAY for an error takes no more DATA.
  while (!ready_.empty() && link_.batched() < enough && !ended()) {
    Stream& stream = ready_.front();
    ready_.pop_front();
    // Alone is who has been so for a while: among several that drain their sources at each visit, the queue is often empty,
    // and whoever then took a whole batch would get several times the others' share.
    pulls_in_a_row_ = stream.id() == last_pulled_ ? pulls_in_a_row_ + 1 : 0;
    last_pulled_ = stream.id();
    emit_data(stream, pulls_in_a_row_ >= kPullsToBeAlone ? kMaxBatchBytes : kFairQuantumBytes);
    if (tunnel_over()) return;
    if (!late_control_.empty() && drain() != Drained::kAll) return;
  }
}

void Session::emit_data(Stream& stream, size_t quantum) {
  if (stream.closed_ || stream.handler_ == nullptr || stream.end_sent_ || !stream.sending_) return;
  // Never pull what may not be sent: pulled bytes have nowhere to wait.
  const auto session_credit = std::max(0, nghttp2_session_get_remote_window_size(session_));
  const auto stream_credit = std::max(0, nghttp2_session_get_stream_remote_window_size(session_, stream.id_));
  const auto credit = static_cast<size_t>(std::min(session_credit, stream_credit));
  if (credit == 0) {
    stream.window_blocked_ = true;
    return;
  }
  if (auto sealed = link_.seal_control(); !sealed) return tunnel_.fail(sealed.error().reason, sealed.error().text);
  const size_t peer_frame = nghttp2_session_get_remote_settings(session_, NGHTTP2_SETTINGS_MAX_FRAME_SIZE);
  const size_t room = kMaxBatchBytes - std::min(kMaxBatchBytes, link_.batched());
  size_t budget = std::min({credit, quantum, std::max(room, kMaxPlaintext), kMaxOurFrameBytes});
  if (!stream.bulk_) budget = std::min(budget, kFirstPullBytes);
  // One frame over many records where the peer takes large frames: a receiver pays per frame. Else a frame a record.
  const bool frame_per_record = peer_frame <= kMaxPlaintext;
  if (!frame_per_record) budget = std::min(peer_frame, budget);

  // Filled as far as it is used; a hardened build would set all of it to zero first, for each pull.
  [[clang::uninitialized]] std::array<iovec, kBatchRecords + 1> slots;
  size_t count = 0;
  size_t offered = 0;
  for (uint8_t* record = link_.next_record(); offered < budget && count < slots.size(); record += kRecordSlotBytes) {
    const size_t gap = frame_per_record || count == 0 ? kFrameHeader : 0;
    const size_t size = std::min(kMaxPlaintext - gap, budget - offered);
    slots[count++] = {record + kRecordHeader + gap, size};
    offered += size;
  }

  PullResult pulled;
  {
    const CallScope scope(*this);
    pulled = stream.handler_->pull(std::span(slots.data(), count));
  }
  if (tunnel_over() || stream.handler_ == nullptr) return;  // closed or abandoned meanwhile: nobody waits for these bytes
  if (pulled.state == PullResult::State::kReset) {
    stream.sending_ = false;
    stream.reset_by_us_ = true;
    nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream.id_, static_cast<uint32_t>(H2Error::kConnectError));
    return;
  }
  const bool end = pulled.state == PullResult::State::kEnd;
  stream.bulk_ = pulled.bytes >= std::min(offered, kFirstPullBytes);
  size_t left = pulled.bytes;
  size_t slot = 0;
  uint32_t frames = 0;
  do {
    const size_t bytes = frame_per_record ? std::min(left, slots[slot].iov_len) : left;
    data_ = {.stream = &stream,
             .bytes = bytes,
             .end = end && bytes == left,
             .sent = false,
             .payload = static_cast<uint8_t*>(slots[slot].iov_base)};
    if (bytes == 0 && !data_.end) break;
    left -= bytes;
    ++slot;
    ++frames;
    if (data_.end) stream.end_sent_ = true;
    nghttp2_session_resume_data(session_, stream.id_);
    const bool over = drain() == Drained::kOver;
    const bool sent = data_.sent;
    data_.stream = nullptr;
    if (over) return;
    if (!sent) {
      if (ended()) break;  // its GOAWAY goes out instead
      // The session did not take what its own window allowed: its state and ours differ, and the bytes have left their source.
      return tunnel_.fail(Reason::kInternal, "h2 failed: the session refused a frame within its window");
    }
  } while (left > 0);
  if (pulled.bytes > 0) guard_.moved(frames, pulled.bytes);
  if (pulled.state == PullResult::State::kMore && !stream.closed_) make_ready(stream);
}

// What nghttp2 has to send but DATA, whose payload is in its place already.
size_t Session::append_control(std::span<const uint8_t> bytes) {
  if (aside_ != nullptr) {
    aside_->insert(aside_->end(), bytes.begin(), bytes.end());
    return bytes.size();
  }
  if (data_.stream != nullptr && data_.bytes > 0) {
    // The places behind belong to the payload of this pull until its last frame is sealed.
    late_control_.insert(late_control_.end(), bytes.begin(), bytes.end());
    return bytes.size();
  }
  const size_t taken = link_.append_control(bytes);
  batch_full_ = taken < bytes.size();
  return taken;
}

Session::Drained Session::drain() {
  batch_full_ = false;
  if (!late_control_.empty() && data_.stream == nullptr) {
    const size_t taken = link_.append_control(late_control_);
    late_control_.erase(late_control_.begin(), late_control_.begin() + static_cast<ptrdiff_t>(taken));
    if (!late_control_.empty()) return Drained::kBatchFull;
    std::vector<uint8_t>().swap(late_control_);
  }
  inside_ = true;
  const int rv = nghttp2_session_send(session_);
  inside_ = false;
  if (rv != 0) tunnel_.fail(Reason::kH2Failed, std::string("h2 failed: ") + nghttp2_strerror(rv));
  if (tunnel_over()) return Drained::kOver;
  return batch_full_ ? Drained::kBatchFull : Drained::kAll;
}

}  // namespace zt::hbone
