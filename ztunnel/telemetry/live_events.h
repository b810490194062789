#pragma once
#include <array>
#include <atomic>
#include <boost/lockfree/spsc_queue.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "base/address.h"
#include "mesh/reason.h"

// What somebody who watches is told of single connections: that they opened, ended or were refused, and why. While nobody watches a
// worker reads one flag a connection. While somebody does it leaves an event in a ring that it alone fills: it never waits, and what
// does not fit is counted and left out.
namespace zt::ztunnel {

struct LiveEvent {
  enum class Kind : uint8_t { kOpened, kClosed, kRefused };
  Kind kind = Kind::kOpened;
  std::chrono::system_clock::time_point time;
  bool outbound = false;
  const char* path = "plain";  // "hbone", "local", "plain"
  SocketAddress source, destination;
  std::string source_namespace, source_workload, source_identity;  // empty: unknown
  std::string destination_namespace, destination_workload, destination_identity, service;
  // Of the end
  Reason reason = Reason::kOk;
  std::string error;                // empty: an end that an application chose
  uint64_t sent = 0, received = 0;  // client → server, server → client
  std::chrono::milliseconds duration{0};
};

class LiveEvents {
 public:
  static constexpr size_t kRing = 1024;  // events of one worker between two takes

  explicit LiveEvents(size_t workers) {
    for (size_t i = 0; i < workers; ++i) rings_.push_back(std::make_unique<Ring>());
  }

  // Any thread.
  [[nodiscard]] bool watched() const { return watched_.load(std::memory_order_relaxed); }
  // Of this worker, on its thread; only while watched().
  void push(size_t worker, std::unique_ptr<const LiveEvent> event) {
    Ring& ring = *rings_[worker];
    if (ring.queue.push(event.get())) {
      std::ignore = event.release();
    } else {
      ring.left_out.fetch_add(1, std::memory_order_relaxed);
    }
  }

  // One thread, the watcher's. What is still in the rings is thrown away at the end of a watch, and what came late for it at the
  // next one's beginning.
  void watch(bool on);
  // What has come since, worker by worker; `left_out`: how many did not fit meanwhile.
  [[nodiscard]] std::vector<std::unique_ptr<const LiveEvent>> take(uint64_t& left_out);

  ~LiveEvents();
  LiveEvents(const LiveEvents&) = delete;
  LiveEvents& operator=(const LiveEvents&) = delete;

 private:
  struct Ring {
    boost::lockfree::spsc_queue<const LiveEvent*, boost::lockfree::capacity<kRing>> queue;
    std::atomic<uint64_t> left_out{0};
  };
  std::vector<std::unique_ptr<Ring>> rings_;
  std::atomic<bool> watched_{false};
};

}  // namespace zt::ztunnel
