#pragma once
#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/event_loop.h"
#include "base/file.h"

namespace zt {

// Tells that a file may have changed: written and closed, replaced by rename, made or removed, a symbolic link on the way to it
// swapped (as Kubernetes does with mounted volumes). It watches directories, the path's and that of the file it leads to, since
// editors and volumes replace files instead of writing them, and the file itself, which may be mounted there alone. Every `poll` the file is compared as well, for file systems and
// directories that report nothing; a file that is being written is then waited for. Events in quick succession are one. It may tell
// of a change that was none: who cares compares what it reads. Loop's thread.
class FileWatch final : private Watcher {
 public:
  static constexpr std::chrono::milliseconds kSettle{50};
  static constexpr std::chrono::seconds kPoll{5};

  // `settle`: how long it has to be quiet before on_change() is called.
  FileWatch(EventLoop& loop, const std::string& path, std::function<void()> on_change, std::chrono::milliseconds settle = kSettle,
            std::chrono::milliseconds poll = kPoll);
  ~FileWatch();
  // To be called before the file is read for the first time, and once: an edit in between is then seen. kIo: the directory cannot
  // be watched; the file is compared all the same, and the directory tried again each time.
  Result<> start();

 private:
  void on_ready(uint32_t events) noexcept override;
  Result<> watch_directories();
  [[nodiscard]] bool concerns_us(std::string_view name) const;
  void compare();
  void tell();

  EventLoop& loop_;
  const std::string path_;
  const std::function<void()> on_change_;
  const std::chrono::milliseconds quiet_, every_;
  std::string name_, target_name_;  // in their directories: of the path, and of the file that it leads to
  UniqueFd inotify_;
  Timer settle_, poll_;
  std::optional<FileVersion> told_;     // when on_change() was called last; none: it could not be looked at
  std::optional<FileVersion> pending_;  // differed at the last poll: told once it has stopped changing
};

}  // namespace zt
