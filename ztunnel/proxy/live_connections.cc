#include "ztunnel/proxy/live_connections.h"

#include "mesh/reason.h"

namespace zt::ztunnel {
namespace {

// As the pairs of the traffic metrics are called (ztunnel/admin/live_feed.cc).
std::string name_of(const workload_api::Workload& workload) {
  return workload.workload_name.empty() ? workload.service_account.str() : workload.workload_name.str();
}

std::unique_ptr<LiveEvent> event_of(const ConnectionInfo& info) {
  auto event = std::make_unique<LiveEvent>();
  event->time = std::chrono::system_clock::now();
  event->outbound = info.direction == Direction::kOutbound;
  event->path = info.local ? "local" : info.mutual_tls ? "hbone" : "plain";
  event->source = info.source;
  event->destination = info.upstream;
  if (const auto* workload = info.source_workload.get()) {
    event->source_namespace = workload->ns.str();
    event->source_workload = name_of(*workload);
    if (info.mutual_tls && event->outbound) event->source_identity = workload->identity.str();
  } else if (info.baggage) {
    event->source_namespace = info.baggage->namespace_;
    event->source_workload = info.baggage->workload_name;
  }
  if (info.peer) event->source_identity = info.peer->text;
  if (const auto* workload = info.destination_workload.get()) {
    event->destination_namespace = workload->ns.str();
    event->destination_workload = name_of(*workload);
    if (info.mutual_tls) event->destination_identity = workload->identity.str();
  }
  if (info.service) event->service = info.service->hostname.str();
  return event;
}

}  // namespace

void show_opened(Worker& worker, const ConnectionInfo& info) { worker.metrics().live.push(worker.index(), event_of(info)); }

void show_closed(Worker& worker, const ConnectionInfo& info, const Error& why, const RelayBytes& bytes) {
  auto event = event_of(info);
  event->kind = LiveEvent::Kind::kClosed;
  event->reason = why.reason;
  const bool failed = why.reason != Reason::kOk && why.reason != Reason::kDownstreamReset && why.reason != Reason::kUpstreamReset;
  if (failed) event->error = why.text.empty() ? std::string(reason_info(why.reason).name) : why.text;
  event->sent = bytes.client_to_server;
  event->received = bytes.server_to_client;
  event->duration = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - info.begun);
  worker.metrics().live.push(worker.index(), std::move(event));
}

void show_refused(Worker& worker, Direction direction, const SocketAddress& source, const SocketAddress& destination,
                  const Error& why) {
  auto event = std::make_unique<LiveEvent>();
  event->kind = LiveEvent::Kind::kRefused;
  event->time = std::chrono::system_clock::now();
  event->outbound = direction == Direction::kOutbound;
  event->source = source;
  event->destination = destination;
  event->reason = why.reason;
  event->error = why.text;
  worker.metrics().live.push(worker.index(), std::move(event));
}

}  // namespace zt::ztunnel
