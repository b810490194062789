#include "identity/private_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <openssl/crypto.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "base/unique_fd.h"
#include "mesh/reason.h"

namespace zt::identity {
namespace {

constexpr mode_t kFileMode = 0600;
constexpr mode_t kDirectoryMode = 0700;

std::string advice(int error) {
  switch (error) {
    case EACCES:
    case EPERM: return " (check owner and permissions; this process runs as uid " + std::to_string(geteuid()) + ")";
    case ENOSPC:
    case EDQUOT: return " (free some space)";
    case EROFS: return " (point to a directory on a writable file system)";
    default: return {};
  }
}

std::unexpected<Error> io_failure(std::string_view doing, const std::string& path) {
  const int error = errno;
  return fail(Reason::kIo, "cannot " + std::string(doing) + " " + path + ": " + errno_text(error) + advice(error));
}

Result<> write_all(int fd, std::string_view content, const std::string& path) {
  while (!content.empty()) {
    const ssize_t written = ::write(fd, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return io_failure("write", path);
    content.remove_prefix(static_cast<size_t>(written));
  }
  if (::fsync(fd) != 0) return io_failure("write", path);
  return {};
}

// Gives `from` the name `to` unless that exists. RENAME_NOREPLACE first, hard links where the file system
// lacks it (NFS).
int move_unless_exists(const std::string& from, const std::string& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return -1;
  return ::link(from.c_str(), to.c_str());
}

struct Unlinker {
  const std::string& path;
  ~Unlinker() { ::unlink(path.c_str()); }
};

}  // namespace

SecretText::~SecretText() { OPENSSL_cleanse(bytes_.data(), bytes_.size()); }

Result<FileVersion> file_version(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return FileVersion{};
    return io_failure("look at", path);
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

Result<SecretText> read_private_file(const std::string& path) {
  // O_NONBLOCK: opening a FIFO by mistake must not hang.
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat status{};
  if (!fd || ::fstat(fd.get(), &status) != 0) return io_failure("read", path);
  if (!S_ISREG(status.st_mode)) return fail(Reason::kInvalidInput, path + " is not a regular file");
  if (static_cast<uint64_t>(status.st_size) > kMaxPrivateFileBytes)
    return fail(Reason::kInvalidInput, path + " is larger than " + std::to_string(kMaxPrivateFileBytes) + " bytes");
  SecretText text(static_cast<size_t>(status.st_size));
  size_t length = 0;
  while (length < text.capacity()) {
    const ssize_t got = ::read(fd.get(), text.data() + length, text.capacity() - length);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return io_failure("read", path);
    if (got == 0) break;
    length += static_cast<size_t>(got);
  }
  text.set_length(length);
  return text;
}

Result<> make_private_directory(const std::string& path) {
  for (size_t at = path.find_first_not_of('/'); at != std::string::npos;) {
    at = path.find('/', at);
    const std::string prefix = path.substr(0, at);
    if (::mkdir(prefix.c_str(), kDirectoryMode) != 0 && errno != EEXIST) {
      // A parent that we may not write to, or on a read-only file system, is fine as long as it is there.
      const int error = errno;
      struct stat status{};
      if (::stat(prefix.c_str(), &status) != 0) {
        errno = error;
        return io_failure("make directory", prefix);
      }
    }
    if (at != std::string::npos) at = path.find_first_not_of('/', at);
  }
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) return io_failure("look at", path);
  if (!S_ISDIR(status.st_mode)) return fail(Reason::kInvalidInput, path + " is not a directory");
  return {};
}

Result<Published> publish_private_file(const std::string& directory, const std::string& name, std::string_view content) {
  const std::string path = directory + "/" + name;
  std::string temporary = directory + "/." + name + ".XXXXXX";
  const UniqueFd fd(::mkostemp(temporary.data(), O_CLOEXEC));  // 0600 whatever the umask adds
  if (!fd) return io_failure("create a file in", directory);
  const Unlinker cleanup{temporary};
  if (::fchmod(fd.get(), kFileMode) != 0) return io_failure("protect", temporary);
  ZT_TRY(write_all(fd.get(), content, path));

  Published outcome = Published::kCreated;
  if (move_unless_exists(temporary, path) != 0) {
    if (errno != EEXIST) return io_failure("create", path);
    outcome = Published::kExisted;
  }
  // The name must survive a crash as well; else another process could make another root after this one was
  // used.
  const UniqueFd parent(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!parent || ::fsync(parent.get()) != 0) return io_failure("sync", directory);
  return outcome;
}

}  // namespace zt::identity
