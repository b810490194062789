#include "base/linux/cpu_profiler.h"

#include <dirent.h>
#include <execinfo.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <thread>

namespace zt {
namespace {

constexpr size_t kMostFrames = 64;
constexpr size_t kSlots = 1 << 13;  // different stacks
constexpr size_t kProbes = 16;
constexpr std::chrono::milliseconds kHandlerPoll{1};

// The CPU clock of a thread, as the kernel names it (man clock_getcpuclockid; pthread_getcpuclockid() wants a pthread_t).
clockid_t cpu_clock_of(pid_t thread) {
  constexpr unsigned kPerThread = 4, kScheduled = 2;
  return static_cast<clockid_t>(~static_cast<unsigned>(thread) << 3 | kPerThread | kScheduled);
}

std::vector<pid_t> own_threads() {
  std::vector<pid_t> threads;
  DIR* const folder = ::opendir("/proc/self/task");
  if (folder == nullptr) return threads;
  while (const dirent* entry = ::readdir(folder)) {
    if (entry->d_name[0] != '.') threads.push_back(static_cast<pid_t>(std::strtol(entry->d_name, nullptr, 10)));
  }
  ::closedir(folder);
  return threads;
}

}  // namespace

// Filled by signal handlers: only atomics, no allocation.
struct CpuProfiler::Table {
  struct Slot {
    std::atomic<uint64_t> hash{0};  // 0: free
    std::atomic<uint64_t> count{0};
    std::atomic<size_t> frames{0};  // 0: being written
    std::array<void*, kMostFrames> stack;
  };
  std::array<Slot, kSlots> slots;
  std::atomic<uint64_t> lost{0};

  static std::atomic<Table*> current;
  static std::atomic<int> inside;  // handlers that may have seen `current`

  // In a signal handler. A thread may stand still in here for long (a CPU quota, a debugger): who takes `current` away waits.
  static void note_current(void* const* frames, size_t count) {
    inside.fetch_add(1);
    if (Table* const table = current.load()) table->note(frames, count);
    inside.fetch_sub(1);
  }
  static void retire(Table* mine) {
    if (!current.compare_exchange_strong(mine, nullptr)) return;
    while (inside.load() != 0) std::this_thread::sleep_for(kHandlerPoll);
  }

  void note(void* const* frames, size_t count) {
    uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = 0; i < count; ++i) hash = (hash ^ reinterpret_cast<uintptr_t>(frames[i])) * 0x100000001b3;
    hash |= 1;
    for (size_t probe = 0; probe < kProbes; ++probe) {
      Slot& slot = slots[((hash >> 20 ^ hash) + probe) & (kSlots - 1)];
      uint64_t there = 0;
      if (slot.hash.compare_exchange_strong(there, hash, std::memory_order_acq_rel)) {
        std::copy_n(frames, count, slot.stack.begin());
        slot.frames.store(count, std::memory_order_release);
      } else if (there != hash) {
        continue;
      }
      slot.count.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    lost.fetch_add(1, std::memory_order_relaxed);
  }
};

std::atomic<CpuProfiler::Table*> CpuProfiler::Table::current{nullptr};
std::atomic<int> CpuProfiler::Table::inside{0};

namespace {

// Set once, before the handler is: a late signal may still read it.
std::atomic<void (*)(void* const* frames, size_t count)> note_sample{nullptr};

void on_signal(int, siginfo_t*, void* context) {
  const int saved = errno;
  std::array<void*, kMostFrames + 2> frames;
  const auto found = static_cast<size_t>(std::max(0, ::backtrace(frames.data(), static_cast<int>(frames.size()))));
  // What is ours, and the kernel's way back, is no part of what was interrupted: that begins at its program counter.
  size_t first = std::min<size_t>(2, found);
#ifdef __x86_64__
  const auto* const at = reinterpret_cast<void*>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
#else
  const auto* const at = reinterpret_cast<void*>(static_cast<ucontext_t*>(context)->uc_mcontext.pc);
#endif
  for (size_t i = 0; i < std::min<size_t>(5, found); ++i) {
    if (frames[i] == at) first = i;
  }
  note_sample.load(std::memory_order_relaxed)(frames.data() + first, std::min(found - first, kMostFrames));
  errno = saved;
}

}  // namespace

CpuProfiler::CpuProfiler(int frequency)
    : table_(std::make_unique<Table>()), period_(std::chrono::nanoseconds(1'000'000'000 / frequency)) {}

Result<std::unique_ptr<CpuProfiler>> CpuProfiler::start(int frequency) {
  std::unique_ptr<CpuProfiler> profiler(new CpuProfiler(frequency));
  ZT_TRY(profiler->begin());
  return profiler;
}

Result<> CpuProfiler::begin() {
  Table* none = nullptr;
  if (!Table::current.compare_exchange_strong(none, table_.get()))
    return fail(Fault::kResourceLimit, "a CPU profile is being made already");
  note_sample.store(&Table::note_current, std::memory_order_relaxed);
  // The first call loads the unwinder, which must not happen in a signal handler.
  std::array<void*, 4> frames;
  ::backtrace(frames.data(), static_cast<int>(frames.size()));
  struct sigaction action{};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  if (::sigaction(SIGPROF, &action, nullptr) != 0) return fail(Fault::kIo, "sigaction: " + errno_text(errno));
  for (const pid_t thread : own_threads()) {
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGPROF;
    event._sigev_un._tid = thread;
    timer_t timer = nullptr;
    if (::timer_create(cpu_clock_of(thread), &event, &timer) != 0) continue;  // it has just ended
    itimerspec time{};
    time.it_interval.tv_sec = period_.count() / 1'000'000'000;
    time.it_interval.tv_nsec = period_.count() % 1'000'000'000;
    time.it_value = time.it_interval;
    ::timer_settime(timer, 0, &time, nullptr);
    timers_.push_back(timer);
  }
  if (timers_.empty()) return fail(Fault::kIo, "timer_create: " + errno_text(errno));
  return {};
}

CpuProfile CpuProfiler::stop() {
  for (void* const timer : timers_) ::timer_delete(timer);
  timers_.clear();
  // A signal may still be under way: the handler stays, and finds no table.
  Table::retire(table_.get());
  CpuProfile profile;
  profile.period = period_;
  profile.duration = std::chrono::steady_clock::now() - begun_;
  profile.begun =
      std::chrono::system_clock::now() - std::chrono::duration_cast<std::chrono::system_clock::duration>(profile.duration);
  profile.lost = table_->lost;
  for (const auto& slot : table_->slots) {
    const size_t frames = slot.frames.load(std::memory_order_acquire);
    if (frames == 0) continue;
    CpuProfile::Sample& sample = profile.samples.emplace_back();
    sample.count = slot.count.load(std::memory_order_relaxed);
    for (size_t i = 0; i < frames; ++i) sample.stack.push_back(reinterpret_cast<uintptr_t>(slot.stack[i]));
  }
  return profile;
}

CpuProfiler::~CpuProfiler() {
  if (!timers_.empty()) std::ignore = stop();
  Table::retire(table_.get());
}

}  // namespace zt
