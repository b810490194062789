#pragma once
#include <arpa/inet.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

#include "base/address.h"
#include "base/linux/netns.h"
#include "mesh/reason.h"
#include "redirection/constants.h"
#include "tests/support/netns/testing.h"

// A pod and a peer as two network namespaces joined by a veth pair. Both are anonymous: the kernel removes
// them with all that is in them when the test ends, however it ends.
namespace zt::testing {

// Runs a shell command in the namespace; returns what it printed. The command must succeed.
inline std::string sh(const Netns& netns, const std::string& command) {
  const auto output = in_netns_thread(netns, [&]() -> Result<std::string> {
    std::FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
    if (pipe == nullptr) return fail_errno(Reason::kIo, "popen");
    std::string text;
    std::array<char, 4096> buffer;
    for (size_t n = 0; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) text.append(buffer.data(), n);
    const int status = ::pclose(pipe);
    if (status != 0) return fail(Reason::kIo, command + ": " + text);
    return text;
  });
  INFO(error_text(output));
  REQUIRE(output);
  return *output;
}

// Whether the kernel and the machine have iptables' old tables.
inline bool can_try_legacy_iptables() {
  static const bool can = [] {
    const auto found = in_netns_thread(make_netns(), []() -> Result<bool> {
      return std::system("iptables-legacy -w 10 -t nat -S >/dev/null 2>&1") == 0 &&  // NOLINT(concurrency-mt-unsafe)
             std::system("ip6tables-legacy -w 10 -t nat -S >/dev/null 2>&1") == 0;   // NOLINT(concurrency-mt-unsafe)
    });
    return found && *found;
  }();
  if (!can) WARN("not tried with iptables' legacy variant: iptables-legacy does not work here");
  return can;
}

struct TestPod {
  std::shared_ptr<const Netns> pod = std::make_shared<const Netns>(make_netns());
  Netns peer = make_netns();

  TestPod() {
    const std::string peer_path = "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(peer.fd());
    sh(*pod, "ip link set lo up && ip link add eth0 type veth peer name eth0 netns " + peer_path);
    sh(peer,
       "ip link set lo up && ip addr add 10.99.0.2/24 dev eth0 && ip addr add fd00:99::2/64 dev eth0 nodad "
       "&& "
       "ip link set eth0 up");
    // The default routes matter: an answer to a borrowed address must have a way out that the mark can
    // change.
    sh(*pod,
       "ip addr add 10.99.0.1/24 dev eth0 && ip addr add fd00:99::1/64 dev eth0 nodad && ip link set eth0 up "
       "&& "
       "ip route add default via 10.99.0.2 && ip -6 route add default via fd00:99::2");
    for (const bool v6 : {false, true}) {
      wait_reachable(*pod, {peer_ip(v6), 9});
      wait_reachable(peer, {pod_ip(v6), 9});
    }
  }

