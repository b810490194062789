#include "ztunnel/dns/sockets.h"

#include <libnetfilter_conntrack/libnetfilter_conntrack.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "mesh/reason.h"

namespace zt::ztunnel::dns {

namespace {

log::Scope kLog("dns");

constexpr int kListenBacklog = 128;

bool set_int(int fd, int level, int option, int value) { return setsockopt(fd, level, option, &value, sizeof value) == 0; }

Result<UniqueFd> make_socket(const SocketOptions& options, int family, int type) {
  const auto make = [&]() -> Result<UniqueFd> {
    UniqueFd fd(::socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) return fail_errno(Reason::kIo, "socket");
    return fd;
  };
  return options.netns ? in_netns(*options.netns, make) : make();
}

Result<> set_mark(int fd, uint32_t mark) {
  if (mark == 0 || setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark) == 0) return {};
  return fail_errno(Reason::kIo, "setting SO_MARK");
}

// Null: the pod has no such address.
Result<UniqueFd> bind_one(const SocketOptions& options, const SocketAddress& address, int type) {
  const auto failed = [&](const std::string& why) {
    return fail(Reason::kIo, "failed to bind to address " + address.to_string() + ": " + why);
  };
  auto made = make_socket(options, address.ip.is_v4() ? AF_INET : AF_INET6, type);
  if (!made) return errno == EAFNOSUPPORT && address.ip.is_loopback() ? UniqueFd{} : Result<UniqueFd>(failed(made.error().text));
  const int fd = made->get();
  if (options.mark_listeners) {
    if (auto marked = set_mark(fd, options.mark); !marked) return failed(marked.error().text);
  }
  if (address.ip.is_v6()) set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
  if (options.reuse_port) {
    set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1);
  } else if (type == SOCK_STREAM) {
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  }
  sockaddr_storage storage;
  const socklen_t length = address.to_sockaddr(storage);
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&storage), length) != 0) {
    if (errno == EADDRNOTAVAIL && address.ip.is_v6() && address.ip.is_loopback()) return UniqueFd{};
    return failed(errno_text(errno) + (errno == EADDRINUSE ? " (another process listens there)" : ""));
  }
  if (type == SOCK_STREAM) {
    set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);  // accepted sockets inherit it
    if (::listen(fd, kListenBacklog) != 0) return failed(errno_text(errno));
  }
  return std::move(*made);
}

}  // namespace

Result<Listeners> bind_listeners(const SocketOptions& options, const ListenAddress& address, bool ipv6) {
  std::vector<SocketAddress> addresses;
  if (const auto* localhost = std::get_if<LocalhostPort>(&address)) {
    addresses.push_back({*IpAddress::parse("127.0.0.1"), localhost->port});
    if (ipv6) addresses.push_back({*IpAddress::parse("::1"), localhost->port});
  } else {
    addresses.push_back(std::get<SocketAddress>(address));
  }
  Listeners listeners;
  for (const auto& each : addresses) {
    ZT_ASSIGN(auto udp, bind_one(options, each, SOCK_DGRAM));
    ZT_ASSIGN(auto tcp, bind_one(options, each, SOCK_STREAM));
    if (!udp || !tcp) {
      ZT_LOG(kLog, kDebug, "the pod's lo lacks an address, DNS is not served there", Field::bare("addr", each.to_string()));
      continue;
    }
    listeners.udp.push_back(std::move(udp));
    listeners.tcp.push_back(std::move(tcp));
  }
  return listeners;
}

Result<UniqueFd> upstream_socket(const SocketOptions& options, int type, const SocketAddress& upstream) {
  ZT_ASSIGN(auto fd, make_socket(options, upstream.ip.is_v4() ? AF_INET : AF_INET6, type));
  ZT_TRY(set_mark(fd.get(), options.mark));
  if (type == SOCK_STREAM) set_int(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
  sockaddr_storage storage;
  const socklen_t length = upstream.to_sockaddr(storage);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&storage), length) != 0 && errno != EINPROGRESS) {
    return fail_errno(Reason::kConnectFailed, "connect to " + upstream.to_string());
  }
  return fd;
}

