#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/address.h"
#include "base/linux/netns.h"
#include "base/linux/sockets.h"
#include "base/result.h"
#include "base/task.h"
#include "base/unique_fd.h"

// The proxy's sockets: where they are made, with which options (contract §1.2–1.5). Creation happens inside the pod's network
// namespace; everything after it works from outside.
namespace zt::ztunnel {

struct SocketOptions {
  std::shared_ptr<const Netns> netns;  // null: our own
  uint32_t mark = 0;                   // SO_MARK; 0 = none. Without it a pod's socket loops into 15001
  bool mark_listeners = false;         // shared mode: listeners carry it too
  bool reuse_port = false;             // INPOD_PORT_REUSE: two proxies may serve one pod during an upgrade
  bool ipv6 = true;
  bool keepalive = true;
  std::chrono::seconds keepalive_time{180};
  std::chrono::seconds keepalive_interval{180};
  uint32_t keepalive_retries = 9;
  bool user_timeout = false;
  std::string local_congestion_control = "cubic";  // of legs that never leave the node; "" = the system's
};

inline constexpr int kListenBacklog = 1024;  // the kernel caps it at somaxconn; the peers' 128 drops bursts
inline constexpr std::chrono::seconds kConnectTimeout{10};

// ENABLE_ORIG_SRC: whether connections to the application keep the client's address.
enum class Transparency : uint8_t { kNever, kBestEffort, kRequired };

struct ListenSocket {
  UniqueFd fd;
  bool transparent = false;  // sources may be preserved behind it
};

// Listens on `address` (an unspecified v6 address is dual-stack). `local_leg`: accepted sockets belong to a leg that stays on
// the node and inherit its congestion control and buffer limits; they inherit NODELAY and keepalive in any case. The text names address and cause.
Result<ListenSocket> listen_tcp(const SocketOptions& options, const SocketAddress& address, Transparency transparency,
                                bool local_leg);

// Of the listeners that share this one's port (SO_REUSEPORT), the second gets all new connections from now on: during an upgrade
// the first is the proxy that leaves. Closing a listener resets what is in its queue and in the middle of a TCP handshake, so
// it has to be out of use before. Without a second listener nothing changes. If it is the second that leaves (a roll-back), new
// connections go to it until it closes, and those in their handshake then are reset; a socket cannot know its place.
void steer_to_second(int fd);

// What to say when a listener cannot be had: the address, the error, and what to do about the usual ones.
[[nodiscard]] std::string bind_failure(const SocketAddress& address, int error);

// A connecting socket, non-blocking. With `source` set (and not the destination's own address) the connection comes from that
// address: contract §1.3; failing to do so is fatal only if it is required, as at the peer.
struct ConnectTarget {
  SocketAddress destination;
  std::optional<IpAddress> source;
  bool source_required = false;  // ENABLE_ORIG_SRC=true: rather no connection than one from another address
  bool local_leg = false;        // towards the application
  bool own_address = false;      // `destination` is one of the network namespace's own addresses
};

// Connects within `limit`. kConnectFailed ("Connection refused") or kConnectTimeout. What our socket takes of the pod's ports is
// in docs/limits.md.
Task<Result<UniqueFd>> connect_tcp(EventLoop& loop, const SocketOptions& options, ConnectTarget target,
                                   Clock::duration limit = kConnectTimeout);

// Whether `ip` is one of the addresses of the network namespace. Sends nothing.
[[nodiscard]] bool is_own_address(const SocketOptions& options, const IpAddress& ip);

// Where the client wanted to go: SO_ORIGINAL_DST, else the socket's own address.
[[nodiscard]] SocketAddress original_destination(int fd);

// How much the kernel may receive ahead of us (it counts its own overhead: about twice the payload).
void limit_receive_buffer(int fd, int bytes);
void unlimit_receive_buffer(int fd);
// How much may wait unsent in the kernel.
void limit_unsent(int fd, int bytes);
// Lets the kernel hold `more` bytes beside what it has not sent or had acknowledged, until the next limit_unsent(). Needs
// CAP_NET_ADMIN for what is above net.core.wmem_max.
void widen_send_buffer(int fd, size_t more);
// Whether more may be sent now; if not, the next edge will say when.
[[nodiscard]] bool is_writable(int fd);

// Closes with RST: the application learns that the connection failed, instead of an end that looks orderly.
void reset_and_close(UniqueFd fd);

}  // namespace zt::ztunnel
