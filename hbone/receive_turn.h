#pragma once
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/buffer_pool.h"
#include "hbone/worker_io.h"

namespace zt::hbone {

// One turn of receiving: the lent buffer that was read into, how far its records have been opened, and which slices of it are
// whose. All of it ends with the turn. What a stream keeps between turns is a Mark, which means something to the turn that made
// it and to no other: no index or pointer into a buffer outlives it.
class ReceiveTurn {
 public:
  // Where a stream's slices are, in the turn that is on.
  class Mark {
    friend class ReceiveTurn;
    uint64_t turn_ = 0;
    uint32_t first_ = 0;
    uint32_t last_ = 0;
  };

  explicit ReceiveTurn(WorkerIo& io)
      : io_(io), id_(++io.receive_turns), lease_(io.buffers.borrow()), slices_(std::exchange(io.spare_slices, {})) {}
  ~ReceiveTurn() {
    slices_.clear();
    if (slices_.capacity() <= kSpareSlices) io_.spare_slices = std::move(slices_);
  }
  ReceiveTurn(const ReceiveTurn&) = delete;

  [[nodiscard]] uint8_t* data() const { return lease_.data(); }
  static constexpr size_t capacity() { return kWorkerBufferBytes; }
  // Bytes [0, opened) have been dealt with, [opened, filled) not yet.
  size_t opened = 0;
  size_t filled = 0;

  void add(Mark& mark, const uint8_t* bytes, size_t count) {
    const auto index = static_cast<uint32_t>(slices_.size());
    slices_.push_back({{const_cast<uint8_t*>(bytes), count}, kNone});
    if (mark.turn_ == id_) {
      slices_[mark.last_].next = index;
    } else {
      mark.turn_ = id_;
      mark.first_ = index;
    }
    mark.last_ = index;
  }
  // Appends the stream's slices to `parts`; it has none then. Returns their bytes.
  size_t take(Mark& mark, std::vector<iovec>& parts) {
    if (std::exchange(mark.turn_, 0) != id_) return 0;
    size_t bytes = 0;
    for (uint32_t index = mark.first_; index != kNone; index = slices_[index].next) {
      parts.push_back(slices_[index].data);
      bytes += slices_[index].data.iov_len;
    }
    return bytes;
  }
  [[nodiscard]] bool has(const Mark& mark) const { return mark.turn_ == id_; }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  // As many as a buffer full of records has at one frame a record, and then some; a turn with tiny frames gives its memory back.
  static constexpr size_t kSpareSlices = 1024;

  WorkerIo& io_;
  uint64_t id_;
  BufferPool::Lease lease_;
  std::vector<WorkerIo::Slice> slices_;
};

}  // namespace zt::hbone
