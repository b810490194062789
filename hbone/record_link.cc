#include "hbone/record_link.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>

#include "mesh/reason.h"

namespace zt::hbone {

namespace {
// Of each batch, for records that must find room behind control frames.
constexpr size_t kReserve = kKeyUpdateRecord + kAlertRecord;
// What one of many that are ready may read or send in a turn, at least.
constexpr size_t kLeastShare = 64 * 1024;
}  // namespace

RecordLink::RecordLink(WorkerIo& io, MemoryBudget& account, std::unique_ptr<Transport> transport, RecordSealer sealer,
                       RecordOpener opener, std::vector<uint8_t> early, std::chrono::milliseconds send_timeout, Reason broken_off,
                       RecordLinkUser& user)
    : io_(io),
      account_(account),
      user_(user),
      transport_(std::move(transport)),
      sealer_(std::move(sealer)),
      opener_(std::move(opener)),
      held_(*this, account),
      partial_(std::move(early)),
      early_(!partial_.empty()),
      read_again_(early_),
      blocked_timer_(io.loop),
      send_timeout_(send_timeout),
      broken_off_(broken_off) {}

Reason RecordLink::lost(int error) const { return error == EPIPE || error == ECONNRESET ? broken_off_ : Reason::kPeerLost; }

void RecordLink::close() {
  transport_.reset();
  blocked_timer_.cancel();
  blocked_ = read_again_ = early_ = false;
  std::vector<uint8_t>().swap(partial_);
  std::vector<uint8_t>().swap(unsent_);
  held_.release();
  if (!in_batch_) out_.release();
}

Result<RecordLink::Input> RecordLink::read(ReceiveTurn& turn) {
  const size_t carried = partial_.size();
  if (carried > 0) std::memcpy(turn.data(), partial_.data(), carried);
  turn.filled = carried;
  const size_t room = std::min(ReceiveTurn::capacity() - carried, io_.loop.share(ReceiveTurn::capacity(), kLeastShare));
  const Transfer got = transport_->read({turn.data() + carried, room});
  const bool early = std::exchange(early_, false);
  if (got.state == Transfer::State::kFailed) return fail(lost(got.error), "connection failed: " + errno_text(got.error));
  // Nothing new, but what came with the handshake has not been looked at.
  if (got.state == Transfer::State::kBlocked && !early) return Input::kNothing;
  if (got.state == Transfer::State::kEnded && !early) return Input::kEnded;
  turn.filled += got.bytes;
  // A full buffer: there is more, but the other connections come first. A short read of a byte stream means drained, unless its end
  // is known to follow: no other edge will tell.
  if (got.bytes == room || early || ending_ || got.ending) read_again_ = true;
  return Input::kRecords;
}

Result<std::optional<std::span<const uint8_t>>> RecordLink::open(ReceiveTurn& turn) {
  using Content = std::optional<std::span<const uint8_t>>;
  if (turn.opened >= turn.filled) return Content();
  auto opened = opener_.open(std::span(turn.data() + turn.opened, turn.filled - turn.opened));
  if (!opened) return fail(opened.error().reason, "tls error: " + opened.error().text);
  turn.opened += opened->consumed;
  switch (opened->kind) {
    case OpenedRecord::Kind::kIncomplete: return Content();
    case OpenedRecord::Kind::kClosed:
      turn.opened = turn.filled;
      read_again_ = true;  // the end of the transport follows
      return Content();
    case OpenedRecord::Kind::kData: return Content(opened->data);
    case OpenedRecord::Kind::kControl: break;
  }
  return Content(std::span<const uint8_t>());
}

void RecordLink::alert() {
  const auto what = opener_.alert_to_send();
  if (!what || blocked_) return;
  const bool own = !in_batch_;
  if (own) open_batch();
  if (const auto sealed = sealer_.seal_alert(std::span<uint8_t, kAlertRecord>(next_record(), kAlertRecord), *what)) {
    out_end_ += *sealed;
    flush();
  }
  if (own) close_batch();
}

bool RecordLink::keep_rest(ReceiveTurn& turn, size_t more) {
  if (turn.opened < turn.filled) {
    partial_.assign(turn.data() + turn.opened, turn.data() + turn.filled);
    partial_.shrink_to_fit();
  } else if (!partial_.empty()) {
    std::vector<uint8_t>().swap(partial_);
  }
  return charge(more);
}

bool RecordLink::charge(size_t more) {
  held_elsewhere_ = more;
  const size_t bytes = partial_.size() + unsent_.size() + more;
  if (bytes == held_.bytes()) return true;
  if (bytes > 0) return account_.update(held_, bytes, true);
  held_.release();
  return true;
}

void RecordLink::open_batch() {
  assert(!blocked_ && !in_batch_);
  in_batch_ = true;
  if (!out_) out_ = io_.buffers.borrow();
  out_begin_ = out_end_ = control_bytes_ = 0;
}

void RecordLink::close_batch() {
  in_batch_ = false;
  control_bytes_ = 0;
  if (blocked_ && out_begin_ < out_end_) return;
  out_.release();
  out_begin_ = out_end_ = 0;
}

Result<> RecordLink::seal(size_t content) {
  const auto sealed = sealer_.seal_in_place(next_record(), content, ContentType::kApplicationData);
  if (!sealed) return std::unexpected(sealed.error());
  out_end_ += *sealed;
  return {};
}

size_t RecordLink::append_control(std::span<const uint8_t> bytes) {
  size_t taken = 0;
  while (taken < bytes.size()) {
    if (control_bytes_ == kMaxPlaintext && !seal_control()) break;
    if (out_end_ + kRecordSlotBytes + kReserve > kWorkerBufferBytes) break;
    const size_t part = std::min(bytes.size() - taken, kMaxPlaintext - control_bytes_);
    std::memcpy(next_record() + kRecordHeader + control_bytes_, bytes.data() + taken, part);
    control_bytes_ += part;
    taken += part;
  }
  return taken;
}

Result<> RecordLink::seal_control() {
  if (control_bytes_ == 0) return {};
  return seal(std::exchange(control_bytes_, 0));
}

Result<> RecordLink::seal_close_notify() {
  const auto sealed = sealer_.seal_close_notify(std::span<uint8_t, kAlertRecord>(next_record(), kAlertRecord));
  if (!sealed) return std::unexpected(sealed.error());
  out_end_ += *sealed;
  return {};
}

Result<> RecordLink::seal_key_update() {
  const bool ask_peer = opener_.should_request_key_update();
  if (!ask_peer && !opener_.key_update_due() && !sealer_.needs_key_update()) return {};
  ZT_TRY(seal_control());
  const auto sealed = sealer_.seal_key_update(std::span<uint8_t, kKeyUpdateRecord>(next_record(), kKeyUpdateRecord), ask_peer);
  if (!sealed) return std::unexpected(sealed.error());
  out_end_ += *sealed;
  opener_.key_update_answered();
  if (ask_peer) opener_.key_update_requested();
  return {};
}

// Writes [begin, end) of `data` and moves `begin`. False: blocked, or lost and closed.
bool RecordLink::write(const uint8_t* data, size_t& begin, size_t end) {
  while (begin < end) {
    const Transfer wrote = transport_->write({data + begin, end - begin});
    if (wrote.state == Transfer::State::kDone) {
      begin += wrote.bytes;
      last_taken_ = io_.loop.now();
      continue;
    }
    if (wrote.state == Transfer::State::kBlocked) {
      blocked_ = true;
      if (!blocked_timer_.armed()) last_taken_ = io_.loop.now();
      return false;
    }
    user_.on_link_lost(lost(wrote.error), "connection failed: " + errno_text(wrote.error));
    return false;
  }
  return true;
}

bool RecordLink::flush() {
  if (write(out_.data(), out_begin_, out_end_)) {
    out_begin_ = out_end_ = 0;
    return true;
  }
  if (!blocked_) return false;
  // Most sockets take the rest within a moment, from where it is. Those that do not keep no buffer of the worker's.
  if (io_.buffers.lent() > kLentToBlocked) {
    settle();
  } else if (!blocked_timer_.armed()) {
    blocked_timer_.start_after(std::min<Clock::duration>(kSettleAfter, send_timeout_), [this] { on_blocked_timer(); });
  }
  return false;
}

bool RecordLink::on_writable() {
  if (!blocked_) return false;
  blocked_ = false;
  if (!unsent_.empty()) {
    const size_t before = unsent_begin_;
    const bool all = write(unsent_.data(), unsent_begin_, unsent_.size());
    if (transport_ == nullptr) return false;
    if (!all) {
      if (unsent_begin_ > before) {
        unsent_ = std::vector<uint8_t>(unsent_.begin() + static_cast<ptrdiff_t>(unsent_begin_), unsent_.end());
        unsent_begin_ = 0;
        if (!charge(held_elsewhere_)) user_.on_link_lost(Reason::kResourceLimit, "memory is short");
      }
      return false;
    }
    std::vector<uint8_t>().swap(unsent_);
    unsent_begin_ = 0;
    if (!charge(held_elsewhere_)) return false;  // it only fell
  } else if (out_end_ > out_begin_ && !flush()) {
    return false;
  }
  blocked_timer_.cancel();
  if (!in_batch_) out_.release();
  return true;
}

// The rest of a batch that the transport does not take, in memory of its own size.
void RecordLink::keep_unsent() {
  if (out_begin_ < out_end_) {
    unsent_.assign(out_.data() + out_begin_, out_.data() + out_end_);
    unsent_.shrink_to_fit();
    unsent_begin_ = 0;
  }
  out_begin_ = out_end_ = 0;
  if (!in_batch_) out_.release();
}

void RecordLink::settle() {
  keep_unsent();
  blocked_timer_.start(std::max(last_taken_ + send_timeout_, io_.loop.now()), [this] { on_blocked_timer(); });
  if (!charge(held_elsewhere_)) user_.on_link_lost(Reason::kResourceLimit, "memory is short");
}

void RecordLink::on_blocked_timer() {
  if (!blocked_) return;
  if (io_.loop.now() >= last_taken_ + send_timeout_) {
    user_.on_link_lost(Reason::kSendTimeout,
                       "connection failed: the peer took nothing for " + std::to_string(send_timeout_.count()) + " ms");
    return;
  }
  settle();
}

}  // namespace zt::hbone
