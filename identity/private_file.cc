#include "identity/private_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <openssl/crypto.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <span>

#include "base/unique_fd.h"
#include "mesh/reason.h"

namespace zt::identity {
namespace {

constexpr mode_t kFileMode = 0600;
constexpr mode_t kDirectoryMode = 0700;

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

Result<SecretText> read_private_file(const std::string& path) {
  ZT_ASSIGN(const OpenFile file, open_file(path, kMaxPrivateFileBytes));
  SecretText text(file.size);
  ZT_ASSIGN(const size_t length, read_at(file.fd.get(), 0, std::span(text.data(), text.capacity()), path));
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
        return file_failure("make directory", prefix);
      }
    }
    if (at != std::string::npos) at = path.find_first_not_of('/', at);
  }
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) return file_failure("look at", path);
  if (!S_ISDIR(status.st_mode)) return fail(Reason::kInvalidInput, path + " is not a directory");
  return {};
}

Result<Published> publish_private_file(const std::string& directory, const std::string& name, std::string_view content) {
  const std::string path = directory + "/" + name;
  std::string temporary = directory + "/." + name + ".XXXXXX";
  const UniqueFd fd(::mkostemp(temporary.data(), O_CLOEXEC));  // 0600 whatever the umask adds
  if (!fd) return file_failure("create a file in", directory);
  const Unlinker cleanup{temporary};
  if (::fchmod(fd.get(), kFileMode) != 0) return file_failure("protect", temporary);
  ZT_TRY(write_all(fd.get(), content, path));
  if (::fsync(fd.get()) != 0) return file_failure("write", path);

  Published outcome = Published::kCreated;
  if (move_unless_exists(temporary, path) != 0) {
    if (errno != EEXIST) return file_failure("create", path);
    outcome = Published::kExisted;
  }
  // The name must survive a crash as well; else another process could make another root after this one was
  // used.
  const UniqueFd parent(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!parent || ::fsync(parent.get()) != 0) return file_failure("sync", directory);
  return outcome;
}

}  // namespace zt::identity
