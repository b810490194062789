#pragma once
#include <memory>
#include <optional>
#include <string>

#include "hbone/connect_headers.h"
#include "identity/spiffe_id.h"
#include "mesh/spiffe.h"
#include "workload_api/store/snapshot.h"
#include "ztunnel/proxy/relay.h"
#include "ztunnel/proxy/worker.h"
#include "ztunnel/telemetry/metrics.h"

namespace zt::ztunnel {

enum class Direction : uint8_t { kOutbound, kInbound };

// Who the peer of a tunnel proved to be. Shared by the tunnel's connections; `parsed` views into `text`.
struct ProvenPeer {
  explicit ProvenPeer(const identity::SpiffeId& id)
      : text(id.to_string()), parsed(SpiffeView::parse(text).value_or(SpiffeView{})) {}
  ProvenPeer(const ProvenPeer&) = delete;
  std::string text;
  SpiffeView parsed;
};

// What is known of a connection when its fate is decided; stays with it until its log line.
struct ConnectionInfo {
  Direction direction = Direction::kOutbound;
  SocketAddress source;
  SocketAddress destination;                       // as logged: the address dialled, pod IP:15008, or the original destination
  std::string hbone_address;                       // authority; empty without a tunnel
  workload_api::WorkloadPtr source_workload;       // null if unknown
  workload_api::WorkloadPtr destination_workload;  // null if unknown
  workload_api::ServicePtr service;                // null if none
  bool mutual_tls = false;
  bool local = false;                                 // between two pods of this node, without a tunnel
  std::shared_ptr<const ProvenPeer> peer;             // inbound: the client
  std::unique_ptr<hbone::Baggage> baggage;            // inbound: what the client says of itself; telemetry only
  std::unique_ptr<const std::string> requested_host;  // inbound: `forwarded` host, for the admin dump; null if it said none
  SocketAddress upstream;                             // inbound: what policies see as destination
  Clock::time_point begun;
};

// Opens the connection's metrics when made, and closes them and writes its log line exactly once. Worker's thread.
class ConnectionRecord {
 public:
  ConnectionRecord(Worker& worker, ConnectionInfo info);
  // Of a connection that another process had: it was opened there, and `counted` there.
  ConnectionRecord(Worker& worker, ConnectionInfo info, const RelayBytes& counted);
  ~ConnectionRecord();
  ConnectionRecord(const ConnectionRecord&) = delete;

  // Bytes so far, for the metrics of connections that live long.
  void progress(const RelayBytes& bytes);
  // `ended`: where it is remembered; null: nowhere.
  void finish(Reason reason, std::string_view text, const RelayBytes& bytes, EndedConnections* ended);
  // It goes on in another process, which writes its line.
  void forget();
  // Its request is begun anew in another process, which counts and tells it as one of its own.
  void begun_anew();
  [[nodiscard]] const RelayBytes& counted() const { return counted_; }
  [[nodiscard]] const ConnectionInfo& info() const { return info_; }

 private:
  ConnectionInfo info_;
  TrafficHandle metrics_;
  RelayBytes counted_;  // what the metrics have
  bool finished_ = false;
};

// Refused before anything was known of it: one line at most (ztunnel/telemetry/denial_log.h), and a count of its own; no traffic metrics (contract §4.1, §10.4).
void deny_early(Worker& worker, Direction direction, const SocketAddress& source, const SocketAddress& destination,
                const Error& why);

// A tunnel has ended. Says and counts it if its peer went too far.
void note_tunnel_end(Worker& worker, Direction direction, const SocketAddress& source, const SocketAddress& destination,
                     const Error& why);

// The attributes of a workload that travel in baggage.
[[nodiscard]] hbone::Baggage baggage_of(const workload_api::Workload& workload);
[[nodiscard]] identity::SpiffeId identity_of(const workload_api::Workload& workload);

}  // namespace zt::ztunnel
