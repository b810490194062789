#include "base/linux/heap_trim.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/unique_fd.h"

namespace zt {

namespace {
constexpr size_t kWorthwhile = 4u << 20;  // bytes that have come since the last time
constexpr size_t kStill = 1u << 20;       // bytes a second that are no growth
constexpr int kCalm = 3;
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
  const UniqueFd fd(::open("/proc/self/statm", O_RDONLY | O_CLOEXEC));
  char text[128];
  const ssize_t n = fd ? ::read(fd.get(), text, sizeof text - 1) : -1;
  if (n <= 0) return 0;
  text[n] = '\0';
  char* rest = nullptr;
  std::strtoull(text, &rest, 10);  // size of the address space
  return std::strtoull(rest, nullptr, 10) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace zt
