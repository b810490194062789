#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace zt {

// One thread that runs what it is given, one after the other: for work that would hold up the control thread
// or gRPC's own few threads (files, keys, decoding).
class BackgroundThread {
 public:
  explicit BackgroundThread(const std::string& name);  // at most 15 bytes, as the kernel has it
  ~BackgroundThread();                                 // finishes the job at hand, drops those that have not begun
  BackgroundThread(const BackgroundThread&) = delete;
  BackgroundThread& operator=(const BackgroundThread&) = delete;

  void post(std::move_only_function<void()> job);  // any thread
  [[nodiscard]] size_t queued() const;             // any thread

 private:
  void run();

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::move_only_function<void()>> jobs_;  // guarded by mutex_
  bool stopping_ = false;                             // guarded by mutex_
  std::thread thread_;
};

}  // namespace zt