  // A fresh link carries packets only after a moment. Nobody listens at `to`: a refusal has made the way
  // there and back.
  static void wait_reachable(const Netns& from, const SocketAddress& to) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    for (bool refused = false; !refused;) {
      INFO(to.to_string());
      REQUIRE(std::chrono::steady_clock::now() < deadline);
      const auto socket = in_netns(from, [&]() -> Result<UniqueFd> {
        return UniqueFd(::socket(to.ip.is_v4() ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
      });
      REQUIRE(socket);
      const timeval limit{.tv_sec = 0, .tv_usec = 200'000};
      ::setsockopt(socket->get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
      sockaddr_storage address;
      const socklen_t length = to.to_sockaddr(address);
      ::connect(socket->get(), reinterpret_cast<const sockaddr*>(&address), length);
      refused = errno == ECONNREFUSED;
    }
  }

  static IpAddress pod_ip(bool v6) { return *IpAddress::parse(v6 ? "fd00:99::1" : "10.99.0.1"); }
  static IpAddress peer_ip(bool v6) { return *IpAddress::parse(v6 ? "fd00:99::2" : "10.99.0.2"); }
};

struct SocketOptions {
  uint32_t mark = 0;
  std::optional<SocketAddress> borrowed_source = {};  // bind to an address that is not ours (IP_TRANSPARENT)
  std::chrono::milliseconds connect_limit{5000};
};

inline void set_limits(int fd, std::chrono::milliseconds limit) {
  const timeval value{.tv_sec = limit.count() / 1000, .tv_usec = (limit.count() % 1000) * 1000};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &value, sizeof value);
  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &value, sizeof value);
}

// A listener on [::]:port (both families), as the proxy's are.
inline UniqueFd listen_in(const Netns& netns, uint16_t port, uint32_t mark = 0) {
  auto socket = in_netns(netns, []() -> Result<UniqueFd> { return UniqueFd(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0)); });
  REQUIRE(socket);
  const int on = 1;
  ::setsockopt(socket->get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (mark != 0) REQUIRE(::setsockopt(socket->get(), SOL_SOCKET, SO_MARK, &mark, sizeof mark) == 0);
  sockaddr_in6 any{};
  any.sin6_family = AF_INET6;
  any.sin6_port = htons(port);
  REQUIRE(::bind(socket->get(), reinterpret_cast<const sockaddr*>(&any), sizeof any) == 0);
  REQUIRE(::listen(socket->get(), 16) == 0);
  set_limits(socket->get(), std::chrono::milliseconds(5000));
  return std::move(*socket);
}

// -1 descriptor: did not connect within the limit.
inline UniqueFd connect_in(const Netns& netns, const SocketAddress& to, const SocketOptions& options = {}) {
  auto socket = in_netns(netns, [&]() -> Result<UniqueFd> {
    return UniqueFd(::socket(to.ip.is_v4() ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  });
  REQUIRE(socket);
  const int on = 1;
  if (options.mark != 0) REQUIRE(::setsockopt(socket->get(), SOL_SOCKET, SO_MARK, &options.mark, sizeof options.mark) == 0);
  sockaddr_storage address;
  if (options.borrowed_source) {
    REQUIRE((to.ip.is_v4() ? ::setsockopt(socket->get(), IPPROTO_IP, IP_TRANSPARENT, &on, sizeof on)
                           : ::setsockopt(socket->get(), IPPROTO_IPV6, IPV6_TRANSPARENT, &on, sizeof on)) == 0);
    const socklen_t length = options.borrowed_source->to_sockaddr(address);
    REQUIRE(::bind(socket->get(), reinterpret_cast<const sockaddr*>(&address), length) == 0);
  }
  set_limits(socket->get(), options.connect_limit);
  const socklen_t length = to.to_sockaddr(address);
  if (::connect(socket->get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) return {};
  set_limits(socket->get(), std::chrono::milliseconds(5000));
  return std::move(*socket);
}

// -1 descriptor: nobody came within 5 s.
inline UniqueFd accept_from(const UniqueFd& listener) {
  UniqueFd socket(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (socket) set_limits(socket.get(), std::chrono::milliseconds(5000));
  return socket;
}

// Nobody waits to be accepted now. The other end's connect() has returned, so its connection would be there.
inline bool nobody_at(const UniqueFd& listener) {
  const int flags = ::fcntl(listener.get(), F_GETFL);
  ::fcntl(listener.get(), F_SETFL, flags | O_NONBLOCK);
  const UniqueFd socket(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ::fcntl(listener.get(), F_SETFL, flags);
  return !socket;
}

inline SocketAddress peer_of(const UniqueFd& socket) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  REQUIRE(::getpeername(socket.get(), reinterpret_cast<sockaddr*>(&address), &length) == 0);
  return SocketAddress::from_sockaddr(address);
}

inline SocketAddress original_destination(const UniqueFd& socket, bool v6) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  INFO("SO_ORIGINAL_DST");
  REQUIRE(::getsockopt(socket.get(), v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IP6T_SO_ORIGINAL_DST : SO_ORIGINAL_DST, &address,
                       &length) == 0);
  return SocketAddress::from_sockaddr(address);
}

// Whether a byte written to one end arrives at the other within the limit.
inline bool passes(const UniqueFd& from, const UniqueFd& to, std::chrono::milliseconds limit = std::chrono::milliseconds(5000)) {
  set_limits(to.get(), limit);
  char byte = 'x';
  if (::send(from.get(), &byte, 1, MSG_NOSIGNAL) != 1) return false;
  byte = 0;
  return ::recv(to.get(), &byte, 1, 0) == 1 && byte == 'x';
}

}  // namespace zt::testing
