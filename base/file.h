#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

// Reading files that somebody else writes (configuration, keys, tokens), and writing small ones. Nothing here hangs on what is no file, and nothing reads
// more than the caller says. Errors name the path: kNotFound (nothing is there), kIo (the system refuses), kInvalidInput (it is
// no regular file, or larger than the limit). All functions block on file I/O.
namespace zt {

// What tells one state of a file from another without reading it; absent files are all the same.
struct FileVersion {
  bool exists = false;
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t size = 0;
  int64_t modified_ns = 0;
  int64_t changed_ns = 0;
  uint32_t mode = 0;  // permission bits

  friend bool operator==(const FileVersion&, const FileVersion&) = default;
};
// Follows symbolic links (Kubernetes mounts are made of them). An error is anything but "there" and "not there".
[[nodiscard]] Result<FileVersion> file_version(const std::string& path);

struct OpenFile {
  UniqueFd fd;
  size_t size = 0;  // as it was opened; files in /proc say 0
};
// A regular file for reading. `what`, such as "the token file", goes before the path in errors.
[[nodiscard]] Result<OpenFile> open_file(const std::string& path, size_t limit, std::string_view what = {});

// Up to into.size() bytes from `offset` on; fewer only at the end. `path` is for the error.
[[nodiscard]] Result<size_t> read_at(int fd, uint64_t offset, std::span<char> into, const std::string& path);

// The whole of a regular file of at most `limit` bytes.
[[nodiscard]] Result<std::string> read_file(const std::string& path, size_t limit, std::string_view what = {});

// Writes all of it to an open file. `path` is for the error.
Result<> write_all(int fd, std::string_view content, const std::string& path);

// Replaces the file, or makes it, as a whole: a reader, or a crash of the process, finds the former one or the new one. One
// writer at a time: the new one is written to PATH.new first. kIo.
Result<> replace_file(const std::string& path, std::string_view content, mode_t mode);

// "cannot DOING WHAT PATH: what errno says", and what to do about it where that is known. Reads errno.
[[nodiscard]] std::unexpected<Error> file_failure(std::string_view doing, const std::string& path, std::string_view what = {});

}  // namespace zt
