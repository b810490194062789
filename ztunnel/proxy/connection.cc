#include "ztunnel/proxy/connection.h"

#include "mesh/reason.h"
#include "ztunnel/proxy/connection_lines.h"
#include "ztunnel/proxy/live_connections.h"
#include "ztunnel/telemetry/access_log.h"

namespace zt::ztunnel {

using workload_api::Workload;

namespace {

std::string_view workload_type_name(workload_api::WorkloadType type) {
  switch (type) {
    case workload_api::WorkloadType::kDeployment: return "deployment";
    case workload_api::WorkloadType::kCronJob: return "cronjob";
    case workload_api::WorkloadType::kPod: return "pod";
    case workload_api::WorkloadType::kJob: return "job";
  }
  return "deployment";
}

// Contract §10.1, "Fill rules": from the workload if it is known, else from what the peer says of itself.
PartyLabels party(const Workload* workload, const hbone::Baggage* baggage) {
  PartyLabels labels;
  if (baggage != nullptr) {
    labels.workload = labels.app = baggage->workload_name;
    labels.canonical_service = baggage->service_name;
    labels.canonical_revision = labels.version = baggage->service_version;
    labels.ns = baggage->namespace_;
    labels.cluster = baggage->cluster;
    labels.region = baggage->region;
    labels.zone = baggage->zone;
  }
  if (workload != nullptr) {
    labels.workload = workload->workload_name.view();
    labels.canonical_service = labels.app = workload->canonical_name.view();
    labels.canonical_revision = labels.version = workload->canonical_revision.view();
    labels.ns = workload->ns.view();
    labels.cluster = workload->cluster_id.view();
    labels.region = workload->locality.region();
    labels.zone = workload->locality.zone();
  }
  return labels;
}

TrafficLabels labels_of(const ConnectionInfo& info) {
  const bool outbound = info.direction == Direction::kOutbound;
  TrafficLabels labels;
  labels.reporter = outbound ? Reporter::kSource : Reporter::kDestination;
  labels.source = party(info.source_workload.get(), info.baggage.get());
  labels.destination = party(info.destination_workload.get(), nullptr);
  labels.mutual_tls = info.mutual_tls;
  labels.local = info.local;
  // A principal is what TLS proved, never what a table says; for the destination it is whom we talk to or are.
  if (info.mutual_tls) {
    if (outbound) labels.source.principal = info.source_workload->identity.view();
    if (!outbound && info.peer) labels.source.principal = info.peer->text;
  }
  if (info.destination_workload) labels.destination.principal = info.destination_workload->identity.view();
  if (info.service) {
    labels.service = info.service->hostname.view();
    labels.service_ns = info.service->ns.view();
    labels.service_name = info.service->name.view();
  }
  if (info.source_workload == nullptr && info.baggage && info.peer) labels.claimed_by = info.peer->text;
  labels.localities = info.source_workload || info.destination_workload || info.baggage;
  return labels;
}

std::string_view pod_name(const Workload& workload) {
  return workload.name.empty() ? workload.canonical_name.view() : workload.name.view();
}

// No two of a worker begin in one nanosecond.
uint64_t id_of(const ConnectionInfo& info) { return static_cast<uint64_t>(info.begun.time_since_epoch().count()); }

// Texts that an AccessEntry points to. Made for the line, gone with it.
class AccessLine {
 public:
  explicit AccessLine(const ConnectionInfo& info) : source_(info.source.to_string()), destination_(info.destination.to_string()) {
    const bool outbound = info.direction == Direction::kOutbound;
    entry.source_address = source_;
    entry.destination_address = destination_;
    entry.destination_hbone_address = info.hbone_address;
    entry.direction = outbound ? "outbound" : "inbound";
    if (const Workload* workload = info.source_workload.get()) {
      entry.source_workload = pod_name(*workload);
      entry.source_namespace = workload->ns.view();
      entry.source_cluster = workload->cluster_id.view();
      if (info.mutual_tls && outbound) entry.source_identity = workload->identity.view();
    } else if (info.baggage) {
      entry.source_workload = info.baggage->workload_name;
      entry.source_namespace = info.baggage->namespace_;
      entry.source_cluster = info.baggage->cluster;
    }
    if (info.peer) entry.source_identity = info.peer->text;
    if (const Workload* workload = info.destination_workload.get()) {
      entry.destination_workload = pod_name(*workload);
      entry.destination_namespace = workload->ns.view();
      entry.destination_cluster = workload->cluster_id.view();
      if (info.mutual_tls) entry.destination_identity = workload->identity.view();
    }
    if (info.local) entry.path = "local";
    if (info.service) entry.destination_service = info.service->hostname.view();
  }
  AccessEntry entry;

