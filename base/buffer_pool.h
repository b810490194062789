#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "base/thread_checker.h"

namespace zt {

// Large buffers that belong to a worker and are lent to whoever moves data in this turn (design: an idle connection holds
// none; a worker that has had nothing to move for a while neither). A borrower that is stuck with unsent bytes keeps its buffer until they are gone. One thread.
class BufferPool {
 public:
  // A lent buffer; gives itself back. Page aligned.
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
  BufferPool(EventLoop& loop, size_t buffer_bytes, size_t spare) : buffer_bytes_(buffer_bytes), spare_(spare), timer_(loop) {}
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;

  [[nodiscard]] Lease borrow();
  [[nodiscard]] size_t buffer_bytes() const { return buffer_bytes_; }
  [[nodiscard]] size_t lent() const { return lent_; }
  [[nodiscard]] size_t spare() const { return free_.size(); }

 private:
  static constexpr std::chrono::seconds kTrimInterval{1};
  void give_back(uint8_t* data);
  // Gives back to the system what has not been needed since the last call; runs only while there are free ones.
  void trim();
  [[no_unique_address]] ThreadChecker thread_;
  size_t buffer_bytes_;
  size_t spare_;
  size_t lent_ = 0;
  size_t unused_ = 0;  // least number of free ones since the last trim()
  std::vector<uint8_t*> free_;
  Timer timer_;
};

}  // namespace zt
