#include "ztunnel/dns/sockets.h"

#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>
#include <utility>

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

// Asks connection tracking for one entry (IPCTNL_MSG_CT_GET). libnetfilter_conntrack cannot ask for an entry by its answer's way.
class ConntrackRequest {
 public:
  ConntrackRequest(uint32_t sequence, uint8_t family) {
    append(nlmsghdr{.nlmsg_len = 0,
                    .nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET,
                    .nlmsg_flags = NLM_F_REQUEST,
                    .nlmsg_seq = sequence,
                    .nlmsg_pid = 0});
    append(nfgenmsg{.nfgen_family = family, .version = NFNETLINK_V0, .res_id = 0});
  }
  void reply_tuple(const SocketAddress& source, const SocketAddress& destination) {
    const bool v4 = source.ip.is_v4();
    nested(CTA_TUPLE_REPLY, [&] {
      nested(CTA_TUPLE_IP, [&] {
        attribute(v4 ? CTA_IP_V4_SRC : CTA_IP_V6_SRC, source.ip.bytes());
        attribute(v4 ? CTA_IP_V4_DST : CTA_IP_V6_DST, destination.ip.bytes());
      });
      nested(CTA_TUPLE_PROTO, [&] {
        const uint8_t protocol = IPPROTO_UDP;
        attribute(CTA_PROTO_NUM, std::span(&protocol, 1));
        port(CTA_PROTO_SRC_PORT, source.port);
        port(CTA_PROTO_DST_PORT, destination.port);
      });
    });
    set_length(0, nlmsghdr{}.nlmsg_len);
  }
  [[nodiscard]] const void* bytes() const { return bytes_.data(); }
  [[nodiscard]] size_t size() const { return size_; }

 private:
  template <class T>
  void append(const T& value) {
    std::memcpy(bytes_.data() + size_, &value, sizeof value);
    size_ += NLA_ALIGN(sizeof value);
  }
  template <class Length>
  void set_length(size_t at, Length) {
    const auto length = static_cast<Length>(size_ - at);
    std::memcpy(bytes_.data() + at, &length, sizeof length);
  }
  template <class Fill>
  void nested(uint16_t type, Fill&& fill) {
    const size_t at = size_;
    append(nlattr{.nla_len = 0, .nla_type = static_cast<uint16_t>(type | NLA_F_NESTED)});
    fill();
    set_length(at, uint16_t{});
  }
  void attribute(uint16_t type, std::span<const uint8_t> data) {
    append(nlattr{.nla_len = static_cast<uint16_t>(sizeof(nlattr) + data.size()), .nla_type = type});
    std::memcpy(bytes_.data() + size_, data.data(), data.size());
    size_ += NLA_ALIGN(data.size());
  }
  void port(uint16_t type, uint16_t value) {
    const uint8_t bytes[2] = {static_cast<uint8_t>(value >> 8), static_cast<uint8_t>(value)};
    attribute(type, bytes);
  }

  alignas(nlmsghdr) std::array<uint8_t, 256> bytes_{};
  size_t size_ = 0;
};

// The bytes of attribute `type` among `attributes`; empty if it is not there.
std::span<const uint8_t> find_attribute(std::span<const uint8_t> attributes, uint16_t type) {
  while (attributes.size() >= sizeof(nlattr)) {
    nlattr header;
    std::memcpy(&header, attributes.data(), sizeof header);
    if (header.nla_len < sizeof header || header.nla_len > attributes.size()) break;
    if ((header.nla_type & NLA_TYPE_MASK) == type) return attributes.subspan(sizeof header, header.nla_len - sizeof header);
    attributes = attributes.subspan(std::min<size_t>(NLA_ALIGN(header.nla_len), attributes.size()));
  }
  return {};
}

std::optional<SocketAddress> original_destination(const nlmsghdr& message, bool v4) {
  constexpr size_t kFixed = NLMSG_SPACE(sizeof(nfgenmsg));
  if (message.nlmsg_len < kFixed) return std::nullopt;
  const std::span all(reinterpret_cast<const uint8_t*>(&message), message.nlmsg_len);
  const auto original = find_attribute(all.subspan(kFixed), CTA_TUPLE_ORIG);
  const auto ip =
      IpAddress::from_bytes(find_attribute(find_attribute(original, CTA_TUPLE_IP), v4 ? CTA_IP_V4_DST : CTA_IP_V6_DST));
  const auto port = find_attribute(find_attribute(original, CTA_TUPLE_PROTO), CTA_PROTO_DST_PORT);
  if (!ip || port.size() != 2) return std::nullopt;
  return SocketAddress{*ip, static_cast<uint16_t>(port[0] << 8 | port[1])};
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
  ConntrackRequest request(++sequence_, client.ip.is_v4() ? AF_INET : AF_INET6);
  request.reply_tuple(listener, client);
  if (::send(netlink_.get(), request.bytes(), request.size(), 0) != static_cast<ssize_t>(request.size())) return std::nullopt;
  alignas(nlmsghdr) std::array<std::byte, 4096> answer;
  for (;;) {
    const ssize_t n = ::recv(netlink_.get(), answer.data(), answer.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return std::nullopt;
    const auto* header = reinterpret_cast<const nlmsghdr*>(answer.data());
    if (!NLMSG_OK(header, static_cast<size_t>(n))) return std::nullopt;
    if (header->nlmsg_seq != sequence_) continue;  // of a question whose answer came too late
    if (header->nlmsg_type == NLMSG_ERROR) return std::nullopt;
    const auto server = original_destination(*header, client.ip.is_v4());
    return server == listener ? std::nullopt : server;
  }
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
