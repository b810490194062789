#include "base/file_watch.h"

#include <fmt/core.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <utility>

namespace zt {

FileWatch::FileWatch(EventLoop& loop, const std::string& path, std::function<void()> on_change, std::chrono::milliseconds settle)
    : loop_(loop), on_change_(std::move(on_change)), quiet_(settle), settle_(loop) {
  const std::filesystem::path file(path);
  directory_ = file.has_parent_path() ? file.parent_path().string() : ".";
  name_ = file.filename().string();
}

FileWatch::~FileWatch() {
  if (inotify_) loop_.unwatch(inotify_.get(), *this);
}

Result<> FileWatch::start() {
  UniqueFd inotify(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (!inotify) return fail_errno(Fault::kIo, "inotify_init1");
  constexpr uint32_t kEvents = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_ONLYDIR;
  if (::inotify_add_watch(inotify.get(), directory_.c_str(), kEvents) < 0) {
    return fail_errno(Fault::kIo, fmt::format("cannot watch directory {}", directory_));
  }
  ZT_TRY(loop_.watch(inotify.get(), *this));
  inotify_ = std::move(inotify);
  return {};
}

void FileWatch::on_ready(uint32_t) noexcept {
  bool ours = false;
  alignas(inotify_event) std::array<char, 4096> buffer;
  for (ssize_t n = 0; (n = ::read(inotify_.get(), buffer.data(), buffer.size())) > 0;) {
    for (const char* at = buffer.data(); at < buffer.data() + n;) {
      inotify_event event{};
      std::memcpy(&event, at, sizeof event);
      const std::string_view name(at + sizeof event, ::strnlen(at + sizeof event, event.len));
      ours |= name == name_ || name == "..data" || (event.mask & IN_Q_OVERFLOW) != 0;
      at += sizeof event + event.len;
    }
  }
  if (ours) settle_.start_after(quiet_, [this] { on_change_(); });
}

}  // namespace zt
