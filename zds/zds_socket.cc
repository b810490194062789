#include "zds/zds_socket.h"

#include <fmt/core.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/linux/unix_socket.h"
#include "mesh/reason.h"

namespace zt::zds {

namespace {

constexpr std::string_view kWhat = "ZDS socket";

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

}  // namespace

Result<> check_zds_path(const std::string& path) {
  ZT_TRY(unix_address(path, kWhat));
  return {};
}

Result<UniqueFd> connect_zds(const std::string& path) {
  ZT_ASSIGN(const sockaddr_un address, unix_address(path, kWhat));
  ZT_ASSIGN(UniqueFd socket, make_unix_socket(SOCK_SEQPACKET));
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail_errno(Reason::kIo, fmt::format("cannot connect to the node agent at {}", path));
  }
  return socket;
}

Result<UniqueFd> listen_zds(const std::string& path) { return listen_unix(path, SOCK_SEQPACKET, kWhat); }

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
