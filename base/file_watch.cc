#include "base/file_watch.h"

#include <fmt/core.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <utility>

namespace zt {
namespace {

constexpr uint32_t kEvents = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF;

std::string directory_of(const std::string& path) {
  const std::filesystem::path file(path);
  return file.has_parent_path() ? file.parent_path().string() : ".";
}

std::optional<FileVersion> look_at(const std::string& path) {
  const auto version = file_version(path);
  return version ? std::optional(*version) : std::nullopt;
}

}  // namespace

FileWatch::FileWatch(EventLoop& loop, const std::string& path, std::function<void()> on_change, std::chrono::milliseconds settle,
                     std::chrono::milliseconds poll)
    : loop_(loop),
      path_(path),
      on_change_(std::move(on_change)),
      quiet_(settle),
      every_(poll),
      name_(std::filesystem::path(path).filename().string()),
      settle_(loop),
      poll_(loop) {}

FileWatch::~FileWatch() {
  if (inotify_) loop_.unwatch(inotify_.get(), *this);
}

Result<> FileWatch::start() {
  poll_.start_after(every_, [this] { compare(); });
  told_ = look_at(path_);
  return watch_directories();
}

// A directory that has been replaced is a new one to the kernel, so this is done again after every change; watching one twice is
// watching it once.
Result<> FileWatch::watch_directories() {
  if (!inotify_) {
    UniqueFd inotify(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    if (!inotify) return fail_errno(Fault::kIo, "inotify_init1");
    ZT_TRY(loop_.watch(inotify.get(), *this));
    inotify_ = std::move(inotify);
  }
  const std::string directory = directory_of(path_);
  if (::inotify_add_watch(inotify_.get(), directory.c_str(), kEvents | IN_ONLYDIR) < 0) {
    return fail_errno(Fault::kIo, fmt::format("cannot watch directory {}", directory));
  }
  // A file that is mounted by itself is written through a directory that is not seen here.
  (void)::inotify_add_watch(inotify_.get(), path_.c_str(), IN_CLOSE_WRITE);
  std::array<char, PATH_MAX> resolved{};
  if (::realpath(path_.c_str(), resolved.data()) == nullptr) return {};
  const std::string target = resolved.data();
  target_name_ = std::filesystem::path(target).filename().string();
  (void)::inotify_add_watch(inotify_.get(), directory_of(target).c_str(), kEvents);
  return {};
}

bool FileWatch::concerns_us(std::string_view name) const {
  // "..data" and its like are the links of a mounted volume.
  return name.empty() || name == name_ || name == target_name_ || name.starts_with("..");
}

void FileWatch::on_ready(uint32_t) noexcept {
  bool ours = false;
  alignas(inotify_event) std::array<char, 16384> buffer;
  while (true) {
    const ssize_t n = ::read(inotify_.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    for (const char* at = buffer.data(); at < buffer.data() + n;) {
      inotify_event event{};
      std::memcpy(&event, at, sizeof event);
      const std::string_view name(at + sizeof event, ::strnlen(at + sizeof event, event.len));
      at += sizeof event + event.len;
      if ((event.mask & IN_CREATE) != 0 && concerns_us(name)) {
        // A file that has just been made is still empty; its IN_CLOSE_WRITE comes. A link is complete.
        struct stat status{};
        const std::string made = directory_of(path_) + "/" + std::string(name);
        if (::lstat(made.c_str(), &status) == 0 && S_ISREG(status.st_mode)) continue;
      }
      if ((event.mask & IN_IGNORED) != 0) continue;  // a watch went with what it watched
      ours |= concerns_us(name) || (event.mask & IN_Q_OVERFLOW) != 0;
    }
  }
  if (ours) settle_.start_after(quiet_, [this] { tell(); });
}

void FileWatch::compare() {
  poll_.start_after(every_, [this] { compare(); });
  (void)watch_directories();
  const auto now = look_at(path_);
  if (!now || now == told_) {
    pending_.reset();
  } else if (now == pending_) {
    tell();
  } else {
    pending_ = now;
  }
}

void FileWatch::tell() {
  pending_.reset();
  told_ = look_at(path_);
  (void)watch_directories();
  on_change_();
}

}  // namespace zt
