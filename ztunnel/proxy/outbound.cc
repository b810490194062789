// The life of a captured connection (contract §3.2), as one story.
#include <set>

#include "base/log.h"
#include "mesh/reason.h"
#include "workload_api/xds/on_demand.h"
#include "ztunnel/proxy/pod_worker.h"

namespace zt::ztunnel {

namespace {
// How often a CONNECT is sent that no peer deals with: pooled tunnels may have died unnoticed.
constexpr size_t kConnectAttempts = 3;
}  // namespace

Task<void> PodWorker::outbound(UniqueFd fd, SocketAddress client) {
  const auto begun = Clock::now();
  const SocketAddress destination = original_destination(fd.get());
  const auto deny = [&](const Error& why) {
    deny_early(worker_, Direction::kOutbound, client, destination, why);
    reset_and_close(std::move(fd));
  };
  auto local = co_await local_workload();
  if (!local) {
    deny(local.error());
    co_return;
  }
  const OutboundRequest request{.source = **local,
                                .client_ip = client.ip,
                                .destination = destination,
                                .network = worker_.settings().network,
                                .illegal_ports = worker_.settings().illegal_ports,
                                .number = number_};
  Route chosen = worker_.on_demand() ? co_await route_on_demand(request) : route(*worker_.snapshot(), request);
  ConnectionInfo info;
  info.direction = Direction::kOutbound;
  info.source = client;
  info.upstream = destination;
  info.source_workload = std::move(*local);
  info.begun = begun;

  if (auto* refused = std::get_if<Deny>(&chosen)) {
    deny({refused->reason, refused->text});
  } else if (auto* plain = std::get_if<Plain>(&chosen)) {
    co_await outbound_plain(std::move(fd), std::move(info), std::move(*plain));
  } else if (auto* tunnel = std::get_if<Hbone>(&chosen)) {
    co_await outbound_tunnel(std::move(fd), std::move(info), std::move(*tunnel));
  } else if (auto* unresolved = std::get_if<NeedsResolution>(&chosen)) {
    deny({Reason::kNoRoute, "dns lookup: workloads by hostname are not resolved by this version: " + unresolved->hostname.str()});
  } else {
    deny({Reason::kNoRoute, "no valid routing destination: this version does not reach other networks (double HBONE)"});
  }
}

Task<Route> PodWorker::route_on_demand(const OutboundRequest& request) {
  const auto deadline = Clock::now() + workload_api::kLookupLimit;
  std::set<std::string> asked;
  for (;;) {
    Route way = route(*worker_.snapshot(), request);
    auto unknown = unknown_on_route(*worker_.snapshot(), request, way);
    const auto left = deadline - Clock::now();
    if (!unknown || left <= Clock::duration::zero() || !asked.insert(*unknown).second) co_return way;
    co_await worker_.look_up(std::move(*unknown), left);
  }
}

Task<void> PodWorker::outbound_plain(UniqueFd fd, ConnectionInfo info, Plain to) {
  info.destination = to.address;
  info.destination_workload = std::move(to.to.workload);
  info.service = std::move(to.to.service);
  Connection& connection = adopt(std::make_unique<Connection>(worker_, std::move(info)));
  // No source is preserved here: we are in the pod's namespace and have its address. The leg may leave the node.
  auto upstream =
      co_await connect_tcp(worker_.loop(), sockets_, {.destination = to.address, .source = std::nullopt, .local_leg = false});
  if (!upstream) {
    connection.record.finish(upstream.error().reason, "connection failed: " + upstream.error().text, {});
    reset_and_close(std::move(fd));
    remove(connection);
    co_return;
  }
  auto relay = std::make_unique<SpliceRelay>(worker_.io());
  if (auto started = relay->start(std::move(fd), std::move(*upstream), when_done(connection)); !started) {
    connection.record.finish(started.error().reason, started.error().text, {});
    remove(connection);
    co_return;
  }
  connection.relay = std::move(relay);
}

Task<void> PodWorker::outbound_tunnel(UniqueFd fd, ConnectionInfo info, Hbone via) {
  info.destination = via.dial;
  info.hbone_address = via.authority;
  info.mutual_tls = true;
  info.destination_workload = std::move(via.to.workload);
  info.service = std::move(via.to.service);
  const hbone::Headers headers =
      hbone::render_connect({.authority = via.authority,
                             .source = baggage_of(*info.source_workload),
                             .client = info.source,
                             .service_host = info.service ? info.service->hostname.str() : std::string(),
                             .traceparent = hbone::TraceParent::random().render(),
                             .from_network = std::nullopt});
  const hbone::TunnelKey key{.source = identity_of(*info.source_workload),
                             .expected = std::move(via.expected),
                             .destination = via.dial,
                             .source_ip = info.source.ip};
  Connection& connection = adopt(std::make_unique<Connection>(worker_, std::move(info)));
  std::unique_ptr<StreamRelay> relay;
  const auto refuse = [&](const Error& why) {
    connection.record.finish(why.reason, why.text, {});
    reset_and_close(std::move(fd));
    relay.reset();
    remove(connection);
  };

  // For the answers to all attempts together. Making a tunnel has a limit of its own.
  Clock::duration patience = worker_.settings().connect_answer_timeout;
  for (size_t attempt = 1;; ++attempt) {
    relay = std::make_unique<StreamRelay>(worker_.io(), StreamRelay::Side::kSocketIsClient);
    auto stream = co_await pool_.open(key, headers, *relay);
    if (!stream) {
      refuse(stream.error());
      co_return;
    }
    relay->attach(**stream);
    const auto asked = Clock::now();
    if (!co_await relay->answered().wait(worker_.loop(), patience)) {
      refuse({Reason::kConnectAnswerTimeout, "h2 failed: no answer to CONNECT in time"});
      co_return;
    }
    if (relay->answer()) break;
    if (!relay->unprocessed() || attempt == kConnectAttempts) {
      refuse({Reason::kH2Failed, "h2 failed: stream closed before CONNECT was answered"});
      co_return;
    }
    patience -= Clock::now() - asked;
    worker_.metrics().connects_resent.get({}).add();
  }
  if (auto answer = hbone::parse_answer(*relay->answer()); !answer) {
    refuse(answer.error());
    co_return;
  }
  StreamRelay& moving = *relay;
  connection.relay = std::move(relay);
  if (auto started = moving.start(std::move(fd), when_done(connection)); !started) {
    connection.record.finish(started.error().reason, started.error().text, {});
    remove(connection);
  }
}

}  // namespace zt::ztunnel
