#pragma once
#include <algorithm>
#include <chrono>
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
      : first_(first), max_(max), spread_(spread), next_(first), random_(std::move(random)) {}

  [[nodiscard]] Duration next() {
    const Duration whole = std::exchange(next_, std::min(next_ * 2, max_));
    const auto chance = std::chrono::duration_cast<Duration>(whole * spread_);
    return whole - chance + std::chrono::duration_cast<Duration>(chance * random_());
  }
  void reset() { next_ = first_; }

  // Seeded by the system.
  static Random any_random() {
    return [engine = std::mt19937_64(std::random_device{}())]() mutable {
      return std::uniform_real_distribution<double>(0.0, 1.0)(engine);
    };
  }

 private:
  const Duration first_, max_;
  const double spread_;
  Duration next_;
  Random random_;
};

}  // namespace zt
