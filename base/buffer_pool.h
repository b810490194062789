#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace zt {

// Large buffers that belong to a worker and are lent to whoever moves data in this turn (design: an idle connection holds
// none). A borrower that is stuck with unsent bytes keeps its buffer until they are gone. One thread.
class BufferPool {
 public:
  // A lent buffer; gives itself back. 64-byte aligned.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept : pool_(std::exchange(other.pool_, nullptr)), data_(std::exchange(other.data_, nullptr)) {}
    Lease& operator=(Lease&& other) noexcept {
      if (this != &other) {
        release();
        pool_ = std::exchange(other.pool_, nullptr);
        data_ = std::exchange(other.data_, nullptr);
      }
      return *this;
    }
    ~Lease() { release(); }
    [[nodiscard]] explicit operator bool() const { return data_ != nullptr; }
    [[nodiscard]] uint8_t* data() const { return data_; }
    void release();

   private:
    friend class BufferPool;
    Lease(BufferPool* pool, uint8_t* data) : pool_(pool), data_(data) {}
    BufferPool* pool_ = nullptr;
    uint8_t* data_ = nullptr;
  };

  // buffer_bytes: size of each; spare: how many free ones are kept rather than returned to the system.
  BufferPool(size_t buffer_bytes, size_t spare) : buffer_bytes_(buffer_bytes), spare_(spare) {}
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;

  [[nodiscard]] Lease borrow();
  [[nodiscard]] size_t buffer_bytes() const { return buffer_bytes_; }
  [[nodiscard]] size_t lent() const { return lent_; }

 private:
  void give_back(uint8_t* data);
  size_t buffer_bytes_;
  size_t spare_;
  size_t lent_ = 0;
  std::vector<uint8_t*> free_;
};

}  // namespace zt
