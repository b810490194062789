#pragma once
#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace zt::hbone {

// Received bytes that wait for their sink: appended at the end, taken at the front. A byte is copied once, whatever the sizes of
// the pieces that come; memory goes back as bytes are taken.
class KeptBytes {
 public:
  [[nodiscard]] size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  // What is allocated for them.
  [[nodiscard]] size_t allocated() const { return allocated_; }

  // `expected`: the most that may come to be kept. What is allocated ahead of need stays within it.
  void append(const uint8_t* bytes, size_t count, size_t expected) {
    while (count > 0) {
      if (chunks_.empty() || chunks_.back().end == chunks_.back().capacity) add_chunk(count, expected);
      Chunk& tail = chunks_.back();
      const size_t part = std::min<size_t>(count, tail.capacity - tail.end);
      std::memcpy(tail.data.get() + tail.end, bytes, part);
      tail.end += static_cast<uint32_t>(part);
      size_ += part;
      bytes += part;
      count -= part;
    }
  }
  void add_to(std::vector<iovec>& parts) const {
    for (const Chunk& chunk : chunks_) parts.push_back({chunk.data.get() + chunk.begin, chunk.end - chunk.begin});
  }
  [[nodiscard]] std::vector<uint8_t> copy() const {
    std::vector<uint8_t> all;
    all.reserve(size_);
    for (const Chunk& chunk : chunks_) all.insert(all.end(), chunk.data.get() + chunk.begin, chunk.data.get() + chunk.end);
    return all;
  }
  // The first `count` bytes have gone.
  void take(size_t count) {
    size_ -= count;
    auto chunk = chunks_.begin();
    for (; chunk != chunks_.end() && count >= chunk->end - chunk->begin; ++chunk) {
      count -= chunk->end - chunk->begin;
      allocated_ -= chunk->capacity;
    }
    chunks_.erase(chunks_.begin(), chunk);
    if (!chunks_.empty()) chunks_.front().begin += static_cast<uint32_t>(count);
  }

 private:
  static constexpr size_t kMaxChunk = 32 * 1024;
  struct Chunk {
    std::unique_ptr<uint8_t[]> data;
    uint32_t capacity;
    uint32_t begin;
    uint32_t end;
  };

  // Chunks that grow with what is there: few of them, however small the pieces are.
  void add_chunk(size_t count, size_t expected) {
    const size_t ahead = std::min(size_ / 4, size_ < expected ? expected - size_ : size_ / 8);
    const size_t capacity = std::min(kMaxChunk, std::max(count, ahead));
    chunks_.push_back({std::make_unique_for_overwrite<uint8_t[]>(capacity), static_cast<uint32_t>(capacity), 0, 0});
    allocated_ += capacity;
  }

  std::vector<Chunk> chunks_;
  size_t size_ = 0;
  size_t allocated_ = 0;
};

}  // namespace zt::hbone
