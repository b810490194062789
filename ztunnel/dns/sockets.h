#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/address.h"
#include "base/linux/netns.h"
#include "base/linux/sockets.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "ztunnel/config/config.h"

// The DNS proxy's sockets (contract §1.1, §1.2, §9.5) and where the kernel knows that a captured query was going.
namespace zt::ztunnel::dns {

struct SocketOptions {
  std::shared_ptr<const Netns> netns;  // the pod's; null: our own
  uint32_t mark = 0;                   // of sockets towards upstreams: without it a query would be captured again
  bool mark_listeners = false;
  bool reuse_port = false;  // two proxies may serve one pod during an upgrade
};

// Sockets that hold the pod's port 15053 (or DNS_PROXY_ADDR), one for each address family and protocol.
struct Listeners {
  std::vector<UniqueFd> udp, tcp;
};

// An IPv6 loopback address that the pod's lo does not have is left out. An unspecified address means the loopback ones: captured
// queries come there, and nobody else shall be served. The error names the address that is taken.
[[nodiscard]] Result<Listeners> bind_listeners(const SocketOptions& options, const ListenAddress& address, bool ipv6);

// A socket towards upstreams of one family, in the pod's namespace, non-blocking, not connected yet.
[[nodiscard]] Result<UniqueFd> upstream_socket(const SocketOptions& options, int type, bool v4);
// Connects it, from a port of the kernel's random choice. UDP: nobody else's packets come in any more. TCP: connecting.
[[nodiscard]] Result<> connect_to(int fd, const SocketAddress& upstream);
// Makes a UDP socket as it was before it was connected: without a port, without packets. False: it is of no use any more.
[[nodiscard]] bool disconnect_udp(int fd);

// Which name server a captured query was sent to: the one that the pod's own resolv.conf or dnsConfig names. It is asked of the
// pod's connection tracking, which holds where a redirected packet was going. Nothing: the query was sent to the proxy itself.
class OriginalServer {
 public:
  explicit OriginalServer(const SocketOptions& options) : options_(options) {}
  OriginalServer(const OriginalServer&) = delete;

  // Of a UDP query from `client` that came to `listener`. Two system calls, some 5 us: the kernel answers at once.
  [[nodiscard]] std::optional<SocketAddress> of_udp(const SocketAddress& client, const SocketAddress& listener);
  // Of an accepted connection.
  [[nodiscard]] static std::optional<SocketAddress> of_tcp(int fd);

 private:
  void open();

  const SocketOptions& options_;
  UniqueFd netlink_;
  bool tried_ = false;
  uint32_t sequence_ = 0;
};

}  // namespace zt::ztunnel::dns
