#pragma once
// A tunnel inside another tunnel's stream: the second kind of transport, as double HBONE will need one.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "hbone/stream.h"
#include "hbone/transport.h"

namespace zt::hbone::testing {

// Bytes come when the outer tunnel delivers and go when it pulls: at the edges that tell the inner one, it reads and writes.
class StreamTransport final : public Transport, public StreamHandler {
 public:
  ~StreamTransport() override {
    if (stream_ != nullptr) stream_->abandon(H2Error::kCancel);
  }
  // Over an answered stream whose handler this is.
  void use(Stream& stream) {
    stream_ = &stream;
    stream.set_handler(this);
  }

  Result<> attach(TransportUser& user) override {
    user_ = &user;
    return {};
  }
  void detach() override { user_ = nullptr; }
  Transfer read(std::span<uint8_t> room) override {
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
  Transfer write(std::span<const uint8_t> bytes) override {
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

 private:
  void copy_in(std::span<uint8_t> room) {
    for (iovec& part : incoming_) {
      const size_t n = std::min(part.iov_len, room.size() - moved_);
      if (n > 0) std::memcpy(room.data() + moved_, part.iov_base, n);
      part = {static_cast<uint8_t*>(part.iov_base) + n, part.iov_len - n};
      moved_ += n;
    }
    std::erase_if(incoming_, [](const iovec& part) { return part.iov_len == 0; });
  }

  void on_response(Headers) noexcept override {}
  PullResult pull(std::span<const iovec> slots) noexcept override {
    slots_.assign(slots.begin(), slots.end());
    pulled_ = 0;
    if (std::exchange(wanted_, false)) user_->on_transport({.readable = false, .writable = true, .ending = false});
    slots_.clear();
    return {pulled_, wanted_ && pulled_ > 0 ? PullResult::State::kMore : PullResult::State::kDrained};
  }
  size_t on_data(std::span<const iovec> data) noexcept override {
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
  void on_end_stream() noexcept override {
    ended_ = true;
    if (room_.empty()) user_->on_transport({.readable = true, .writable = false, .ending = true});
  }
  void on_closed(Reason, H2Error) noexcept override {
    stream_ = nullptr;
    ended_ = true;
    if (room_.empty()) user_->on_transport({.readable = true, .writable = false, .ending = true});
  }

  Stream* stream_ = nullptr;
  TransportUser* user_ = nullptr;
  std::vector<iovec> slots_;     // while pull() runs
  std::vector<iovec> incoming_;  // while on_data() runs
  std::span<uint8_t> room_;      // while read() asks for what was kept
  size_t moved_ = 0;
  size_t pulled_ = 0;
  bool wanted_ = false;  // a write was blocked
  bool ended_ = false;
};

}  // namespace zt::hbone::testing
