#pragma once
#include <sys/types.h>

#include <functional>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace zt::handover {

// A path at which the newest ready process of a node waits for the one that leaves. It is a socket that is renamed over the path when
// its process has become ready: so whoever finds somebody there finds one that can serve. Nothing is moved before that.

// Where this process waits. Loop's thread.
class MeetingPlace final : private Watcher {
 public:
  // Takes the path over from whoever had it. Each visitor that is of our user is given to `accept`, connected and not blocking; others are turned away.
  // Errors (kIo): the directory is not there, or full.
  static Result<std::unique_ptr<MeetingPlace>> take(EventLoop& loop, std::string path, std::function<void(UniqueFd)> accept);
  // Takes the socket away, unless a newer process has the path by now.
  ~MeetingPlace();
  MeetingPlace(const MeetingPlace&) = delete;
  // Whether the path is still this process's.
  [[nodiscard]] bool is_ours() const;

 private:
  MeetingPlace(EventLoop& loop, std::string path, UniqueFd listener, std::function<void(UniqueFd)> accept);
  void on_ready(uint32_t events) noexcept override;

  EventLoop& loop_;
  const std::string path_;
  UniqueFd listener_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  std::function<void(UniqueFd)> accept_;
};

// Connects to whoever waits at the path. Errors: kNotFound (nobody: no such path, or its process is dead), kInvalidInput (it is not ours: the
// path's owner or mode, or the process at the other end, is another user's), kIo.
Result<UniqueFd> visit(const std::string& path);

}  // namespace zt::handover
