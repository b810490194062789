#pragma once
#include <chrono>
#include <functional>
#include <optional>
#include <utility>

#include "base/backoff.h"

namespace zt::workload_api {

// Pauses before a new stream, half of each random (contract §6.6).
inline constexpr std::chrono::milliseconds kReconnectFirst{20};
// Longest while nobody is reached: at the start, when DNS or the control plane may come at any moment, and for as long as a restart
// of the control plane takes, so that what happened meanwhile is known within a second. Such attempts cost nobody anything.
inline constexpr std::chrono::milliseconds kReconnectSoon{800};
inline constexpr std::chrono::seconds kRestartTime{60};
// Longest otherwise: an outage, or a control plane that refuses us.
inline constexpr std::chrono::milliseconds kReconnectMax{15'000};
// A stream that was answered for this long ends the back-off: only failures in a row make it grow. Shorter ones do not: a control
// plane that answers and hangs up must not be called in a loop.
inline constexpr std::chrono::seconds kStableStream{1};

// How long to wait after a stream has ended. One thread at a time.
class Reconnect {
 public:
  using Time = std::chrono::steady_clock::time_point;
  struct End {
    std::optional<Time> answered;  // when the stream had its first response
    bool unreachable = false;      // nobody was there to refuse us
  };

  explicit Reconnect(const std::function<double()>& random)
      : soon_(kReconnectFirst, kReconnectSoon, 0.5, random), later_(kReconnectFirst, kReconnectMax, 0.5, random) {}

  [[nodiscard]] std::chrono::milliseconds pause(Time now, const End& end) {
    ever_answered_ = ever_answered_ || end.answered;
    if (end.answered && now - *end.answered >= kStableStream) {
      soon_.reset();
      later_.reset();
      failing_since_.reset();
    }
    if (!failing_since_) failing_since_ = now;
    const bool may_be_back_soon = !ever_answered_ || now - *failing_since_ < kRestartTime;
    return end.unreachable && may_be_back_soon ? soon_.next() : later_.next();
  }

 private:
  Backoff soon_, later_;
  std::optional<Time> failing_since_;
  bool ever_answered_ = false;
};

}  // namespace zt::workload_api
