#include "zds/zds_socket.h"

#include <fmt/core.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "mesh/reason.h"

namespace zt::zds {

namespace {

// Takes ownership of every descriptor that arrived, before anything else is looked at.
std::vector<UniqueFd> take_descriptors(msghdr& message) {
  std::vector<UniqueFd> descriptors;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      descriptors.emplace_back(fd);
    }
  }
  return descriptors;
}

Result<sockaddr_un> socket_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return fail(Reason::kInvalidInput,
                fmt::format("ZDS socket path '{}' must have 1 to {} bytes", path, sizeof address.sun_path - 1));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Result<UniqueFd> make_socket() {
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno(Reason::kIo, "socket(AF_UNIX, SOCK_SEQPACKET)");
  return socket;
}

Result<> make_parents(const std::string& path) {
  const auto parent = std::filesystem::path(path).parent_path();
  if (parent.empty()) return {};
  std::error_code error;
  std::filesystem::create_directories(parent, error);
  if (error) return fail(Reason::kIo, fmt::format("directory {}: {}", parent.string(), error.message()));
  return {};
}

// Makes room for our socket: whatever is at the path must be a socket that nobody answers on.
Result<> remove_stale(const std::string& path, const sockaddr_un& address) {
  struct stat file{};
  if (::lstat(path.c_str(), &file) != 0) {
    return errno == ENOENT ? Result<>{} : fail_errno(Reason::kIo, path);
  }
  if (!S_ISSOCK(file.st_mode)) {
    return fail(Reason::kInvalidInput, fmt::format("{} exists and is not a socket: remove it or use another path", path));
  }
  ZT_ASSIGN(const UniqueFd probe, make_socket());
  // EAGAIN: somebody listens and is busy.
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 || errno == EAGAIN) {
    return fail(Reason::kInvalidInput, fmt::format("{} is in use: another agent is running. Stop it or use another path", path));
  }
  if (::unlink(path.c_str()) != 0) return fail_errno(Reason::kIo, fmt::format("cannot remove the stale socket {}", path));
  return {};
}

}  // namespace

Result<> check_zds_path(const std::string& path) {
  ZT_TRY(socket_address(path));
  return {};
}

Result<UniqueFd> connect_zds(const std::string& path) {
  ZT_ASSIGN(const sockaddr_un address, socket_address(path));
  ZT_ASSIGN(UniqueFd socket, make_socket());
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail_errno(Reason::kIo, fmt::format("cannot connect to the node agent at {}", path));
  }
  return socket;
}

Result<UniqueFd> listen_zds(const std::string& path) {
  constexpr int kBacklog = 16;
  ZT_ASSIGN(const sockaddr_un address, socket_address(path));
  ZT_TRY(make_parents(path));
  ZT_TRY(remove_stale(path, address));
  ZT_ASSIGN(UniqueFd socket, make_socket());
  // The mode is set on the unbound socket, from which bind() takes it: the file never exists with wider
  // rights, and the process's umask, which other threads share, is left alone.
  if (::fchmod(socket.get(), 0600) != 0) return fail_errno(Reason::kIo, "fchmod");
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail_errno(Reason::kIo, fmt::format("cannot create the ZDS socket {}", path));
  }
  if (::listen(socket.get(), kBacklog) != 0) return fail_errno(Reason::kIo, fmt::format("listen on {}", path));
  return socket;
}

Result<std::optional<ZdsPacket>> receive_packet(int socket) {
  // The kernel passes at most 253 descriptors with a message (SCM_MAX_FD). There is room for all of them, so
  // that however many a peer sends they are seen, counted and closed here.
  constexpr size_t kMostDescriptors = 253;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMostDescriptors * sizeof(int))> control;
  std::array<char, kMaxZdsMessage> data;
  iovec part{.iov_base = data.data(), .iov_len = data.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();

  ssize_t n = 0;
  do {
    n = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (n < 0 && errno == EINTR);
  if (n < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return std::nullopt;
    return fail_errno(Reason::kIo, "recvmsg");
  }
  std::vector<UniqueFd> descriptors = take_descriptors(message);
  if ((message.msg_flags & MSG_TRUNC) != 0) {
    return fail(Reason::kInvalidInput, fmt::format("ZDS message longer than {} bytes", kMaxZdsMessage));
  }
  if ((message.msg_flags & MSG_CTRUNC) != 0) {
    return fail(Reason::kInvalidInput, "descriptors of a ZDS message were lost (out of file descriptors?)");
  }
  if (descriptors.size() > 1) {
    return fail(Reason::kInvalidInput, fmt::format("{} descriptors with one ZDS message", descriptors.size()));
  }
  ZdsPacket packet{.bytes = std::string(data.data(), static_cast<size_t>(n)), .fd = {}};
  if (!descriptors.empty()) packet.fd = std::move(descriptors.front());
  return packet;
}

Result<> check_fd_rule(const WorkloadRequest& request, bool has_fd) {
  const bool wants_fd = std::holds_alternative<AddWorkload>(request);
  if (wants_fd == has_fd) return {};
  return fail(Reason::kInvalidInput,
              fmt::format("{} {} the network namespace's descriptor", request_kind(request), wants_fd ? "without" : "with"));
}

Result<bool> send_packet(int socket, std::string_view bytes, int fd) {
  if (bytes.size() > kMaxZdsMessage) {
    return fail(Reason::kInvalidInput,
                fmt::format("ZDS message of {} bytes exceeds the limit of {}", bytes.size(), kMaxZdsMessage));
  }
  iovec part{.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof fd)> control{};
  if (fd >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  ssize_t n = 0;
  do {
    n = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (n < 0 && errno == EINTR);
  if (n >= 0) return true;
  if (errno == EAGAIN || errno == EWOULDBLOCK) return false;
  return fail_errno(Reason::kIo, "sendmsg");
}

}  // namespace zt::zds
