#pragma once
#include <chrono>
#include <string_view>

#include "base/result.h"

namespace zt {

// A duration as people write it: terms of a whole number and a unit, added up ("1h30m", "1h + 30m") or multiplied ("1m*10"; a
// factor counts in seconds, so "1m*10ms" is 600 ms). Blanks may stand between; upper and lower case are the same.
//   ns nsec nanosecond(s), us usec usecond µs µsec µsecond microsecond(s), ms msec millisecond(s), s sec second(s),
//   m min minute(s), h hr hour(s), d day(s), w week(s), mon month(s) of 30 days, y year(s) of 365 days.
// A number without a unit is in seconds, where nothing or an operator follows it. This is the grammar of the Rust crate
// duration-str 0.21, which istio/ztunnel reads its settings with: every text that it takes means the same here.
//
// Like there, what does not fit 64 bits of nanoseconds (584 years) is an error; what does not fit our type (292 years) counts
// as the longest that does. kInvalidInput; the text is the reason alone.
Result<std::chrono::nanoseconds> parse_duration(std::string_view text);

}  // namespace zt
