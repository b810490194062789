#pragma once
#include <chrono>
#include <functional>
#include <string>

#include "base/event_loop.h"

namespace zt {

// Tells that a file may have changed: written, replaced by rename, made or removed, also through the "..data"
// link of a Kubernetes volume. It watches the directory, since editors and volumes replace files instead of
// writing them. Events in quick succession are one. Loop's thread.
class FileWatch final : private Watcher {
 public:
  static constexpr std::chrono::milliseconds kSettle{50};

  // `settle`: how long it has to be quiet before on_change() is called.
  FileWatch(EventLoop& loop, const std::string& path, std::function<void()> on_change,
            std::chrono::milliseconds settle = kSettle);
  ~FileWatch();
  // kIo: the directory cannot be watched. May be called again then.
  Result<> start();

 private:
  void on_ready(uint32_t events) noexcept override;

  EventLoop& loop_;
  std::string directory_;
  std::string name_;
  std::function<void()> on_change_;
  const std::chrono::milliseconds quiet_;
  UniqueFd inotify_;
  Timer settle_;
};

}  // namespace zt
