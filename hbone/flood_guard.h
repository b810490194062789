#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>

#include "base/event_loop.h"
#include "hbone/frame_cursor.h"

namespace zt::hbone {

// So many at once, and so many a second for ever; what is given on top may be kept up to `earned`. Starts full.
class TokenBucket {
 public:
  TokenBucket(uint32_t burst, uint32_t per_second, uint32_t earned)
      : burst_(burst), per_second_(per_second), most_(burst + earned), tokens_(burst) {}
  // False: there are fewer.
  [[nodiscard]] bool take(uint64_t count, Clock::time_point now) {
    if (now > refilled_) {
      const double refill = std::chrono::duration<double>(now - refilled_).count() * per_second_;
      if (tokens_ < burst_) tokens_ = std::min<double>(burst_, tokens_ + refill);
      refilled_ = now;
    }
    tokens_ -= static_cast<double>(count);
    return tokens_ >= 0;
  }
  void give(uint64_t count) { tokens_ = std::min<double>(most_, tokens_ + static_cast<double>(count)); }

 private:
  uint32_t burst_;
  uint32_t per_second_;
  uint32_t most_;
  double tokens_;
  Clock::time_point refilled_{};
};

// Tells a busy peer from one that keeps us busy. Frames that move nothing (PRIORITY, PING, SETTINGS, WINDOW_UPDATE, RST_STREAM,
// CONTINUATION, empty DATA, unknown ones) are allowed at a rate, and beyond it in proportion to what moves: the bytes of DATA either way,
// and streams that are opened. Faults are what a peer makes us answer with a reset or a refusal, and requests that it takes back before
// they are answered (CVE-2023-44487); nothing earns these.
class FloodGuard {
 public:
  static constexpr uint32_t kOverheadBurst = 4000;
  static constexpr uint32_t kOverheadPerSecond = 500;
  // A peer may give back the window for every so many bytes.
  static constexpr uint32_t kBytesPerFrame = 512;
  static constexpr uint32_t kFramesPerData = 8;
  static constexpr uint32_t kFramesPerStream = 4;
  // What was earned and is not used: for 50 MiB of which the window is given back later.
  static constexpr uint32_t kMaxEarned = 100'000;
  static constexpr uint32_t kFaultBurst = 1000;
  static constexpr uint32_t kFaultsPerSecond = 100;

  // False: too many.
  [[nodiscard]] bool received(const FrameTally& tally, Clock::time_point now) {
    moved(tally.useful, tally.bytes);
    if (tally.opening > 0) overhead_.give(uint64_t{tally.opening} * kFramesPerStream);
    return tally.overhead == 0 || overhead_.take(tally.overhead, now);
  }
  // DATA frames, either way.
  void moved(uint32_t frames, uint64_t bytes) {
    if (frames > 0) overhead_.give(uint64_t{frames} * kFramesPerData + bytes / kBytesPerFrame);
  }
  [[nodiscard]] bool fault(Clock::time_point now) { return faults_.take(1, now); }

 private:
  TokenBucket overhead_{kOverheadBurst, kOverheadPerSecond, kMaxEarned};
  TokenBucket faults_{kFaultBurst, kFaultsPerSecond, 0};
};

}  // namespace zt::hbone
