#include "ztunnel/proxy/sockets.h"

#include <linux/filter.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <random>

#include "base/log.h"
#include "mesh/reason.h"

namespace zt::ztunnel {

namespace {

log::Scope kLog("proxy");

void set_keepalive(int fd, const SocketOptions& options) {
  // Errors are ignored: a kernel without an option still moves bytes.
  if (options.keepalive) {
    set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, static_cast<int>(options.keepalive_time.count()));
    set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, static_cast<int>(options.keepalive_interval.count()));
    set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, static_cast<int>(options.keepalive_retries));
  }
  if (options.user_timeout) {
    const std::chrono::milliseconds timeout = options.keepalive_time + options.keepalive_interval * options.keepalive_retries;
    set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(std::min<int64_t>(timeout.count(), INT_MAX)));
  }
}

// What may wait unsent on a leg that never leaves the node. Left to itself the kernel lets every connection whose receiver has
// stopped hold megabytes, and a thousand of them exhaust tcp_mem, which slows everybody on the node.
constexpr int kLocalNotSentLowat = 256 * 1024;
// An application's send buffer is sized for at least 20 segments of what we advertise, each rounded up to a power of two: with
// the loopback's own 64 KiB that makes 2.6 MB a connection at once. What travels is up to 64 KiB at a time in any case.
constexpr int kAcceptedSegment = 3'400;    // its route is the pod's interface, so its segments are small anyhow
constexpr int kConnectedSegment = 15'000;  // truly over the loopback

void set_local_leg(int fd, const SocketOptions& options, int segment) {
  limit_unsent(fd, kLocalNotSentLowat);
  set_int(fd, IPPROTO_TCP, TCP_MAXSEG, segment);
  // Pacing (BBR) splits the bursts of such a leg and doubles its cost; where the system's default is one that paces, the
  // local legs get another. A name the kernel does not have is ignored: the system's stays.
  if (options.local_congestion_control.empty()) return;
  setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, options.local_congestion_control.data(),
             static_cast<socklen_t>(options.local_congestion_control.size()));
}

// The connection comes from `source`, at a port that is chosen by the whole 4-tuple when it connects: binding one now would limit
// a client to 28 000 connections a node, and keep the pod's own programs from using it for theirs.
Result<> borrow_source(int fd, const IpAddress& source) {
  const bool v4 = source.is_v4();
  const bool allowed = v4 ? set_int(fd, IPPROTO_IP, IP_TRANSPARENT, 1) && set_int(fd, IPPROTO_IP, IP_FREEBIND, 1)
                          : set_int(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1) && set_int(fd, IPPROTO_IPV6, IPV6_FREEBIND, 1);
  if (allowed) set_int(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
  sockaddr_storage storage;
  const socklen_t length = SocketAddress{source, 0}.to_sockaddr(storage);
  if (allowed && ::bind(fd, reinterpret_cast<const sockaddr*>(&storage), length) == 0) return {};
  return fail_errno(Reason::kConnectFailed, "cannot connect from " + source.to_string());
}

// A connection from a client's address may not have the port of one that the client itself has to the same place: connection tracking in
// the pod would take one for the other, and both hang. Kernels connect from even ports of the range first, so we ask for an odd one; the
// 4-tuple still has to be free. Linux 6.3 (not in Debian 12's headers); with older ones, and outside of the pod's range, it is left to the kernel.
constexpr int kLocalPortRange = 51;  // IP_LOCAL_PORT_RANGE
constexpr int kOddPortTries = 8;

bool ask_for_odd_port(int fd) {
  static thread_local std::minstd_rand engine(std::random_device{}());
  // Odd ones of the default range, 32768 to 60999.
  const auto port = 32'769 + 2 * static_cast<uint32_t>(std::uniform_int_distribution<int>(0, 14'115)(engine));
  return set_int(fd, IPPROTO_IP, kLocalPortRange, static_cast<int>(port << 16 | port));
}

// What the other end closes last, we close first, and our end waits a minute in TIME_WAIT: the client's ports would be used up after
// 28 000 connections a minute. The kernel uses such a port again after a second if the socket says that it never leaves the
// loopback (net.ipv4.tcp_tw_reuse=2, its default), which this one does not, wherever its address is configured. IPv6
// finds no route that way.
bool bind_to_loopback(int fd) {
  static constexpr char kLoopback[] = "lo";
  return setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, kLoopback, sizeof kLoopback) == 0;
}

