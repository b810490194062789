#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

// Where this process spends its CPU time: each thread has a timer of its own CPU clock, whose signal finds the thread wherever it is and
// notes its stack. Nobody stops or waits; a sample costs its thread some microseconds. Idle threads cost nothing.
namespace zt {

struct CpuProfile {
  struct Sample {
    std::vector<uintptr_t> stack;  // innermost first
    uint64_t count = 0;
  };
  std::vector<Sample> samples;
  uint64_t lost = 0;  // that found no room
  std::chrono::nanoseconds period{0}, duration{0};
  std::chrono::system_clock::time_point begun;
};

// One at a time in a process: it has the signal SIGPROF. One thread.
class CpuProfiler {
 public:
  // `frequency`: samples a second of CPU time, 1 to 1000. Threads that begin later are not sampled.
  [[nodiscard]] static Result<std::unique_ptr<CpuProfiler>> start(int frequency);
  ~CpuProfiler();
  CpuProfiler(const CpuProfiler&) = delete;
  [[nodiscard]] CpuProfile stop();

 private:
  struct Table;
  explicit CpuProfiler(int frequency);
  Result<> begin();

  std::unique_ptr<Table> table_;
  std::vector<void*> timers_;  // timer_t
  const std::chrono::nanoseconds period_;
  const std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
};

// As pprof's profile.proto, not compressed: stacks by function name where the program has its symbols, and the mappings, by which pprof
// finds them elsewhere. Any thread; takes a moment.
[[nodiscard]] std::string pprof_of(const CpuProfile& profile);

}  // namespace zt
