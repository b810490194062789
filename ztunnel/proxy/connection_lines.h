#pragma once
#include <string>
#include <vector>

#include "base/address.h"

namespace zt::ztunnel {

// One line of the admin dump's `connections` (contract §10.6).
struct ConnectionLine {
  SocketAddress source;
  std::string original_destination;  // inbound: host of `forwarded`, may be empty
  SocketAddress actual_destination;
  std::string protocol;  // HBONE, TCP
};
struct PodConnections {
  std::vector<ConnectionLine> inbound, outbound;
};

struct ConnectionInfo;
// Adds the line of one that is open.
void append_line(PodConnections& lines, const ConnectionInfo& info);

}  // namespace zt::ztunnel
