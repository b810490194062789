#include "base/linux/sockets.h"

#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <netinet/in.h>
#include <sys/socket.h>

namespace zt {

Result<UniqueFd> make_socket(const Netns* netns, int family, int type) {
  const auto make = [&]() -> Result<UniqueFd> {
    UniqueFd fd(::socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) return fail_errno(Fault::kIo, "socket");
    return fd;
  };
  return netns != nullptr ? in_netns(*netns, make) : make();
}

bool set_int(int fd, int level, int option, int value) { return ::setsockopt(fd, level, option, &value, sizeof value) == 0; }

void unsteer(int fd) {
  // An error says that there is none, or that the kernel (before 5.3) cannot.
  set_int(fd, SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0);
}

Result<> set_mark(int fd, uint32_t mark) {
  if (mark == 0 || ::setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark) == 0) return {};
  return fail_errno(Fault::kIo, "setting SO_MARK (needs CAP_NET_RAW or CAP_NET_ADMIN)");
}

SocketAddress local_address(int fd) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &length);
  return SocketAddress::from_sockaddr(storage);
}

std::optional<SocketAddress> redirected_from(int fd) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  if (::getsockopt(fd, IPPROTO_IP, SO_ORIGINAL_DST, &storage, &length) == 0) return SocketAddress::from_sockaddr(storage);
  length = sizeof storage;
  if (::getsockopt(fd, IPPROTO_IPV6, IP6T_SO_ORIGINAL_DST, &storage, &length) == 0) return SocketAddress::from_sockaddr(storage);
  return std::nullopt;
}

}  // namespace zt
