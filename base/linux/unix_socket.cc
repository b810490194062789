#include "base/linux/unix_socket.h"

#include <fmt/core.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace zt {

Result<sockaddr_un> unix_address(const std::string& path, std::string_view what) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return fail(Fault::kInvalidInput,
                fmt::format("{} path '{}' must have 1 to {} bytes", what, path, sizeof address.sun_path - 1));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Result<UniqueFd> make_unix_socket(int type) {
  UniqueFd socket(::socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket)
    return fail_errno(Fault::kIo, type == SOCK_STREAM ? "socket(AF_UNIX, SOCK_STREAM)" : "socket(AF_UNIX, SOCK_SEQPACKET)");
  return socket;
}

namespace {

Result<> make_parents(const std::string& path) {
  const auto parent = std::filesystem::path(path).parent_path();
  if (parent.empty()) return {};
  std::error_code error;
  std::filesystem::create_directories(parent, error);
  if (error) return fail(Fault::kIo, fmt::format("directory {}: {}", parent.string(), error.message()));
  return {};
}

// Makes room for our socket: whatever is at the path must be a socket that nobody answers on.
Result<> remove_stale(const std::string& path, const sockaddr_un& address, int type) {
  struct stat file{};
  if (::lstat(path.c_str(), &file) != 0) {
    return errno == ENOENT ? Result<>{} : fail_errno(Fault::kIo, path);
  }
  if (!S_ISSOCK(file.st_mode)) {
    return fail(Fault::kInvalidInput, fmt::format("{} exists and is not a socket: remove it or use another path", path));
  }
  ZT_ASSIGN(const UniqueFd probe, make_unix_socket(type));
  // EAGAIN: somebody listens and is busy.
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 || errno == EAGAIN) {
    return fail(Fault::kInvalidInput, fmt::format("{} is in use: another agent is running. Stop it or use another path", path));
  }
  if (::unlink(path.c_str()) != 0) return fail_errno(Fault::kIo, fmt::format("cannot remove the stale socket {}", path));
  return {};
}

}  // namespace

Result<UniqueFd> listen_unix(const std::string& path, int type, std::string_view what) {
  constexpr int kBacklog = 16;
  ZT_ASSIGN(const sockaddr_un address, unix_address(path, what));
  ZT_TRY(make_parents(path));
  ZT_TRY(remove_stale(path, address, type));
  ZT_ASSIGN(UniqueFd socket, make_unix_socket(type));
  // The mode is set on the unbound socket, from which bind() takes it: the file never exists with wider
  // rights, and the process's umask, which other threads share, is left alone.
  if (::fchmod(socket.get(), 0600) != 0) return fail_errno(Fault::kIo, "fchmod");
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail_errno(Fault::kIo, fmt::format("cannot create the {} {}", what, path));
  }
  if (::listen(socket.get(), kBacklog) != 0) return fail_errno(Fault::kIo, fmt::format("listen on {}", path));
  return socket;
}

}  // namespace zt
