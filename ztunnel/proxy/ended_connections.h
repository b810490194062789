#pragma once
#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/address.h"
#include "mesh/reason.h"
#include "workload_api/store/snapshot.h"
#include "ztunnel/proxy/relay.h"

namespace zt::ztunnel {

struct ConnectionInfo;
struct ProvenPeer;

// How a connection ended, or why there was none.
struct EndedConnection {
  uint64_t number = 0;  // of this worker, from 1 on
  uint64_t id = 0;      // as while it was open (ConnectionLine::Own)
  std::chrono::system_clock::time_point at;
  bool outbound = false, mutual_tls = false, local = false;
  SocketAddress source, destination;       // as logged
  SocketAddress asked;                     // outbound: whom the application called; inbound: where it was led
  workload_api::WorkloadPtr pod;           // of this node; null where nothing was known yet
  std::shared_ptr<const ProvenPeer> peer;  // inbound: the client
  RelayBytes bytes;
  std::chrono::milliseconds duration{0};
  Reason reason = Reason::kOk;
  std::string text;  // empty for an end that an application chose
};

// The last connections that ended on a worker: "why was it refused" has an answer though nobody was looking and no log is at hand. Costs
// an end no allocation unless there is an error to keep. Worker's thread.
class EndedConnections {
 public:
  static constexpr size_t kKept = 256;

  void add(EndedConnection ended);
  // The oldest first.
  [[nodiscard]] std::vector<EndedConnection> all() const;

 private:
  std::array<EndedConnection, kKept> ring_;
  uint64_t count_ = 0;
};

}  // namespace zt::ztunnel
