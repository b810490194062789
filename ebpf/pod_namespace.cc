#include "ebpf/pod_namespace.h"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <ifaddrs.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/linux/netlink.h"
#include "mesh/reason.h"
#include "redirection/constants.h"

namespace zt::redirection {

namespace {

constexpr std::array<const char*, 3> kMarkSettings{"/proc/sys/net/ipv4/tcp_fwmark_accept", "/proc/sys/net/ipv4/fwmark_reflect",
                                                   "/proc/sys/net/ipv6/fwmark_reflect"};

zt_address from_v4(const in_addr& ip) {
  zt_address address{};
  address.word[2] = htonl(0xffff);
  address.word[3] = ip.s_addr;
  return address;
}

zt_address from_v6(const in6_addr& ip) {
  zt_address address{};
  std::memcpy(&address, &ip, sizeof ip);
  return address;
}

zt_address from(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET) return from_v4(reinterpret_cast<const sockaddr_in&>(address).sin_addr);
  if (address.ss_family == AF_INET6) return from_v6(reinterpret_cast<const sockaddr_in6&>(address).sin6_addr);
  return {};
}

// What the kernel would take for the source of a packet to far away. Sends nothing.
zt_address source_towards(int family, const char* far) {
  const UniqueFd socket(::socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_storage to{};
  socklen_t length = sizeof(sockaddr_in);
  if (family == AF_INET) {
    auto& v4 = reinterpret_cast<sockaddr_in&>(to);
    v4.sin_family = AF_INET;
    v4.sin_port = htons(9);
    ::inet_pton(AF_INET, far, &v4.sin_addr);
  } else {
    auto& v6 = reinterpret_cast<sockaddr_in6&>(to);
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(9);
    ::inet_pton(AF_INET6, far, &v6.sin6_addr);
    length = sizeof(sockaddr_in6);
  }
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&to), length) != 0) return {};
  sockaddr_storage own{};
  length = sizeof own;
  if (::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&own), &length) != 0) return {};
  return from(own);
}

bool same(const zt_address& a, const zt_address& b) { return std::memcmp(&a, &b, sizeof a) == 0; }
bool is_v4(const zt_address& address) { return address.word[0] == 0 && address.word[1] == 0 && address.word[2] == htonl(0xffff); }
bool is_loopback(const zt_address& address) {
  if (is_v4(address)) return (ntohl(address.word[3]) >> 24) == 127;
  return (address.word[0] | address.word[1] | address.word[2]) == 0 && address.word[3] == htonl(1);
}
bool is_link_local(const zt_address& address) { return (ntohl(address.word[0]) & 0xffc00000) == 0xfe800000; }

// A source that is an address of the pod's: the route's, or the first that will do.
zt_address choose(const zt_address& routed, const std::vector<zt_address>& addresses, bool v4) {
  const auto is = [&](const zt_address& address) { return same(address, routed); };
  if (std::any_of(addresses.begin(), addresses.end(), is)) return routed;
  const auto fits = [&](const zt_address& address) { return is_v4(address) == v4 && !is_link_local(address); };
  const auto first = std::find_if(addresses.begin(), addresses.end(), fits);
  return first == addresses.end() ? zt_address{} : *first;
}

// The numbers by which /proc names the sockets that listen at 15006 with the proxy's mark.
Result<std::vector<uint32_t>> listening_inodes() {
  std::vector<uint32_t> inodes;
  ZT_ASSIGN(NetlinkSocket netlink, NetlinkSocket::open(NETLINK_SOCK_DIAG));
  for (const uint8_t family : {AF_INET, AF_INET6}) {
    inet_diag_req_v2 query{};
    query.sdiag_family = family;
    query.sdiag_protocol = IPPROTO_TCP;
    query.idiag_states = 1u << TCP_LISTEN;
    const auto on_socket = [&](const nlmsghdr& message) {
      const auto* socket = body_of<inet_diag_msg>(message);
      if (message.nlmsg_type != SOCK_DIAG_BY_FAMILY || socket == nullptr) return;
      uint32_t mark = 0;
      for_each_attribute(message, sizeof *socket, [&](const nlattr& attribute) {
        if (::mnl_attr_get_type(&attribute) == INET_DIAG_MARK) mark = as_u32(attribute);
      });
      if (ntohs(socket->id.idiag_sport) == kInboundPlaintextPort && (mark & kMarkMask) == kProxyMark) {
        inodes.push_back(socket->idiag_inode);
      }
    };
    ZT_TRY(netlink.dump(NetlinkRequest(SOCK_DIAG_BY_FAMILY, 0, query), on_socket, [] {}));
  }
  return inodes;
}

}  // namespace