OriginalServer::~OriginalServer() {
  if (handle_ != nullptr) nfct_close(handle_);
}

std::optional<SocketAddress> OriginalServer::of_udp(const SocketAddress& client, const SocketAddress& listener) {
  if (!std::exchange(tried_, true)) {
    const auto open = [this]() -> Result<> {
      handle_ = nfct_open(CONNTRACK, 0);
      if (handle_ == nullptr) return fail_errno(Reason::kIo, "opening connection tracking");
      return {};
    };
    if (auto opened = options_.netns ? in_netns(*options_.netns, open) : open(); !opened) {
      ZT_LOG(kLog, kWarn, "the pod's own name servers cannot be told, queries go to the node's",
             Field::string("error", opened.error().text));
    }
  }
  if (handle_ == nullptr || client.ip.is_v4() != listener.ip.is_v4()) return std::nullopt;

  // The answer's way is known: from our listener to the client.
  struct Entry {
    nf_conntrack* ct = nfct_new();
    ~Entry() { nfct_destroy(ct); }
  } wanted;
  const bool v4 = client.ip.is_v4();
  nfct_set_attr_u8(wanted.ct, ATTR_REPL_L3PROTO, v4 ? AF_INET : AF_INET6);
  nfct_set_attr_u8(wanted.ct, ATTR_REPL_L4PROTO, IPPROTO_UDP);
  nfct_set_attr_u16(wanted.ct, ATTR_REPL_PORT_SRC, htons(listener.port));
  nfct_set_attr_u16(wanted.ct, ATTR_REPL_PORT_DST, htons(client.port));
  nfct_set_attr(wanted.ct, v4 ? ATTR_REPL_IPV4_SRC : ATTR_REPL_IPV6_SRC, listener.ip.bytes().data());
  nfct_set_attr(wanted.ct, v4 ? ATTR_REPL_IPV4_DST : ATTR_REPL_IPV6_DST, client.ip.bytes().data());

  std::optional<SocketAddress> server;
  const auto take = [](nf_conntrack_msg_type, nf_conntrack* found, void* out) {
    const bool is_v4 = nfct_get_attr_u8(found, ATTR_ORIG_L3PROTO) == AF_INET;
    const auto* bytes = static_cast<const uint8_t*>(nfct_get_attr(found, is_v4 ? ATTR_ORIG_IPV4_DST : ATTR_ORIG_IPV6_DST));
    if (bytes == nullptr) return static_cast<int>(NFCT_CB_CONTINUE);
    const IpAddress ip =
        is_v4 ? IpAddress::v4(std::span<const uint8_t, 4>(bytes, 4)) : IpAddress::v6(std::span<const uint8_t, 16>(bytes, 16));
    *static_cast<std::optional<SocketAddress>*>(out) = SocketAddress{ip, ntohs(nfct_get_attr_u16(found, ATTR_ORIG_PORT_DST))};
    return static_cast<int>(NFCT_CB_CONTINUE);
  };
  nfct_callback_register(handle_, NFCT_T_ALL, take, &server);
  const int status = nfct_query(handle_, NFCT_Q_GET, wanted.ct);
  nfct_callback_unregister(handle_);
  if (status != 0 || server == listener) return std::nullopt;
  return server;
}

std::optional<SocketAddress> OriginalServer::of_tcp(int fd) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  if (getsockopt(fd, IPPROTO_IP, SO_ORIGINAL_DST, &storage, &length) != 0) {
    length = sizeof storage;
    if (getsockopt(fd, IPPROTO_IPV6, IP6T_SO_ORIGINAL_DST, &storage, &length) != 0) return std::nullopt;
  }
  const auto server = SocketAddress::from_sockaddr(storage);
  if (server == local_address(fd)) return std::nullopt;
  return server;
}

SocketAddress local_address(int fd) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &length);
  return SocketAddress::from_sockaddr(storage);
}

}  // namespace zt::ztunnel::dns
