// The life of a captured connection (contract §3.2), as one story.
#include "ztunnel/proxy/outbound.h"

#include <set>
#include <string>

#include "mesh/reason.h"
#include "workload_api/xds/on_demand.h"

namespace zt::ztunnel {

namespace {
// How often a CONNECT is sent that no peer deals with: pooled tunnels may have died unnoticed.
constexpr size_t kConnectAttempts = 3;
}  // namespace

Outbound::Outbound(LocalPod& pod, ConnectionTable& connections, Dialler& dialler)
    : pod_(pod), worker_(pod.worker), connections_(connections), dialler_(dialler), tasks_(pod.worker.loop()) {}

Task<void> Outbound::run(Arrival arrival, SocketAddress destination) {
  const auto begun = Clock::now();
  UniqueFd fd = std::move(arrival.fd);
  const SocketAddress client = arrival.client;
  OpenSocket open(worker_.traffic(), Reporter::kSource);
  const auto deny = [&](const Error& why) {
    deny_early(worker_, Direction::kOutbound, client, destination, why);
    reset_and_close(std::move(fd));
  };
  auto local = co_await pod_.workload();
  if (!local) {
    deny(local.error());
    co_return;
  }
  const OutboundRequest request{.source = **local,
                                .client_ip = client.ip,
                                .destination = destination,
                                .network = worker_.settings().network,
                                .illegal_ports = worker_.settings().illegal_ports,
                                .number = worker_.turns()};
  Route chosen = pod_.lookups.on_demand() ? co_await route_on_demand(request) : route(*worker_.snapshot(), request);
  ConnectionInfo info;
  info.direction = Direction::kOutbound;
  info.source = client;
  info.upstream = destination;
  info.source_workload = std::move(*local);
  info.begun = begun;

  if (auto* refused = std::get_if<Deny>(&chosen)) {
    deny({refused->reason, refused->text});
  } else if (auto* direct = std::get_if<Plain>(&chosen)) {
    co_await plain(std::move(fd), std::move(open), std::move(info), std::move(*direct));
  } else if (auto* via = std::get_if<Hbone>(&chosen)) {
    co_await tunnel(std::move(fd), std::move(open), std::move(info), std::move(*via));
  } else if (auto* unresolved = std::get_if<NeedsResolution>(&chosen)) {
    deny({Reason::kNoRoute, "dns lookup: workloads by hostname are not resolved by this version: " + unresolved->hostname.str()});
  } else {
    deny({Reason::kNoRoute, "no valid routing destination: this version does not reach other networks (double HBONE)"});
  }
}

Task<Route> Outbound::route_on_demand(const OutboundRequest& request) {
  const auto deadline = Clock::now() + workload_api::kLookupLimit;
  std::set<std::string> answered;
  for (;;) {
    Route way = route(*worker_.snapshot(), request);
    auto unknown = unknown_on_route(*worker_.snapshot(), request, way);
    // What the control plane was asked for and has not sent, it does not know either.
    if (!unknown || answered.contains(*unknown)) co_return way;
    if (co_await pod_.lookups.look_up(*unknown, deadline - Clock::now()) == LookupAnswer::kAnswered) {
      answered.insert(std::move(*unknown));
      continue;
    }
    // Without an answer an address that may well be a workload's would be called in plain text, around its policies.
    way = route(*worker_.snapshot(), request);
    unknown = unknown_on_route(*worker_.snapshot(), request, way);
    if (!unknown || answered.contains(*unknown)) co_return way;
    co_return Deny{Reason::kLookupFailed, "the control plane did not say in time what it knows of " + *unknown};
  }
}

Task<void> Outbound::plain(UniqueFd fd, OpenSocket open, ConnectionInfo info, Plain to) {
  info.destination = to.address;
  info.destination_workload = std::move(to.to.workload);
  info.service = std::move(to.to.service);
  Connection& connection = connections_.add(std::move(info));
  connection.accepted = std::move(open);
  // No source is preserved here: we are in the pod's namespace and have its address. The leg may leave the node.
  auto upstream =
      co_await connect_tcp(worker_.loop(), pod_.sockets, {.destination = to.address, .source = std::nullopt, .local_leg = false});
  if (!upstream) {
    reset_and_close(std::move(fd));
    connections_.end(connection, {upstream.error().reason, "io error: " + upstream.error().text});
    co_return;
  }
  connections_.start(connection, std::make_unique<SpliceRelay>(worker_.io(), pod_.peers.of(to.address.ip)), std::move(fd),
                     std::move(*upstream));
}

Task<void> Outbound::tunnel(UniqueFd fd, OpenSocket open, ConnectionInfo info, Hbone via) {
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
                             .source_ip = info.source.ip,
                             .workload = info.destination_workload ? info.destination_workload->uid.str() : std::string(),
                             .spread = via.waypoint};
  Connection& connection = connections_.add(std::move(info));
  connection.accepted = std::move(open);
  std::unique_ptr<StreamRelay> relay;
  const auto refuse = [&](const Error& why) {
    reset_and_close(std::move(fd));
    relay.reset();
    connections_.end(connection, why);
  };

  // For the answers to all attempts together. Making a tunnel has a limit of its own.
  Clock::duration patience = worker_.settings().connect_answer_timeout;
  for (size_t attempt = 1;; ++attempt) {
    relay = std::make_unique<StreamRelay>(worker_.io(), StreamRelay::Side::kSocketIsClient);
    auto stream = co_await dialler_.open(key, headers, *relay);
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
  connections_.start(connection, std::move(relay), std::move(fd));
}

}  // namespace zt::ztunnel