Result<PodNamespace> look_at_namespace() {
  PodNamespace found;
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  socklen_t length = sizeof found.cookie;
  if (!socket || ::getsockopt(socket.get(), SOL_SOCKET, SO_NETNS_COOKIE, &found.cookie, &length) != 0) {
    return fail_errno(Reason::kIo, "eBPF: cannot tell a network namespace's cookie (Linux 5.14 can)");
  }
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return fail_errno(Reason::kIo, "cannot list the pod's addresses");
  for (const ifaddrs* each = list; each != nullptr; each = each->ifa_next) {
    if (each->ifa_addr == nullptr) continue;
    const int family = each->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    const zt_address address = family == AF_INET ? from_v4(reinterpret_cast<const sockaddr_in*>(each->ifa_addr)->sin_addr)
                                                 : from_v6(reinterpret_cast<const sockaddr_in6*>(each->ifa_addr)->sin6_addr);
    if (!is_loopback(address)) found.addresses.push_back(address);
  }
  ::freeifaddrs(list);
  found.own4 = choose(source_towards(AF_INET, "192.0.2.1"), found.addresses, true);
  found.own6 = choose(source_towards(AF_INET6, "2001:db8::1"), found.addresses, false);
  return found;
}

bool answers_keep_marks() {
  return std::all_of(kMarkSettings.begin(), kMarkSettings.end(), [](const char* path) {
    std::ifstream file(path);
    int value = 0;
    return !file.is_open() || ((file >> value) && value != 0);  // a kernel without IPv6 has no such file
  });
}

Result<> set_answers_keep_marks(bool on) {
  for (const char* path : kMarkSettings) {
    if (::access(path, F_OK) != 0) continue;
    std::ofstream file(path);
    if (!(file << (on ? 1 : 0) << std::flush)) return fail_errno(Reason::kIo, fmt::format("cannot write {}", path));
  }
  return {};
}

Result<bool> has_proxy() {
  ZT_ASSIGN(const std::vector<uint32_t> inodes, listening_inodes());
  return !inodes.empty();
}

Result<std::vector<UniqueFd>> take_listeners() {
  std::vector<UniqueFd> sockets;
  ZT_ASSIGN(const std::vector<uint32_t> inodes, listening_inodes());
  if (inodes.empty()) return sockets;
  std::vector<std::string> wanted;
  for (const uint32_t inode : inodes) wanted.push_back(fmt::format("socket:[{}]", inode));
  // Processes and descriptors come and go meanwhile: what is gone is not there.
  std::error_code error;
  for (std::filesystem::directory_iterator processes("/proc", error), end; !error && processes != end;
       processes.increment(error)) {
    const std::string name = processes->path().filename();
    pid_t pid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), pid).ec != std::errc{}) continue;
    std::error_code gone;
    for (std::filesystem::directory_iterator fds(processes->path() / "fd", gone), last; !gone && fds != last;
         fds.increment(gone)) {
      std::error_code unreadable;
      const std::string target = std::filesystem::read_symlink(fds->path(), unreadable);
      const auto at = std::find(wanted.begin(), wanted.end(), target);
      if (unreadable || at == wanted.end()) continue;
      const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
      UniqueFd socket(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), std::stoi(fds->path().filename()), 0)));
      if (!socket) return fail_errno(Reason::kIo, "eBPF: cannot take the listener of the proxy that serves the pod already");
      sockets.push_back(std::move(socket));
      wanted.erase(at);
      if (wanted.empty()) return sockets;
    }
  }
  // Those that were closed meanwhile are not missed.
  ZT_ASSIGN(const std::vector<uint32_t> now, listening_inodes());
  const bool hidden = std::any_of(now.begin(), now.end(), [&](uint32_t inode) {
    return std::find(wanted.begin(), wanted.end(), fmt::format("socket:[{}]", inode)) != wanted.end();
  });
  if (!hidden) return sockets;
  return fail(
      Reason::kNotFound,
      "eBPF: a proxy listens in the pod already, and its process cannot be seen: the agent needs the host's processes (hostPID)");
}

}  // namespace zt::redirection
