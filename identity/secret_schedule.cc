#include "identity/secret_schedule.h"

#include <algorithm>
#include <cmath>

#include "base/backoff.h"

namespace zt::identity {
namespace {

using std::chrono::milliseconds;

milliseconds scaled(milliseconds delay, double factor) {
  return milliseconds(std::llround(static_cast<double>(delay.count()) * factor));
}

}  // namespace

milliseconds refresh_delay(WallTime not_before, WallTime not_after, WallTime now, double jitter) {
  const milliseconds half = (not_after - not_before) / 2;
  milliseconds delay = (not_before - now) + scaled(half, 1.0 + kRefreshJitter * std::clamp(jitter, -1.0, 1.0));
  if (delay <= milliseconds::zero()) delay = (not_after - now) / 2;
  return std::max<milliseconds>(delay, kMinRefreshDelay);
}

milliseconds retry_delay(uint32_t failures, double jitter) {
  const milliseconds delay = Backoff::doubled(kFirstRetryDelay, failures, kMaxRetryDelay);
  return std::min(scaled(delay, 1.0 + kRetryJitter * std::clamp(jitter, -1.0, 1.0)), kMaxRetryDelay);
}

milliseconds real_time_retry_delay(uint32_t failures, milliseconds least, milliseconds most) {
  return Backoff::doubled(least, failures, most);
}

}  // namespace zt::identity
