#include "hbone/stream_transport.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace zt::hbone {

StreamTransport::~StreamTransport() {
  if (stream_ != nullptr) stream_->abandon(H2Error::kCancel);
}

void StreamTransport::use(Stream& stream) {
  stream_ = &stream;
  stream.set_handler(this);
}

void StreamTransport::send(std::span<const uint8_t> bytes) {
  if (stream_ == nullptr) return;
  queued_.insert(queued_.end(), bytes.begin(), bytes.end());
  stream_->readable();
}

std::vector<uint8_t> StreamTransport::take() {
  auto bytes = std::move(kept_);
  kept_.clear();
  if (bytes.size() == kMostKept && stream_ != nullptr) stream_->resume_delivery();
  return bytes;
}

Task<bool> StreamTransport::changed(EventLoop& loop, Clock::duration limit) {
  // Held here: it is replaced, and this may be destroyed, by whoever sets it.
  const std::shared_ptr<Event> change = change_;
  const bool in_time = co_await change->wait(loop, limit);
  if (in_time && change == change_) change_ = std::make_shared<Event>();
  co_return in_time;
}

void StreamTransport::wake() {
  const std::shared_ptr<Event> change = change_;
  change->set();
}

Result<> StreamTransport::attach(TransportUser& user) {
  user_ = &user;
  return {};
}

Transfer StreamTransport::read(std::span<uint8_t> room) {
  moved_ = 0;
  if (!incoming_.empty()) {
    copy_in(room);
  } else if (stream_ != nullptr && !ended_) {
    room_ = room;
    stream_->resume_delivery();  // on_data() fills it
    room_ = {};
  }
  if (moved_ > 0) return {.state = Transfer::State::kDone, .bytes = moved_, .error = 0, .ending = ended_};
  if (ended_ || stream_ == nullptr) return {.state = Transfer::State::kEnded};
  return {};
}

Transfer StreamTransport::write(std::span<const uint8_t> bytes) {
  if (stream_ == nullptr) return {.state = Transfer::State::kFailed, .error = ECONNRESET};
  size_t moved = 0;
  for (iovec& slot : slots_) {
    const size_t part = std::min(slot.iov_len, bytes.size() - moved);
    std::memcpy(slot.iov_base, bytes.data() + moved, part);
    slot = {static_cast<uint8_t*>(slot.iov_base) + part, slot.iov_len - part};
    moved += part;
  }
  pulled_ += moved;
  if (moved > 0) return {.state = Transfer::State::kDone, .bytes = moved};
  wanted_ = true;
  stream_->readable();
  return {};
}

void StreamTransport::copy_in(std::span<uint8_t> room) {
  for (iovec& part : incoming_) {
    const size_t n = std::min(part.iov_len, room.size() - moved_);
    if (n > 0) std::memcpy(room.data() + moved_, part.iov_base, n);
    part = {static_cast<uint8_t*>(part.iov_base) + n, part.iov_len - n};
    moved_ += n;
  }
  std::erase_if(incoming_, [](const iovec& part) { return part.iov_len == 0; });
}

void StreamTransport::on_response(Headers headers) noexcept {
  answer_ = std::move(headers);
  wake();
}

PullResult StreamTransport::pull(std::span<const iovec> slots) noexcept {
  slots_.assign(slots.begin(), slots.end());
  pulled_ = 0;
  if (!queued_.empty()) {
    const bool wanted = wanted_;
    const Transfer moved = write(queued_);
    queued_.erase(queued_.begin(), queued_.begin() + static_cast<ptrdiff_t>(moved.bytes));
    wanted_ = wanted;
  }
  if (queued_.empty() && user_ != nullptr && std::exchange(wanted_, false))
    user_->on_transport({.readable = false, .writable = true, .ending = false});
  slots_.clear();
  return {pulled_, (wanted_ || !queued_.empty()) && pulled_ > 0 ? PullResult::State::kMore : PullResult::State::kDrained};
}

size_t StreamTransport::on_data(std::span<const iovec> data) noexcept {
  if (user_ == nullptr) {
    size_t taken = 0;
    for (const iovec& part : data) {
      const size_t n = std::min(part.iov_len, kMostKept - kept_.size());
      const auto* const begin = static_cast<const uint8_t*>(part.iov_base);
      kept_.insert(kept_.end(), begin, begin + n);
      taken += n;
    }
    wake();
    return taken;
  }
  incoming_.assign(data.begin(), data.end());
  size_t before = 0, after = 0;
  for (const iovec& part : incoming_) before += part.iov_len;
  if (!room_.empty()) {
    copy_in(room_);
  } else {
    user_->on_transport({.readable = true, .writable = false, .ending = false});
  }
  for (const iovec& part : incoming_) after += part.iov_len;
  incoming_.clear();
  return before - after;
}

void StreamTransport::on_end_stream() noexcept {
  ended_ = true;
  if (user_ == nullptr) return wake();
  if (room_.empty()) user_->on_transport({.readable = true, .writable = false, .ending = true});
}

void StreamTransport::on_closed(Reason, H2Error) noexcept {
  stream_ = nullptr;
  ended_ = true;
  if (user_ == nullptr) return wake();
  if (room_.empty()) user_->on_transport({.readable = true, .writable = false, .ending = true});
}

}  // namespace zt::hbone
