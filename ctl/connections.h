#pragma once
#include "ctl/dump.h"

namespace zt::ctl {

struct ConnectionsAsked {
  Filter filter;
  std::string direction;  // "inbound", "outbound"; empty: both
  std::string sort;       // one of kConnectionOrders; empty: by pod
};
// Of those that are numbers, the largest first.
inline constexpr std::string_view kConnectionOrders[] = {"pod", "peer", "age", "sent", "received", "bytes", "protocol"};

// The open connections of this node's pods. Age, bytes, who the client proved to be, and with that the policy that lets it in as things are now,
// only where the dump is ours.
[[nodiscard]] Listing connections(const Dump& dump, const ConnectionsAsked& asked);

}  // namespace zt::ctl
