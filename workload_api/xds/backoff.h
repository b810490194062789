#pragma once
#include <algorithm>
#include <chrono>
#include <functional>
#include <utility>

namespace zt::workload_api {

// Pauses between attempts: doubled each time up to `max`, then spread over the upper half so that the nodes
// of a cluster do not come back in step. Never zero: no ending of a stream may lead to a hot loop (contract
// §14.2 #28).
class Backoff {
 public:
  using Duration = std::chrono::milliseconds;
  // Uniform in [0, 1).
  using Random = std::function<double()>;

  Backoff(Duration first, Duration max, Random random) : first_(first), max_(max), next_(first), random_(std::move(random)) {}

  [[nodiscard]] Duration next() {
    const Duration whole = std::exchange(next_, std::min(next_ * 2, max_));
    const Duration half = whole / 2;
    return half + std::chrono::duration_cast<Duration>((whole - half) * random_());
  }
  void reset() { next_ = first_; }

 private:
  const Duration first_, max_;
  Duration next_;
  Random random_;
};

}  // namespace zt::workload_api
