// A calendar clock that a test moves under a program that runs: preloaded (LD_PRELOAD), it adds what the file
// named by WALL_CLOCK_FILE holds, a 64-bit count of seconds in the machine's order, to every reading of the
// time of day. Monotonic time goes on, as it does when a clock is set. It asks the kernel and needs nothing
// of libc on the way, so that it works before a sanitizer's runtime is up; for the same reason it is built
// without one.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <ctime>

namespace {

const int64_t* shift = nullptr;  // seconds; shared with the test

[[gnu::constructor]] void map_file() {
  const char* const path = std::getenv("WALL_CLOCK_FILE");
  const int file = path != nullptr ? ::open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void* const mapped = ::mmap(nullptr, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
  if (mapped != MAP_FAILED) shift = static_cast<const int64_t*>(mapped);
  ::close(file);
}

int read_clock(clockid_t clock, timespec* out) {
  const auto result = static_cast<int>(::syscall(SYS_clock_gettime, clock, out));
  if (result == 0 && shift != nullptr && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    out->tv_sec += __atomic_load_n(shift, __ATOMIC_RELAXED);
  return result;
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* out) noexcept { return read_clock(clock, out); }

int gettimeofday(timeval* out, void*) noexcept {
  timespec now{};
  const int result = read_clock(CLOCK_REALTIME, &now);
  out->tv_sec = now.tv_sec;
  out->tv_usec = now.tv_nsec / 1000;
  return result;
}

time_t time(time_t* out) noexcept {
  timespec now{};
  read_clock(CLOCK_REALTIME, &now);
  if (out != nullptr) *out = now.tv_sec;
  return now.tv_sec;
}
}
