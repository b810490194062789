#include "base/linux/heap_trim.h"

#include <unistd.h>

#include <algorithm>

#include "base/file.h"
#include "base/text.h"

namespace zt {

namespace {
constexpr size_t kWorthwhile = 4u << 20;  // bytes that have come since the last time
constexpr size_t kStill = 1u << 20;       // bytes a second that are no growth
constexpr int kCalm = 3;
constexpr size_t kMaxStatm = 256;  // bytes of /proc/self/statm
// Of the load that has gone: a quarter, and not just a handful.
constexpr size_t kLeastFall = 32;
}  // namespace

bool HeapTrim::due(size_t resident, size_t load) {
  peak_ = std::max(peak_, load);
  calm_ = resident <= resident_before_ + kStill ? calm_ + 1 : 0;
  resident_before_ = resident;
  const bool grew = resident >= resident_then_ + kWorthwhile;
  const bool fell = peak_ - load >= std::max(kLeastFall, peak_ / 4);
  if (calm_ < kCalm || (!grew && !fell)) return false;
  peak_ = load;
  calm_ = 0;
  return true;
}

size_t resident_bytes() {
  // The size of the address space, then what of it is resident; in pages.
  const auto text = read_file("/proc/self/statm", kMaxStatm);
  if (!text) return 0;
  const size_t second = text->find(' ') + 1;
  const auto pages = whole_number<size_t>(std::string_view(*text).substr(second, text->find(' ', second) - second));
  return pages.value_or(0) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace zt