// Tunnel legs keep little unsent in the kernel: what is queued there cannot be overtaken by a small request.
constexpr int kTunnelNotSentLowat = 256 * 1024;

}  // namespace

std::string bind_failure(const SocketAddress& address, int error) {
  std::string text = "failed to bind to address " + address.to_string() + ": " + errno_text(error);
  if (error == EADDRINUSE) text += " (another process listens there)";
  if (error == EAFNOSUPPORT && address.ip.is_v6()) text += " (this machine has no IPv6: set IPV6_ENABLED=false)";
  return text;
}

Result<ListenSocket> listen_tcp(const SocketOptions& options, const SocketAddress& address, Transparency transparency,
                                bool local_leg) {
  const auto failed = [&address](const std::string& why) {
    return fail(Reason::kIo, "failed to bind to address " + address.to_string() + ": " + why);
  };
  auto made = make_socket(options.netns.get(), address.ip.is_v4() ? AF_INET : AF_INET6, SOCK_STREAM);
  if (!made) {
    if (errno == EAFNOSUPPORT) return fail(Reason::kIo, bind_failure(address, EAFNOSUPPORT));
    return failed(made.error().text);
  }
  ListenSocket listener{std::move(*made)};
  const int fd = listener.fd.get();
  if (options.mark_listeners) {
    if (auto marked = set_mark(fd, options.mark); !marked) return failed(marked.error().text);
  }
  if (address.ip.is_v6()) set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
  if (options.reuse_port) {
    if (!set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1)) {
      ZT_LOG(kLog, kWarn, "SO_REUSEPORT refused, upgrades will not be seamless", Field::bare("addr", address.to_string()));
    }
  } else {
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  }
  if (transparency != Transparency::kNever) {
    // The v4 option works on a dual-stack socket too.
    listener.transparent = set_int(fd, IPPROTO_IP, IP_TRANSPARENT, 1);
    if (!listener.transparent && transparency == Transparency::kRequired) {
      return failed("IP_TRANSPARENT: " + errno_text(errno) + " (ENABLE_ORIG_SRC=true needs CAP_NET_ADMIN)");
    }
  }
  // Set once here, inherited by every accepted socket.
  set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_keepalive(fd, options);
  if (local_leg) {
    set_local_leg(fd, options, kAcceptedSegment);
  } else {
    set_int(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, kTunnelNotSentLowat);
  }
  sockaddr_storage storage;
  const socklen_t length = address.to_sockaddr(storage);
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&storage), length) != 0) {
    return fail(Reason::kIo, bind_failure(address, errno));
  }
  if (::listen(fd, kListenBacklog) != 0) return fail(Reason::kIo, bind_failure(address, errno));
  if (options.reuse_port) unsteer(fd);
  return listener;
}

void steer_to_second(int fd) {
  // An index beyond the group's end lets the kernel choose as without a program.
  sock_filter second[] = {BPF_STMT(BPF_RET | BPF_K, 1)};
  const sock_fprog program{.len = 1, .filter = second};
  if (::setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof program) != 0) {
    ZT_LOG(kLog, kDebug, "new connections cannot be steered to another proxy", Field::string("error", errno_text(errno)));
  }
}

