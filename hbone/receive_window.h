#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/event_loop.h"
#include "base/memory_account.h"

// How much a peer may have on its way to one stream. Policy only: whoever owns the HTTP/2 session tells the peer.
namespace zt::hbone {

// A stream's window starts small and grows with the measured bandwidth-delay product: a fixed 4 MiB lets a bulk stream put 4 MiB
// in front of everybody else's small request. Bytes.
struct WindowBounds {
  uint32_t initial;
  uint32_t max;
};

// The round-trip time of a tunnel's path, asked of the kernel at most once a second.
class PathRtt {
 public:
  // `fd`: the TCP socket. Zero as long as nothing is known, and for what is not TCP.
  [[nodiscard]] std::chrono::microseconds get(int fd, Clock::time_point now);

 private:
  std::chrono::microseconds rtt_{0};
  Clock::time_point measured_{};
};

// One stream's window, as the peer knows it. It is a promise to hold as much, so it grows only while all promises fit into the limit.
class ReceiveWindow {
 public:
  ReceiveWindow(uint32_t bytes, MemoryLimit& limit) : bytes_(bytes), promise_(limit) { promise_.set(bytes); }

  struct State {
    uint32_t bytes = 0;
    uint32_t taken = 0;
    uint32_t withheld = 0;
    bool stopped = false;
  };
  [[nodiscard]] State export_state() const {
    return {.bytes = bytes_, .taken = taken_, .withheld = withheld_, .stopped = stopped_};
  }
  // What the peer was promised elsewhere is promised here unasked.
  void resume(const State& state) {
    bytes_ = state.bytes;
    taken_ = state.taken;
    withheld_ = state.withheld;
    stopped_ = state.stopped;
    promise_.set(bytes_);
  }
  [[nodiscard]] uint32_t bytes() const { return bytes_; }

  // What the sink did with what it was offered.
  struct Taken {
    size_t bytes;
    bool lags;   // it left some
    bool ended;  // the peer sends no more
    bool tight;  // memory is short: nobody should be promised more
  };
  // Counts what was taken and returns how large the window should be now; set() when the peer has been told.
  [[nodiscard]] uint32_t wanted(const Taken& taken, const WindowBounds& bounds, PathRtt& path, int fd, Clock::time_point now);
  void set(uint32_t bytes) {
    bytes_ = bytes;
    taken_ = 0;
  }
  // Before the peer is told of a larger or smaller one. False: so much cannot be promised now.
  [[nodiscard]] bool promise(uint32_t bytes) { return promise_.grow_to(bytes); }
  // The sink has stopped, and what the peer was promised is taken from us all the same: no credit is given for it until it goes on.
  void stop() { stopped_ = true; }
  // Whether the credit for `bytes` is withheld.
  [[nodiscard]] bool withhold(size_t bytes) {
    if (stopped_) withheld_ += static_cast<uint32_t>(bytes);
    return stopped_;
  }
  // The sink goes on; returns what was withheld.
  [[nodiscard]] uint32_t go_on() {
    stopped_ = false;
    return std::exchange(withheld_, 0);
  }

 private:
  uint32_t bytes_;
  uint32_t taken_ = 0;  // by the sink, since the window last changed
  uint32_t withheld_ = 0;
  bool stopped_ = false;
  MemoryPromise promise_;
};

}  // namespace zt::hbone
