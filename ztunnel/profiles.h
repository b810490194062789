#pragma once
#include <functional>
#include <memory>

#include "base/background_thread.h"
#include "base/linux/cpu_profiler.h"
#include "ztunnel/admin/http_server.h"

namespace zt::ztunnel {

// Answers /debug/pprof/profile: samples the process for a while, then writes what was found as pprof reads it. The HTTP server's thread.
class Profiles {
 public:
  using After = std::function<void(std::chrono::milliseconds time, std::function<void()> fn)>;
  // `after` calls back on the HTTP server's thread; `thread` does the writing. Both outlive this.
  Profiles(BackgroundThread& thread, After after) : thread_(thread), after_(std::move(after)) {}

  // 503 if one is being made.
  void cpu(std::chrono::seconds duration, int frequency, const HttpRespond& respond);

 private:
  BackgroundThread& thread_;
  const After after_;
  std::unique_ptr<CpuProfiler> profiler_;
};

}  // namespace zt::ztunnel
