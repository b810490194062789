#include "ztunnel/dns/sockets.h"

#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <utility>

#include "base/linux/netlink.h"
#include "base/linux/sockets.h"
#include "base/log.h"
#include "mesh/reason.h"

namespace zt::ztunnel::dns {

namespace {

log::Scope kLog("dns");

constexpr int kListenBacklog = 128;

// Null: the pod has no such address.
Result<UniqueFd> bind_one(const SocketOptions& options, const SocketAddress& address, int type) {
  const auto failed = [&](const std::string& why) {
    return fail(Reason::kIo, "failed to bind to address " + address.to_string() + ": " + why);
  };
  auto made = make_socket(options.netns.get(), address.ip.is_v4() ? AF_INET : AF_INET6, type);
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
  if (options.reuse_port) unsteer(fd);
  return std::move(*made);
}

// Asks connection tracking for one entry, by its answer's way. libnetfilter_conntrack cannot ask so.
NetlinkRequest conntrack_request(const SocketAddress& source, const SocketAddress& destination) {
  const bool v4 = source.ip.is_v4();
  NetlinkRequest request(
      NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, NLM_F_REQUEST,
      nfgenmsg{.nfgen_family = static_cast<uint8_t>(v4 ? AF_INET : AF_INET6), .version = NFNETLINK_V0, .res_id = 0});
  const auto address = [&](uint16_t type, const IpAddress& ip) { request.attribute(type, ip.bytes().data(), ip.bytes().size()); };
  const auto port = [&](uint16_t type, uint16_t value) {
    const uint16_t wire = htons(value);
    request.attribute(type, &wire, sizeof wire);
  };
  request.nested(CTA_TUPLE_REPLY, [&] {
    request.nested(CTA_TUPLE_IP, [&] {
      address(v4 ? CTA_IP_V4_SRC : CTA_IP_V6_SRC, source.ip);
      address(v4 ? CTA_IP_V4_DST : CTA_IP_V6_DST, destination.ip);
    });
    request.nested(CTA_TUPLE_PROTO, [&] {
      const uint8_t protocol = IPPROTO_UDP;
      request.attribute(CTA_PROTO_NUM, &protocol, sizeof protocol);
      port(CTA_PROTO_SRC_PORT, source.port);
      port(CTA_PROTO_DST_PORT, destination.port);
    });
  });
  return request;
}

std::optional<SocketAddress> original_destination(const nlmsghdr& message, bool v4) {
  std::optional<IpAddress> ip;
  std::optional<uint16_t> port;
  // Calls `on_inner` for the attributes of this type's.
  const auto inside = [](uint16_t type, auto on_inner) {
    return [=](const nlattr& attribute) {
      if (::mnl_attr_get_type(&attribute) == type) for_each_attribute(attribute, on_inner);
    };
  };
  const auto on_ip = [&](const nlattr& attribute) {
    if (::mnl_attr_get_type(&attribute) != (v4 ? CTA_IP_V4_DST : CTA_IP_V6_DST)) return;
    ip = IpAddress::from_bytes(
        {static_cast<const uint8_t*>(::mnl_attr_get_payload(&attribute)), ::mnl_attr_get_payload_len(&attribute)});
  };
  const auto on_protocol = [&](const nlattr& attribute) {
    if (::mnl_attr_get_type(&attribute) != CTA_PROTO_DST_PORT || ::mnl_attr_validate(&attribute, MNL_TYPE_U16) < 0) return;
    port = ntohs(::mnl_attr_get_u16(&attribute));
  };
  const auto on_tuple = [&](const nlattr& attribute) {
    inside(CTA_TUPLE_IP, on_ip)(attribute);
    inside(CTA_TUPLE_PROTO, on_protocol)(attribute);
  };
  for_each_attribute(message, sizeof(nfgenmsg), inside(CTA_TUPLE_ORIG, on_tuple));
  if (!ip || !port) return std::nullopt;
  return SocketAddress{*ip, *port};
}

}  // namespace

Result<Listeners> bind_listeners(const SocketOptions& options, const ListenAddress& address, bool ipv6) {
  std::vector<SocketAddress> addresses;
  if (const auto* localhost = std::get_if<LocalhostPort>(&address)) {
    addresses.push_back({*IpAddress::parse("127.0.0.1"), localhost->port});
    if (ipv6) addresses.push_back({*IpAddress::parse("::1"), localhost->port});
  } else if (const auto& exact = std::get<SocketAddress>(address); exact.ip.is_unspecified()) {
    addresses.push_back({*IpAddress::parse("127.0.0.1"), exact.port});
    if (exact.ip.is_v6() && ipv6) addresses.push_back({*IpAddress::parse("::1"), exact.port});
  } else {
    addresses.push_back(exact);
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

Result<UniqueFd> upstream_socket(const SocketOptions& options, int type, bool v4) {
  ZT_ASSIGN(auto fd, make_socket(options.netns.get(), v4 ? AF_INET : AF_INET6, type));
  ZT_TRY(set_mark(fd.get(), options.mark));
  if (type == SOCK_STREAM) set_int(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
  return fd;
}

Result<> connect_to(int fd, const SocketAddress& upstream) {
  sockaddr_storage storage;
  const socklen_t length = upstream.to_sockaddr(storage);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&storage), length) == 0 || errno == EINPROGRESS) return {};
  return fail_errno(Reason::kConnectFailed, "connect to " + upstream.to_string());
}

bool disconnect_udp(int fd) {
  constexpr int kMostLeft = 64;  // packets that came too late
  sockaddr nobody{};
  nobody.sa_family = AF_UNSPEC;
  if (::connect(fd, &nobody, sizeof nobody) != 0) return false;
  for (int i = 0; i < kMostLeft; ++i) {
    if (::recv(fd, nullptr, 0, MSG_DONTWAIT | MSG_TRUNC) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
  }
  return false;
}

void OriginalServer::open() {
  tried_ = true;
  const auto make = []() -> Result<UniqueFd> {
    UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_NETFILTER));
    if (!fd) return fail_errno(Reason::kIo, "opening connection tracking");
    return fd;
  };
  auto opened = options_.netns ? in_netns(*options_.netns, make) : make();
  if (opened) {
    netlink_ = std::move(*opened);
  } else {
    ZT_LOG(kLog, kWarn, "a pod's own name servers cannot be told, its queries go to the node's",
           Field::string("error", opened.error().text));
  }
}

