#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

namespace zt::log {

// Bounded queue of lines, many producers, one consumer, no lock (D. Vyukov's bounded queue: each cell carries
// the turn in which it may be filled or emptied). Bounded in lines and in bytes; push never waits. Not a deque behind a mutex: a
// worker would wait for whichever thread was suspended with the lock, and a line would cost 77 ns of CPU instead of 67
// (bench/own_code_bench.cc, two threads on two loaded cores); boost::lockfree's queue takes no std::string.
class Ring {
 public:
  Ring(size_t lines, size_t bytes) : capacity_(lines), max_bytes_(bytes), cells_(std::make_unique<Cell[]>(lines)) {
    for (size_t i = 0; i < lines; ++i) cells_[i].turn.store(i, std::memory_order_relaxed);
  }

  // False if there is no room: `line` is untouched then. Any thread.
  bool push(std::string& line) {
    const size_t size = line.size();
    if (bytes_.fetch_add(size, std::memory_order_relaxed) + size > max_bytes_) {
      bytes_.fetch_sub(size, std::memory_order_relaxed);
      return false;
    }
    uint64_t at = tail_.load(std::memory_order_relaxed);
    for (;;) {
      Cell& cell = cells_[at % capacity_];
      const auto lead = static_cast<int64_t>(cell.turn.load(std::memory_order_acquire) - at);
      if (lead < 0) {
        bytes_.fetch_sub(size, std::memory_order_relaxed);
        return false;
      }
      if (lead > 0) {
        at = tail_.load(std::memory_order_relaxed);
      } else if (tail_.compare_exchange_weak(at, at + 1, std::memory_order_relaxed)) {
        cell.line = std::move(line);
        cell.turn.store(at + 1, std::memory_order_release);
        return true;
      }
    }
  }

  // Takes the oldest line; false if there is none. The consumer thread only.
  bool pop(std::string& line) {
    Cell& cell = cells_[head_ % capacity_];
    if (cell.turn.load(std::memory_order_acquire) != head_ + 1) return false;
    line = std::exchange(cell.line, {});
    bytes_.fetch_sub(line.size(), std::memory_order_relaxed);
    cell.turn.store(head_ + capacity_, std::memory_order_release);
    ++head_;
    return true;
  }

 private:
  struct Cell {
    std::atomic<uint64_t> turn;
    std::string line;
  };
  const size_t capacity_;
  const size_t max_bytes_;
  std::unique_ptr<Cell[]> cells_;
  alignas(64) std::atomic<uint64_t> tail_{0};
  std::atomic<size_t> bytes_{0};
  alignas(64) uint64_t head_ = 0;
};

}  // namespace zt::log
