#include "base/buffer_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace zt {

namespace {
// Straight from the system and straight back: a heap would keep what was once used.
uint8_t* map(size_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  return static_cast<uint8_t*>(data);
}
}  // namespace

void BufferPool::Lease::release() {
  if (data_ != nullptr) pool_->give_back(std::exchange(data_, nullptr));
}

BufferPool::~BufferPool() {
  for (uint8_t* data : free_) munmap(data, buffer_bytes_);
}

BufferPool::Lease BufferPool::borrow() {
  thread_.check();
  ++lent_;
  if (!free_.empty()) {
    uint8_t* data = free_.back();
    free_.pop_back();
    unused_ = std::min(unused_, free_.size());
    return {this, data};
  }
  return {this, map(buffer_bytes_)};
}

void BufferPool::give_back(uint8_t* data) {
  --lent_;
  if (free_.size() < spare_) {
    free_.push_back(data);
    if (!timer_.armed()) timer_.start_after(kTrimInterval, [this] { trim(); });
  } else {
    munmap(data, buffer_bytes_);
  }
}

void BufferPool::trim() {
  for (; unused_ > 0; --unused_) {
    munmap(free_.front(), buffer_bytes_);
    free_.erase(free_.begin());
  }
  unused_ = free_.size();
  if (unused_ > 0) timer_.start_after(kTrimInterval, [this] { trim(); });
}

}  // namespace zt
