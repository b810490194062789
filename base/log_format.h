#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/log.h"

namespace zt::log {

struct LineTime {
  int64_t seconds = 0;  // since 1970-01-01T00:00:00Z
  uint32_t microseconds = 0;
  static LineTime now();
};

// One finished line with its newline, at most kMaxLineBytes + 1 bytes; appended to `out`. Text that is not
// UTF-8 is replaced by U+FFFD. Allocates only in `out`.
void format_line(std::string& out, Format format, LineTime time, Level level, std::string_view target, std::string_view message,
                 std::span<const Field> fields);

}  // namespace zt::log
