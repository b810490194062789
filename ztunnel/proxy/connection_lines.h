#pragma once
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/address.h"
#include "ztunnel/proxy/ended_connections.h"

namespace zt::ztunnel {

// One line of the admin dump's `connections` (contract §10.6).
struct ConnectionLine {
  SocketAddress source;
  std::string original_destination;  // inbound: host of `forwarded`, may be empty
  SocketAddress actual_destination;
  std::string protocol;  // HBONE, TCP
  // What the peer's dump has not, and istioctl passes by: member `zt`.
  struct Own {
    uint64_t id = 0;  // what tells connections apart: those of one tunnel have one source
    std::chrono::milliseconds age{0};
    uint64_t sent = 0, received = 0;  // as in the access log: of the application that the pod has
    std::string peer;                 // identity that the client proved; inbound over a tunnel only
    bool local = false;               // between two pods of this node, without a tunnel
  };
  std::optional<Own> own = {};
};
struct PodConnections {
  std::vector<ConnectionLine> inbound, outbound;
};

// One that ended, or was refused (ended_connections.h).
struct EndedLine {
  size_t worker = 0;
  EndedConnection ended;
};

struct ConnectionInfo;
// Adds the line of one that is open.
void append_line(PodConnections& lines, const ConnectionInfo& info, const RelayBytes& bytes);

}  // namespace zt::ztunnel
