#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "ztunnel/proxy/handshake_admission.h"

namespace zt::ztunnel {

// Counts one in `count`, which outlives it, as long as it exists. Any thread.
class Counted {
 public:
  Counted() = default;
  explicit Counted(std::atomic<uint32_t>& count) : count_(&count) { count.fetch_add(1, std::memory_order_relaxed); }
  Counted(Counted&& other) noexcept : count_(std::exchange(other.count_, nullptr)) {}
  Counted& operator=(Counted&& other) noexcept {
    if (this != &other) {
      release();
      count_ = std::exchange(other.count_, nullptr);
    }
    return *this;
  }
  ~Counted() { release(); }
  void release() {
    if (count_ != nullptr) std::exchange(count_, nullptr)->fetch_sub(1, std::memory_order_relaxed);
  }

 private:
  std::atomic<uint32_t>* count_ = nullptr;
};

// What one pod has of us, on all workers together: what its limits are held against. Any thread.
struct PodCounts {
  explicit PodCounts(std::shared_ptr<std::atomic<size_t>> all_handshakes, size_t workers = 1)
      : handshakes(std::make_shared<HandshakeCounts>(std::move(all_handshakes))), memory(workers) {}
  std::atomic<uint32_t> connections{0};  // open, or accepted and on their way to be
  std::atomic<uint32_t> tunnels{0};      // that peers opened
  const std::shared_ptr<HandshakeCounts> handshakes;
  std::vector<std::atomic<size_t>> memory;  // bytes held for it, by worker: as each last said (PodWorker::publish_memory())
};

}  // namespace zt::ztunnel
