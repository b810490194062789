#include "base/buffer_pool.h"

#include <new>

namespace zt {

namespace {
constexpr std::align_val_t kAlign{64};
}

void BufferPool::Lease::release() {
  if (data_ != nullptr) pool_->give_back(std::exchange(data_, nullptr));
}

BufferPool::~BufferPool() {
  for (uint8_t* data : free_) ::operator delete(data, kAlign);
}

BufferPool::Lease BufferPool::borrow() {
  ++lent_;
  if (!free_.empty()) {
    uint8_t* data = free_.back();
    free_.pop_back();
    return {this, data};
  }
  return {this, static_cast<uint8_t*>(::operator new(buffer_bytes_, kAlign))};
}

void BufferPool::give_back(uint8_t* data) {
  --lent_;
  if (free_.size() < spare_) {
    free_.push_back(data);
  } else {
    ::operator delete(data, kAlign);
  }
}

}  // namespace zt