Task<Result<UniqueFd>> connect_tcp(EventLoop& loop, const SocketOptions& options, ConnectTarget target, Clock::duration limit) {
  const SocketAddress& destination = target.destination;
  const bool spoof = target.source && *target.source != destination.ip;
  const bool v4 = spoof ? target.source->is_v4() : destination.ip.is_v4();
  auto made = make_socket(options.netns.get(), v4 ? AF_INET : AF_INET6, SOCK_STREAM);
  if (!made) co_return std::unexpected(made.error());
  UniqueFd fd = std::move(*made);
  if (auto marked = set_mark(fd.get(), options.mark); !marked) co_return std::unexpected(marked.error());
  // Whatever port it gets, a program of the pod that says the same may bind it, now and in TIME_WAIT.
  set_int(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  set_int(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
  set_keepalive(fd.get(), options);
  if (target.local_leg) {
    set_local_leg(fd.get(), options, kConnectedSegment);
  } else {
    set_int(fd.get(), IPPROTO_TCP, TCP_NOTSENT_LOWAT, kTunnelNotSentLowat);
  }
  bool on_loopback = false;
  if (spoof) {
    if (auto borrowed = borrow_source(fd.get(), *target.source); borrowed) {
      // Not without a source of its own: the loopback's would be chosen.
      on_loopback = v4 && target.own_address && bind_to_loopback(fd.get());
    } else if (target.source_required) {
      co_return fail(Reason::kConnectFailed, borrowed.error().text + " (ENABLE_ORIG_SRC=true)");
    } else {
      ZT_LOG(kLog, kWarn, "could not keep the source address", Field::bare("source", target.source->to_string()),
             Field::string("error", borrowed.error().text));
    }
  }
  sockaddr_storage storage;
  const socklen_t length = destination.to_sockaddr(storage, !v4);
  const auto begin = [&] {
    const auto* address = reinterpret_cast<const sockaddr*>(&storage);
    for (int i = 0; spoof && i < kOddPortTries && ask_for_odd_port(fd.get()); ++i) {
      if (::connect(fd.get(), address, length) == 0) return true;
      if (errno != EADDRNOTAVAIL) return false;
    }
    if (spoof) set_int(fd.get(), IPPROTO_IP, kLocalPortRange, 0);
    return ::connect(fd.get(), address, length) == 0;
  };
  bool connected = begin();
  if (!connected && on_loopback && (errno == ENETUNREACH || errno == EHOSTUNREACH)) {
    setsockopt(fd.get(), SOL_SOCKET, SO_BINDTODEVICE, "", 0);
    connected = begin();
  }
  if (connected) co_return fd;
  const auto failed = [](int error) {
    return fail(error == ETIMEDOUT ? Reason::kConnectTimeout : Reason::kConnectFailed, errno_text(error));
  };
  if (errno != EINPROGRESS) co_return failed(errno);
  // Inside a namespace the answer is there already: one poll instead of an epoll registration and a turn.
  pollfd answered{.fd = fd.get(), .events = POLLOUT, .revents = 0};
  if (!target.local_leg || ::poll(&answered, 1, 0) <= 0) {
    FdWaiter waiter(loop);
    if (auto attached = waiter.attach(fd.get()); !attached) co_return std::unexpected(attached.error());
    if (!co_await waiter.wait(EPOLLOUT, Clock::now() + limit)) co_return failed(ETIMEDOUT);
  }
  int error = 0;
  socklen_t size = sizeof error;
  if (getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
  if (error != 0) co_return failed(error);
  co_return fd;
}

bool is_own_address(const SocketOptions& options, const IpAddress& ip) {
  auto made = make_socket(options.netns.get(), ip.is_v4() ? AF_INET : AF_INET6, SOCK_DGRAM);
  if (!made) return false;
  // Towards an address of its own, and no other, the kernel takes that address as source too.
  sockaddr_storage storage;
  const socklen_t length = SocketAddress{ip, 9}.to_sockaddr(storage);
  if (::connect(made->get(), reinterpret_cast<const sockaddr*>(&storage), length) != 0) return false;
  return local_address(made->get()).ip == ip;
}

SocketAddress original_destination(int fd) {
  const auto redirected = redirected_from(fd);
  return redirected ? *redirected : local_address(fd);
}

void limit_receive_buffer(int fd, int bytes) { set_int(fd, SOL_SOCKET, SO_RCVBUF, bytes); }

void limit_unsent(int fd, int bytes) { set_int(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, bytes); }

bool is_writable(int fd) {
  pollfd poll_it{.fd = fd, .events = POLLOUT, .revents = 0};
  return ::poll(&poll_it, 1, 0) == 1;
}

void widen_send_buffer(int fd, size_t more) {
  int queued = 0;
  ioctl(fd, SIOCOUTQ, &queued);
  // The kernel doubles what is asked for, to have room for what it needs around the bytes.
  const auto bytes = static_cast<int>(std::min<size_t>(static_cast<size_t>(queued) + more, INT_MAX / 2));
  set_int(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, INT_MAX);
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) != 0) set_int(fd, SOL_SOCKET, SO_SNDBUF, bytes);
}

void unlimit_receive_buffer(int fd) {
  // As large as net.core.rmem_max allows at once, then back to the kernel's own tuning, which would take its time to grow from
  // the small one. Before Linux 5.14 it cannot be given back.
  set_int(fd, SOL_SOCKET, SO_RCVBUF, INT_MAX / 2);
  set_int(fd, SOL_SOCKET, SO_BUF_LOCK, 0);
}

void reset_and_close(UniqueFd fd) {
  if (!fd) return;
  const linger now{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

}  // namespace zt::ztunnel
