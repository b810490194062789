#pragma once
#include <chrono>

namespace zt::identity {

// Calendar time, for the validity of certificates. Milliseconds, because nanoseconds in 64 bits end in 2262
// and certificates may be valid until the year 9999 (RFC 5280 §4.1.2.5). Never used to measure how long
// something took.
using WallTime = std::chrono::sys_time<std::chrono::milliseconds>;

[[nodiscard]] inline WallTime wall_clock_now() {
  return std::chrono::floor<std::chrono::milliseconds>(std::chrono::system_clock::now());
}

}  // namespace zt::identity
