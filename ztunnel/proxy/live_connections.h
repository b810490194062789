#pragma once
#include "base/result.h"
#include "ztunnel/proxy/connection.h"

// Tells whoever watches of one connection (ztunnel/telemetry/live_events.h). Worker's thread; only while somebody does.
namespace zt::ztunnel {

void show_opened(Worker& worker, const ConnectionInfo& info);
void show_closed(Worker& worker, const ConnectionInfo& info, const Error& why, const RelayBytes& bytes);
// Before anything was known of it.
void show_refused(Worker& worker, Direction direction, const SocketAddress& source, const SocketAddress& destination,
                  const Error& why);

}  // namespace zt::ztunnel
