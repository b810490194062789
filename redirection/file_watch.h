#pragma once
#include <functional>
#include <string>

#include "base/event_loop.h"

namespace zt::redirection {

// Tells that a file may have changed: written, replaced by rename, made or removed, also through the "..data"
// link of a Kubernetes volume. It watches the directory, since editors and volumes replace files instead of
// writing them. Events in quick succession are one. Loop's thread.
class FileWatch final : private Watcher {
 public:
  static constexpr std::chrono::milliseconds kSettle{50};

  FileWatch(EventLoop& loop, const std::string& path, std::function<void()> on_change);
  ~FileWatch();
  // kIo: the directory cannot be watched.
  Result<> start();

 private:
  void on_ready(uint32_t events) noexcept override;

  EventLoop& loop_;
  std::string directory_;
  std::string name_;
  std::function<void()> on_change_;
  UniqueFd inotify_;
  Timer settle_;
};

}  // namespace zt::redirection
