#include "hbone/frame_cursor.h"

#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <cassert>
#include <utility>

namespace zt::hbone {

namespace {
// Where records and frames are cut differently, a frame's header is held for each record: not worth an allocation each time.
constexpr size_t kSmall = 64;
}  // namespace

FrameCursor::Head FrameCursor::parse(const uint8_t* bytes) {
  const uint32_t stream = (bytes[5] & 0x7fu) << 24 | uint32_t{bytes[6]} << 16 | uint32_t{bytes[7]} << 8 | bytes[8];
  return {.length = size_t{bytes[0]} << 16 | size_t{bytes[1]} << 8 | bytes[2],
          .type = bytes[3],
          .flags = bytes[4],
          .stream = static_cast<int32_t>(stream)};
}

FrameCursor::FrameCursor(State state, size_t max_frame, size_t max_held)
    : held_(std::move(state.held)),
      preface_left_(0),
      max_frame_(max_frame),
      max_held_(max_held),
      data_left_(state.data_left),
      data_stream_(state.data_stream),
      largest_stream_(state.largest_stream),
      data_flags_(state.data_flags) {}

FrameCursor::State FrameCursor::export_state() const {
  assert(at_edge() && given_ == 0);
  return {.held = held_,
          .data_left = static_cast<uint32_t>(data_left_),
          .data_stream = data_stream_,
          .data_flags = data_flags_,
          .largest_stream = largest_stream_};
}

bool FrameCursor::inside_padding() const { return data_left_ > 0 && (data_flags_ & NGHTTP2_FLAG_PADDED) != 0; }

void FrameCursor::count(const Head& head, FrameTally& tally) {
  if (head.type == NGHTTP2_DATA && head.length > 0) {
    ++tally.useful;
    tally.bytes += head.length;
  } else if (head.type == NGHTTP2_HEADERS) {
    ++tally.opening;
  } else if (head.type != NGHTTP2_DATA || (head.flags & NGHTTP2_FLAG_END_STREAM) == 0) {
    ++tally.overhead;
  }
}

size_t FrameCursor::unit_size(std::span<const uint8_t> unit, size_t& scan) const {
  if (unit.size() < kFrameHeader) return kFrameHeader;
  if (in_long_block_) return kFrameHeader;
  if (scan == 0) {
    const Head head = parse(unit.data());
    if (head.type == NGHTTP2_DATA) return kFrameHeader;
    const size_t size = kFrameHeader + head.length;
    if (head.length > max_frame_ || size > max_held_) return 0;
    const bool block = head.type == NGHTTP2_HEADERS || head.type == NGHTTP2_PUSH_PROMISE;
    if (!block || (head.flags & NGHTTP2_FLAG_END_HEADERS) != 0) return size;
    scan = size;
  }
  for (;;) {
    if (scan + kFrameHeader > unit.size()) return scan + kFrameHeader > max_held_ ? 0 : scan + kFrameHeader;
    const Head head = parse(unit.data() + scan);
    const size_t size = scan + kFrameHeader + head.length;
    if (head.length > max_frame_ || size > max_held_) return 0;
    // What is no CONTINUATION here is the end of the connection; the session says so.
    if (head.type != NGHTTP2_CONTINUATION || (head.flags & NGHTTP2_FLAG_END_HEADERS) != 0) return size;
    scan = size;
  }
}

size_t FrameCursor::run(std::span<const uint8_t> data, FrameTally& tally) {
  size_t at = 0;
  while (at < data.size()) {
    size_t& inside = preface_left_ > 0 ? preface_left_ : data_left_ > 0 ? data_left_ : pass_left_;
    if (inside > 0) {
      const size_t part = std::min(inside, data.size() - at);
      inside -= part;
      at += part;
      continue;
    }
    const auto unit = data.subspan(at);
    size_t scan = 0;
    const size_t size = unit_size(unit, scan);
    if (size > unit.size()) break;
    const Head head = parse(unit.data());
    if (head.type == NGHTTP2_DATA) {
      count(head, tally);
      data_left_ = head.length;
      data_stream_ = head.stream;
      data_flags_ = head.flags;
      at += kFrameHeader;
    } else if (in_long_block_ || size == 0) {
      count(head, tally);
      const bool block = head.type == NGHTTP2_HEADERS || head.type == NGHTTP2_PUSH_PROMISE || head.type == NGHTTP2_CONTINUATION;
      in_long_block_ = block && (head.flags & NGHTTP2_FLAG_END_HEADERS) == 0;
      if (head.type == NGHTTP2_HEADERS) largest_stream_ = std::max(largest_stream_, head.stream);
      pass_left_ = head.length;
      at += kFrameHeader;
    } else {
      for (size_t next = at, end = at + size; next < end;) {
        const Head part = parse(data.data() + next);
        count(part, tally);
        if (part.type == NGHTTP2_HEADERS) largest_stream_ = std::max(largest_stream_, part.stream);
        next += kFrameHeader + part.length;
      }
      at += size;
    }
  }
  return at;
}

std::span<const uint8_t> FrameCursor::next(std::span<const uint8_t>& data, FrameTally& tally) {
  if (given_ > 0) {
    held_.erase(held_.begin(), held_.begin() + static_cast<ptrdiff_t>(given_));
    held_scan_ = given_ = 0;
    if (held_.empty() && held_.capacity() > kSmall) std::vector<uint8_t>().swap(held_);
  }
  if (held_.empty()) {
    const auto piece = data.first(run(data, tally));
    data = data.subspan(piece.size());
    if (!piece.empty()) return piece;
    held_.assign(data.begin(), data.end());
    data = {};
    return {};
  }
  for (;;) {
    const size_t needed = unit_size(held_, held_scan_);
    if (needed <= held_.size()) break;
    if (data.empty()) return {};
    const auto part = data.first(std::min(needed - held_.size(), data.size()));
    held_.insert(held_.end(), part.begin(), part.end());
    data = data.subspan(part.size());
  }
  given_ = run(held_, tally);
  return std::span(held_).first(given_);
}

}  // namespace zt::hbone
