#pragma once
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/address.h"

namespace zt::ztunnel {

// Lines about connections that were refused before anything was known of them. Whoever makes us refuse makes us log, as fast as
// it can connect; so a source address has a few lines a second and all of them together some more, and what was left out is said
// when the second is over, in one line a source: "connections failed", src.addr, count. Exact numbers are a metric's
// (zt_early_denials).
//
// Any thread. A mutex is taken for each refusal, to look up its source: neither formatting nor writing happens under it.
class DenialLog {
 public:
  using Clock = std::chrono::steady_clock;
  struct Limits {
    size_t lines = 100;            // a second, of all sources
    size_t lines_per_source = 10;  // a second
    size_t sources = 64;           // told apart; the rest is counted together
  };

  DenialLog() = default;
  explicit DenialLog(const Limits& limits) : limits_(limits) {}

  void write(Clock::time_point now, const SocketAddress& source, const SocketAddress& destination, std::string_view direction,
             std::string_view error);
  // Says what was left out of a second that is over. For the control thread, about once a second: a flood that ends is followed by
  // nothing that would say it.
  void flush(Clock::time_point now);

 private:
  struct Source {
    size_t lines = 0;
    uint64_t left_out = 0;
  };
  struct Second {
    Clock::time_point begun;
    size_t lines = 0;
    uint64_t left_out_of_others = 0;
    std::unordered_map<IpAddress, Source> sources;
  };
  static void report(const Second& second);
  // The second before, if it is over; else an empty one. With mutex_ held.
  Second turn_over(Clock::time_point now);

  const Limits limits_;
  std::mutex mutex_;
  Second second_;
};

}  // namespace zt::ztunnel
