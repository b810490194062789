#include "base/linux/cpu_profiler.h"

#include <time.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

using namespace zt;
using namespace std::chrono_literals;

namespace {

std::atomic<uint64_t> sink{0};

}  // namespace

// With external linkage, so that its name is in the profile whatever the compiler thinks of it.
[[gnu::noinline]] void burn_the_processor_for_the_profile(std::chrono::milliseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
    for (uint64_t i = 0; i < 10'000; ++i) sink.fetch_add(i * i, std::memory_order_relaxed);
  }
}

TEST_CASE("a profile finds a busy thread that does not know of it, by name") {
  std::atomic<bool> ended = false;
  std::atomic<int64_t> used_ms = 0;
  std::thread busy([&] {
    while (!ended) {
      burn_the_processor_for_the_profile(10ms);
      timespec used{};
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
      used_ms = used.tv_sec * 1000 + used.tv_nsec / 1'000'000;
    }
  });
  auto profiler = CpuProfiler::start(1000);
  REQUIRE(profiler);
  CHECK_FALSE(CpuProfiler::start(100));  // one at a time
  // As long as it takes on a machine that others use as well.
  uint64_t samples = 0;
  const int64_t before = used_ms;
  const auto limit = std::chrono::steady_clock::now() + 20s;
  while (used_ms < before + 300 && std::chrono::steady_clock::now() < limit) std::this_thread::sleep_for(5ms);
  CpuProfile profile = (*profiler)->stop();
  ended = true;
  busy.join();
  profiler->reset();
  for (const auto& sample : profile.samples) samples += sample.count;
  CHECK(samples > 0);
  CHECK(profile.period == 1ms);
  CHECK(profile.duration >= 300ms);
  const std::string text = pprof_of(profile);
  CHECK(text.find("burn_the_processor_for_the_profile") != std::string::npos);
  CHECK(text.find("nanoseconds") != std::string::npos);
  // Another one begins from nothing.
  auto again = CpuProfiler::start(100);
  REQUIRE(again);
  uint64_t anew = 0;
  for (const auto& sample : (*again)->stop().samples) anew += sample.count;
  CHECK(anew < samples / 2);
}