std::optional<SocketAddress> OriginalServer::of_udp(const SocketAddress& client, const SocketAddress& listener) {
  if (!tried_) open();
  if (!netlink_ || client.ip.is_v4() != listener.ip.is_v4()) return std::nullopt;
  // The answer's way is known: from our listener to the client.
  NetlinkRequest request = conntrack_request(listener, client);
  request.header()->nlmsg_seq = ++sequence_;
  const size_t size = request.header()->nlmsg_len;
  if (::send(netlink_.get(), request.header(), size, 0) != static_cast<ssize_t>(size)) return std::nullopt;
  alignas(nlmsghdr) std::array<std::byte, 4096> answer;
  for (;;) {
    const ssize_t n = ::recv(netlink_.get(), answer.data(), answer.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return std::nullopt;
    const auto* header = reinterpret_cast<const nlmsghdr*>(answer.data());
    if (!::mnl_nlmsg_ok(header, static_cast<int>(n))) return std::nullopt;
    if (header->nlmsg_seq != sequence_) continue;  // of a question whose answer came too late
    if (header->nlmsg_type == NLMSG_ERROR) return std::nullopt;
    const auto server = original_destination(*header, client.ip.is_v4());
    return server == listener ? std::nullopt : server;
  }
}

std::optional<SocketAddress> OriginalServer::of_tcp(int fd) {
  const auto server = redirected_from(fd);
  return server == local_address(fd) ? std::nullopt : server;
}

}  // namespace zt::ztunnel::dns