 private:
  std::string source_, destination_;
};

}  // namespace

ConnectionRecord::ConnectionRecord(Worker& worker, ConnectionInfo info)
    : info_(std::move(info)), metrics_(worker.traffic().open(labels_of(info_))) {
  if (access_scope.enabled(log::Level::kDebug)) log_connection_opened(AccessLine(info_).entry);
}

ConnectionRecord::ConnectionRecord(Worker& worker, ConnectionInfo info, const RelayBytes& counted)
    : info_(std::move(info)), metrics_(worker.traffic().adopt(labels_of(info_))), counted_(counted) {}

void ConnectionRecord::forget() {
  if (std::exchange(finished_, true)) return;
  metrics_.forget();
}

void ConnectionRecord::begun_anew() {
  if (std::exchange(finished_, true)) return;
  metrics_.close(Reason::kOk);
}

ConnectionRecord::~ConnectionRecord() {
  finish(Reason::kDrained, "connection closed due to connection drain", counted_, nullptr);
}

void ConnectionRecord::progress(const RelayBytes& bytes) {
  metrics_.add_received(bytes.client_to_server - counted_.client_to_server);
  metrics_.add_sent(bytes.server_to_client - counted_.server_to_client);
  counted_ = bytes;
}

void ConnectionRecord::finish(Reason reason, std::string_view text, const RelayBytes& bytes, EndedConnections* ended) {
  if (std::exchange(finished_, true)) return;
  progress(bytes);
  metrics_.close(reason);
  const bool outbound = info_.direction == Direction::kOutbound;
  // An end that an application chose is no error, whatever it looked like on the wire.
  const bool failed = reason != Reason::kOk && reason != Reason::kDownstreamReset && reason != Reason::kUpstreamReset;
  const std::string_view error = !failed ? std::string_view{} : !text.empty() ? text : reason_info(reason).name;
  const auto duration = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - info_.begun);
  log_connection_complete(AccessLine(info_).entry, {.bytes_sent = outbound ? bytes.client_to_server : bytes.server_to_client,
                                                    .bytes_received = outbound ? bytes.server_to_client : bytes.client_to_server,
                                                    .duration = duration,
                                                    .error = error});
  if (ended == nullptr) return;
  ended->add({.number = 0,
              .id = id_of(info_),
              .at = {},
              .outbound = outbound,
              .mutual_tls = info_.mutual_tls,
              .local = info_.local,
              .source = info_.source,
              .destination = info_.destination,
              .asked = info_.upstream,
              .pod = outbound ? info_.source_workload : info_.destination_workload,
              .peer = info_.peer,
              .bytes = bytes,
              .duration = duration,
              .reason = reason,
              .text = std::string(error)});
}

void deny_early(Worker& worker, Direction direction, const SocketAddress& source, const SocketAddress& destination,
                const Error& why) {
  const auto reporter = direction == Direction::kOutbound ? Reporter::kSource : Reporter::kDestination;
  worker.metrics().early_denials.get({reporter_name(reporter), reason_info(why.reason).name}).add();
  if (worker.metrics().live.watched()) [[unlikely]]
    show_refused(worker, direction, source, destination, why);
  worker.metrics().denial_log.write(Clock::now(), source, destination, direction == Direction::kOutbound ? "outbound" : "inbound",
                                    why.text);
  EndedConnection ended;
  ended.outbound = direction == Direction::kOutbound;
  ended.source = source;
  ended.destination = destination;
  ended.reason = why.reason;
  ended.text = why.text.empty() ? reason_info(why.reason).name : why.text;
  worker.ended().add(std::move(ended));
}

void note_tunnel_end(Worker& worker, Direction direction, const SocketAddress& source, const SocketAddress& destination,
                     const Error& why) {
  if (why.reason != Reason::kPeerFlood && why.reason != Reason::kSendTimeout) return;
  worker.metrics().limit_reached.get({reason_info(why.reason).name}).add();
  worker.metrics().denial_log.write(Clock::now(), source, destination, direction == Direction::kOutbound ? "outbound" : "inbound",
                                    why.text);
}

void append_line(PodConnections& lines, const ConnectionInfo& info, const RelayBytes& bytes) {
  const bool inbound = info.direction == Direction::kInbound;
  const uint64_t sent = inbound ? bytes.server_to_client : bytes.client_to_server;
  const uint64_t received = inbound ? bytes.client_to_server : bytes.server_to_client;
  (inbound ? lines.inbound : lines.outbound)
      .push_back(
          {.source = info.source,
           .original_destination = !inbound              ? info.upstream.to_string()
                                   : info.requested_host ? *info.requested_host
                                                         : "",
           .actual_destination = inbound ? info.upstream : info.destination,
           .protocol = info.mutual_tls ? "HBONE" : "TCP",
           .own = ConnectionLine::Own{.id = id_of(info),
                                      .age = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - info.begun),
                                      .sent = sent,
                                      .received = received,
                                      .peer = info.peer ? info.peer->text : "",
                                      .local = info.local}});
}

hbone::Baggage baggage_of(const Workload& workload) {
  hbone::Baggage baggage;
  baggage.cluster = workload.cluster_id.str();
  baggage.namespace_ = workload.ns.str();
  baggage.workload_type = workload_type_name(workload.type);
  baggage.workload_name = workload.workload_name.str();
  baggage.service_name = workload.canonical_name.str();
  baggage.service_version = workload.canonical_revision.str();
  baggage.region = workload.locality.region();
  baggage.zone = workload.locality.zone();
  return baggage;
}

identity::SpiffeId identity_of(const Workload& workload) {
  return {workload.trust_domain.str(), workload.ns.str(), workload.service_account.str()};
}

}  // namespace zt::ztunnel
