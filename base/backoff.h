#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <random>
#include <utility>

namespace zt {

// Pauses between attempts: doubled each time up to `max`, of which the last part, `spread` of 1, is chance, so that the nodes of a
// cluster do not come back in step. Never zero while `first` is not: no failure may lead to a hot loop (contract §14.2 #28).
class Backoff {
 public:
  using Duration = std::chrono::milliseconds;
  // Uniform in [0, 1).
  using Random = std::function<double()>;

  Backoff(Duration first, Duration max, double spread, Random random)
      : first_(first), max_(max), spread_(spread), random_(std::move(random)) {}

  // The whole pause after the `failures`-th failure in a row (1 = the first), without chance.
  [[nodiscard]] static constexpr Duration doubled(Duration first, uint32_t failures, Duration max) {
    Duration pause = first;
    for (uint32_t i = 1; i < failures && pause < max; ++i) pause *= 2;
    return std::min(pause, max);
  }

  [[nodiscard]] Duration next() {
    const Duration whole = doubled(first_, ++failures_, max_);
    const auto chance = std::chrono::duration_cast<Duration>(whole * spread_);
    return whole - chance + std::chrono::duration_cast<Duration>(chance * random_());
  }
  void reset() { failures_ = 0; }

  // Seeded by the system, one for a thread: whoever has a back-off holds nothing for it.
  static Random any_random() {
    return [] {
      static thread_local std::minstd_rand engine(std::random_device{}());
      return std::uniform_real_distribution<double>(0.0, 1.0)(engine);
    };
  }

 private:
  const Duration first_, max_;
  const double spread_;
  uint32_t failures_ = 0;
  Random random_;
};

}  // namespace zt
