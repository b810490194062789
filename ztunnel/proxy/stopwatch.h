#pragma once
#include <chrono>

#include "base/event_loop.h"
#include "ztunnel/telemetry/metrics_families.h"

namespace zt::ztunnel {

// How long something took, for one of the histograms of seconds. One thread.
class Stopwatch {
 public:
  [[nodiscard]] double seconds() const { return std::chrono::duration<double>(Clock::now() - begun_).count(); }
  void stop(Histogram& histogram) const { histogram.observe(seconds()); }

 private:
  Clock::time_point begun_ = Clock::now();
};

}  // namespace zt::ztunnel
