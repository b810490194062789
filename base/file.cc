#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace zt {
namespace {

std::string advice(int error) {
  switch (error) {
    case EACCES:
    case EPERM: return " (check owner and permissions; this process runs as uid " + std::to_string(::geteuid()) + ")";
    case ENOSPC:
    case EDQUOT: return " (free some space)";
    case EROFS: return " (point to a directory on a writable file system)";
    default: return {};
  }
}

std::string named(std::string_view what, const std::string& path) {
  return what.empty() ? path : std::string(what).append(" ").append(path);
}

std::unexpected<Error> too_large(std::string_view what, const std::string& path, size_t limit) {
  return fail(Fault::kInvalidInput, named(what, path) + " is larger than " + std::to_string(limit) + " bytes");
}

}  // namespace

std::unexpected<Error> file_failure(std::string_view doing, const std::string& path, std::string_view what) {
  const int error = errno;
  const bool absent = error == ENOENT || error == ENOTDIR;
  return fail(absent ? Fault::kNotFound : Fault::kIo,
              "cannot " + std::string(doing) + " " + named(what, path) + ": " + errno_text(error) + advice(error));
}

Result<FileVersion> file_version(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return FileVersion{};
    return file_failure("look at", path);
  }
  const auto nanoseconds = [](const timespec& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; };
  return FileVersion{.exists = true,
                     .device = status.st_dev,
                     .inode = status.st_ino,
                     .size = static_cast<uint64_t>(status.st_size),
                     .modified_ns = nanoseconds(status.st_mtim),
                     .changed_ns = nanoseconds(status.st_ctim),
                     .mode = status.st_mode & 07777u};
}

Result<OpenFile> open_file(const std::string& path, size_t limit, std::string_view what) {
  // O_NONBLOCK: opening a FIFO by mistake must not hang.
  OpenFile file{UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)), 0};
  struct stat status{};
  if (!file.fd || ::fstat(file.fd.get(), &status) != 0) return file_failure("read", path, what);
  if (!S_ISREG(status.st_mode)) return fail(Fault::kInvalidInput, named(what, path) + " is not a regular file");
  file.size = static_cast<size_t>(status.st_size);
  if (file.size > limit) return too_large(what, path, limit);
  return file;
}

Result<size_t> read_at(int fd, uint64_t offset, std::span<char> into, const std::string& path) {
  size_t done = 0;
  while (done < into.size()) {
    const ssize_t got = ::pread(fd, into.data() + done, into.size() - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return file_failure("read", path);
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

Result<std::string> read_file(const std::string& path, size_t limit, std::string_view what) {
  constexpr size_t kStep = 16 * 1024;
  ZT_ASSIGN(const OpenFile file, open_file(path, limit, what));
  std::string text;
  for (size_t wanted = std::min(file.size, limit) + 1;; wanted = std::min(text.size() + kStep, limit + 1)) {
    const size_t before = text.size();
    text.resize(wanted);
    ZT_ASSIGN(const size_t got, read_at(file.fd.get(), before, std::span(text).subspan(before), path));
    text.resize(before + got);
    if (text.size() > limit) return too_large(what, path, limit);
    if (text.size() < wanted) return text;
  }
}

Result<> write_all(int fd, std::string_view content, const std::string& path) {
  while (!content.empty()) {
    const ssize_t written = ::write(fd, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return file_failure("write", path);
    content.remove_prefix(static_cast<size_t>(written));
  }
  return {};
}

Result<> replace_file(const std::string& path, std::string_view content, mode_t mode) {
  const std::string temporary = path + ".new";
  const UniqueFd file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode));
  if (!file) return file_failure("write", temporary);
  ZT_TRY(write_all(file.get(), content, temporary));
  if (::rename(temporary.c_str(), path.c_str()) != 0) return file_failure("write", path);
  return {};
}

}  // namespace zt
