#pragma once
#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/buffer_pool.h"
#include "base/event_loop.h"

namespace zt::hbone {

// Bytes a worker may hold for streams whose receivers do not take them. Over the limit the receivers that have not moved
// for the longest lose their streams: whoever stalls pays, not whoever happens to ask next. One thread.
class MemoryBudget {
 public:
  // What is held for one receiver. Lives where the bytes live.
  class Claim {
   public:
    explicit Claim(MemoryBudget& budget) : budget_(budget) { budget_.append(*this); }
    Claim(const Claim&) = delete;
    virtual ~Claim() {
      budget_.hold(0 - bytes_);
      budget_.unlink(*this);
    }
    [[nodiscard]] size_t bytes() const { return bytes_; }

   protected:
    // Others need the memory: free it, which destroys this claim. Called from another claim's update().
    virtual void revoke() noexcept = 0;

   private:
    friend class MemoryBudget;
    MemoryBudget& budget_;
    Claim* previous_ = nullptr;
    Claim* next_ = nullptr;
    size_t bytes_ = 0;
  };

  explicit MemoryBudget(size_t limit) : limit_(limit) {}
  MemoryBudget(const MemoryBudget&) = delete;
  // Takes effect at the next update().
  void set_limit(size_t limit) { limit_ = limit; }

  // `claim` holds `bytes` now; `moved`: its receiver took some. Revokes others as needed. False: it does not fit even alone,
  // and holds what it held before.
  [[nodiscard]] bool update(Claim& claim, size_t bytes, bool moved) {
    if (bytes > limit_) return false;
    if (moved) {
      unlink(claim);
      append(claim);
    }
    hold(bytes - claim.bytes_);
    claim.bytes_ = bytes;
    while (used() > limit_) {
      Claim* victim = oldest_ != &claim ? oldest_ : claim.next_;
      victim->revoke();
    }
    return true;
  }

  [[nodiscard]] size_t used() const { return used_.load(std::memory_order_relaxed); }  // any thread
  [[nodiscard]] size_t limit() const { return limit_; }
  // So much is held for stalled receivers that nobody should be promised more.
  [[nodiscard]] bool tight() const { return used() > limit_ / 2; }

 private:
  void hold(size_t more) { used_.store(used() + more, std::memory_order_relaxed); }
  void append(Claim& claim) {
    claim.previous_ = newest_;
    claim.next_ = nullptr;
    (newest_ != nullptr ? newest_->next_ : oldest_) = &claim;
    newest_ = &claim;
  }
  void unlink(Claim& claim) {
    (claim.previous_ != nullptr ? claim.previous_->next_ : oldest_) = claim.next_;
    (claim.next_ != nullptr ? claim.next_->previous_ : newest_) = claim.previous_;
  }

  size_t limit_;
  std::atomic<size_t> used_{0};  // written by the worker, read by whoever reports it
  Claim* oldest_ = nullptr;
  Claim* newest_ = nullptr;
};

// TLS record content, slot by slot: a record is 5 bytes of header, at most 16384 of content, 1 of type and 16 of tag.
inline constexpr size_t kRecordSlotBytes = 5 + 16384 + 1 + 16;
// A worker's buffer: one batch of 64 full records and room for the control records before them. Batches of 1 MiB instead of
// 256 KiB save 15 % of CPU per GB; they are possible because buffers belong to the worker.
inline constexpr size_t kBatchRecords = 64;
inline constexpr size_t kWorkerBufferBytes = (kBatchRecords + 4) * kRecordSlotBytes;
inline constexpr size_t kSpareWorkerBuffers = 4;

// What a worker lends to its tunnels and relays. Owned by the worker, one thread, outlives all of them.
struct WorkerIo {
  WorkerIo(EventLoop& event_loop, size_t memory_budget)
      : loop(event_loop), buffers(event_loop, kWorkerBufferBytes, kSpareWorkerBuffers), budget(memory_budget) {}

  EventLoop& loop;
  BufferPool buffers;
  MemoryBudget budget;
  std::atomic<uint32_t> client_tunnels{0}, server_tunnels{0};  // open now, for whoever reports it

  // Scratch for one turn of one tunnel: slices of received DATA, linked per stream.
  struct Slice {
    iovec data;
    int32_t next;  // index of the stream's next slice, -1 = last
  };
  std::vector<Slice> slices;
  std::vector<iovec> iovecs;
};

}  // namespace zt::hbone
