#pragma once
#include <cstdint>

#include "base/address.h"
#include "base/unique_fd.h"
#include "ztunnel/proxy/pod_counts.h"

namespace zt::ztunnel {

enum class ListenerKind : uint8_t { kOutbound, kInboundPlain, kInboundTunnel, kSocks5 };

// A connection that was accepted and is on its way into a pod's table, maybe from one worker to another.
struct Arrival {
  ListenerKind kind = ListenerKind::kOutbound;
  UniqueFd fd;
  SocketAddress client;
  bool transparent = false;           // its listener may preserve source addresses
  HandshakeCounts::Ticket handshake;  // of a tunnel
  Counted on_worker;                  // Worker::arriving: who accepts next sees that this one has been given away
  Counted in_pod;                     // PodCounts::connections
};

}  // namespace zt::ztunnel
