// The life of a captured connection (contract §3.2), as one story.
#include "ztunnel/proxy/outbound.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <set>
#include <string>
#include <vector>

#include "base/log.h"
#include "mesh/reason.h"
#include "workload_api/xds/on_demand.h"
#include "ztunnel/proxy/socks5.h"
#include "ztunnel/proxy/stopwatch.h"
#include "ztunnel/telemetry/traffic_labels.h"

namespace zt::ztunnel {

using namespace std::chrono_literals;

namespace {
// How often a CONNECT is sent that no peer deals with: pooled tunnels may have died unnoticed.
constexpr size_t kConnectAttempts = 3;
// Endpoints of a service that one connection tries, all within the limit for a connect; of one that is known by a host name, so many
// addresses.
constexpr size_t kMostEndpoints = 4;
constexpr size_t kMostAddresses = 4;
// A waypoint that was put in or taken out a moment ago, and the proxy that sends to it, hear of that one before the other. Until both
// have, the one that says it is no waypoint of what is asked for is asked again, or what has come of it by then, after these pauses.
constexpr std::array<std::chrono::milliseconds, 5> kNewsPauses{50ms, 150ms, 300ms, 500ms, 1000ms};

log::Scope kLog("outbound");
using log::Field;

}  // namespace

bool worth_another(Reason reason) {
  switch (reason) {
    case Reason::kConnectFailed:
    case Reason::kConnectTimeout:
    case Reason::kNetworkPolicy:
    case Reason::kTlsFailed:
    case Reason::kTlsTimeout:
    case Reason::kH2Failed:
    case Reason::kPeerLost: return true;
    default: return false;
  }
}

namespace {
Destination destination_of(const Route& route) {
  if (const auto* plain = std::get_if<Plain>(&route)) return plain->to;
  if (const auto* hbone = std::get_if<Hbone>(&route)) return hbone->to;
  // Which of a gateway's remote workloads was chosen says more than the gateway.
  if (const auto* hbone = std::get_if<DoubleHbone>(&route)) return {hbone->remote, hbone->to.service};
  if (const auto* pending = std::get_if<NeedsResolution>(&route))
    return std::visit([](const auto& way) { return destination_of(Route(way)); }, pending->then);
  return {};
}

// What is known of a captured connection before it goes anywhere.
ConnectionInfo anew(const ConnectionInfo& known) {
  ConnectionInfo info;
  info.direction = known.direction;
  info.source = known.source;
  info.upstream = known.upstream;
  info.source_workload = known.source_workload;
  info.begun = known.begun;
  return info;
}

hbone::Headers request_of(const ConnectionInfo& info, const std::string& traceparent, std::optional<std::string> from_network) {
  return hbone::render_connect({.authority = info.hbone_address,
                                .source = baggage_of(*info.source_workload),
                                .client = info.source,
                                .service_host = info.service ? info.service->hostname.str() : std::string(),
                                .traceparent = traceparent,
                                .from_network = std::move(from_network)});
}

IpAddress address_of(const Route& route) {
  if (const auto* plain = std::get_if<Plain>(&route)) return plain->address.ip;
  if (const auto* hbone = std::get_if<Hbone>(&route)) return hbone->dial.ip;
  if (const auto* hbone = std::get_if<DoubleHbone>(&route)) return hbone->dial.ip;
  return {};
}

// The metric that the peer has for it.
void count_resolution(Worker& worker, const workload_api::Workload& source, std::string_view hostname) {
  const auto known = [](std::string_view text) { return text.empty() ? kUnknownLabel : text; };
  const std::string_view canonical = known(source.canonical_name.view()), revision = known(source.canonical_revision.view());
  worker.metrics()
      .on_demand_dns
      .get({known(source.workload_name.view()), canonical, revision, known(source.ns.view()), known(source.identity.view()),
            canonical, revision, known(source.cluster_id.view()), hostname})
      .add();
}
}  // namespace

Outbound::Outbound(LocalPod& pod, ConnectionTable& connections, Dialler& dialler)
    : pod_(pod), worker_(pod.worker), connections_(connections), dialler_(dialler), tasks_(pod.worker.loop()) {}

Task<void> Outbound::run(Arrival arrival, SocketAddress destination) {
  Waiting waiting{std::move(arrival.fd), OpenSocket(worker_.traffic(), Reporter::kSource)};
  if (co_await reach(waiting, arrival.client, destination)) reset_and_close(std::move(waiting.fd));
}

UniqueFd Outbound::taken(Waiting& waiting) {
  // Ten bytes into an empty buffer: they fit, or the application is gone, which the relay will see.
  if (!waiting.good_news.empty()) {
    [[maybe_unused]] const ssize_t sent =
        ::send(waiting.fd.get(), waiting.good_news.data(), waiting.good_news.size(), MSG_NOSIGNAL);
  }
  return std::move(waiting.fd);
}

Task<std::optional<Error>> Outbound::reach(Waiting& waiting, SocketAddress client, SocketAddress destination,
                                           std::optional<Clock::duration> bound) {
  const auto begun = Clock::now();
  const Clock::duration most = std::min<Clock::duration>(bound.value_or(kConnectTimeout), kConnectTimeout);
  const auto deny = [&](Error why) {
    deny_early(worker_, Direction::kOutbound, client, destination, why);
    return why;
  };
  auto local = co_await pod_.workload();
  if (!local) co_return deny(local.error());
  // Who did not answer this connection, and who keeps failing, is not asked while there are others.
  std::vector<workload_api::Str> tried;
  const workload_api::Avoid avoid = [&](const workload_api::Workload& endpoint) {
    return std::ranges::find(tried, endpoint.uid) != tried.end() || worker_.set_aside().contains(endpoint, Clock::now());
  };
  Error last;
  size_t pauses = 0;
  for (;;) {
    const uint64_t known = worker_.snapshot()->generation();
    const OutboundRequest request{.source = **local,
                                  .client_ip = client.ip,
                                  .destination = destination,
                                  .network = worker_.settings().network,
                                  .illegal_ports = worker_.settings().illegal_ports,
                                  .number = worker_.turns(),
                                  .avoid = tried.empty() && worker_.set_aside().empty() ? nullptr : &avoid};
    Route chosen = pod_.lookups.on_demand() ? co_await route_on_demand(request) : route(*worker_.snapshot(), request);
    ConnectionInfo info;
    info.direction = Direction::kOutbound;
    info.source = client;
    info.upstream = destination;
    info.source_workload = *local;
    info.begun = begun;

    const Destination to = destination_of(chosen);
    if (!tried.empty() && (!to.workload || std::ranges::find(tried, to.workload->uid) != tried.end())) break;
    const auto left = most - (Clock::now() - begun);
    const bool others = tried.size() + 1 < kMostEndpoints && has_others(to);
    const auto limit = others ? std::min<Clock::duration>(most / kMostEndpoints, left) : left;
    const bool limited = bound || others || !tried.empty();
    bool by_waypoint = false;
    Attempt attempt;
    if (auto* refused = std::get_if<Deny>(&chosen)) {
      co_return deny({refused->reason, refused->text});
    } else if (auto* direct = std::get_if<Plain>(&chosen)) {
      attempt = co_await plain(waiting, std::move(info), std::move(*direct), limited ? limit : kConnectTimeout);
    } else if (auto* via = std::get_if<Hbone>(&chosen)) {
      by_waypoint = via->waypoint;
      if (auto peer = local_peer(*via)) {
        attempt =
            co_await to_local(waiting, std::move(info), std::move(*via), std::move(peer), limited ? limit : kConnectTimeout);
      } else {
        attempt = co_await tunnel(waiting, std::move(info), std::move(*via), limited ? limit : Clock::duration::max());
      }
    } else if (auto* unresolved = std::get_if<NeedsResolution>(&chosen)) {
      attempt = co_await by_name(waiting, std::move(info), std::move(*unresolved), limit);
    } else if (auto* abroad = std::get_if<DoubleHbone>(&chosen)) {
      attempt = co_await double_tunnel(waiting, std::move(info), std::move(*abroad), limited ? limit : Clock::duration::max());
    }
    judge(client, to, attempt);
    if (!attempt) co_return std::nullopt;
    last = attempt->why;
    if (attempt->stranger && by_waypoint && pauses < kNewsPauses.size() && Clock::now() - begun < most) {
      const auto pause = kNewsPauses[pauses++];
      if (worker_.snapshot()->generation() == known) co_await worker_.state().next(pause);
      continue;
    }
    if (!attempt->elsewhere || !others || Clock::now() - begun >= most) break;
    worker_.metrics().connect_failovers.get({reason_info(attempt->why.reason).name}).add();
    ZT_LOG(kLog, kInfo, "trying another endpoint", Field::bare("src.addr", client.to_string()),
           Field::string("failed", to.workload->uid.view()), Field::string("service", to.service->key.view()),
           Field::string("error", attempt->why.text));
    tried.push_back(to.workload->uid);
  }
  co_return last;
}

bool Outbound::has_others(const Destination& to) const {
  if (!to.workload || !to.service) return false;
  const auto* entry = worker_.snapshot()->service(to.service->key.view());
  return entry != nullptr && entry->endpoints().size() > 1;
}

void Outbound::judge(const SocketAddress& client, const Destination& to, const Attempt& attempt) {
  if (!to.workload || !to.service) return;
  SetAside& set_aside = worker_.set_aside();
  if (!attempt) {
    if (!set_aside.worked(*to.workload)) return;
    ZT_LOG(kLog, kInfo, "an endpoint works again", Field::string("endpoint", to.workload->uid.view()));
  } else if (attempt->elsewhere) {
    const auto time = set_aside.failed(*to.workload, Clock::now());
    if (!time) return;
    worker_.metrics().endpoints_set_aside.get({}).add();
    ZT_LOG(kLog, kWarn, "an endpoint keeps failing and is set aside while there are others",
           Field::string("endpoint", to.workload->uid.view()), Field::bare("src.addr", client.to_string()),
           Field::string("for", std::to_string(std::chrono::duration_cast<std::chrono::seconds>(*time).count()) + "s"),
           Field::string("error", attempt->why.text));
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

// One address after the other, each for its part of the time, as long as a connection cannot be made.
Task<Outbound::Attempt> Outbound::by_name(Waiting& waiting, ConnectionInfo info, NeedsResolution pending, Clock::duration limit) {
  const auto deadline = Clock::now() + limit;
  count_resolution(worker_, *info.source_workload, pending.hostname.view());
  const auto answer = co_await worker_.host_names().find(pending.hostname.str(), limit);
  std::vector<IpAddress> addresses = answer->addresses;
  const uint64_t turn = name_turns_++;
  for (size_t tried = 1;; ++tried) {
    Route way = resolved(pending, addresses, turn);
    if (auto* none = std::get_if<Deny>(&way)) {
      Unreached unreached{{none->reason, none->text + ": " + pending.hostname.str() + ": " + answer->error}, true};
      deny_early(worker_, Direction::kOutbound, info.source, info.upstream, unreached.why);
      co_return unreached;
    }
    const IpAddress ip = address_of(way);
    const auto left = deadline - Clock::now();
    const bool others = addresses.size() > 1 && tried < kMostAddresses;
    const auto each = others ? std::min<Clock::duration>(kConnectTimeout / kMostAddresses, left) : left;
    Attempt attempt;
    if (auto* direct = std::get_if<Plain>(&way)) {
      attempt = co_await plain(waiting, anew(info), std::move(*direct), each);
    } else if (auto* via = std::get_if<Hbone>(&way)) {
      attempt = co_await tunnel(waiting, anew(info), std::move(*via), each);
    } else if (auto* abroad = std::get_if<DoubleHbone>(&way)) {
      attempt = co_await double_tunnel(waiting, anew(info), std::move(*abroad), each);
    }
    if (!attempt || !attempt->elsewhere || !others || Clock::now() >= deadline) co_return attempt;
    std::erase(addresses, ip);
  }
}

Task<Outbound::Attempt> Outbound::plain(Waiting& waiting, ConnectionInfo info, Plain to, Clock::duration limit) {
  info.destination = to.address;
  info.destination_workload = std::move(to.to.workload);
  info.service = std::move(to.to.service);
  Connection& connection = connections_.add(std::move(info));
  connection.accepted = std::move(waiting.open);
  // No source is preserved here: we are in the pod's namespace and have its address. The leg may leave the node.
  const Stopwatch watch;
  auto upstream = co_await connect_tcp(worker_.loop(), pod_.sockets,
                                       {.destination = to.address, .source = std::nullopt, .local_leg = false}, limit);
  watch.stop(worker_.metrics().times.connect_plain);
  if (!upstream) {
    Unreached unreached{{upstream.error().reason, "io error: " + upstream.error().text}, worth_another(upstream.error().reason)};
    waiting.open = std::move(connection.accepted);
    connections_.end(connection, unreached.why);
    co_return unreached;
  }
  connections_.start(connection, std::make_unique<SpliceRelay>(worker_.io(), pod_.peers.of(to.address.ip)), taken(waiting),
                     std::move(*upstream));
  co_return std::nullopt;
}

Task<Outbound::Attempt> Outbound::tunnel(Waiting& waiting, ConnectionInfo info, Hbone via, Clock::duration limit) {
  info.destination = via.dial;
  info.hbone_address = via.authority;
  info.mutual_tls = true;
  info.destination_workload = std::move(via.to.workload);
  info.service = std::move(via.to.service);
  auto headers = request_of(info, hbone::TraceParent::random().render(), std::nullopt);
  hbone::TunnelKey key{.source = identity_of(*info.source_workload),
                       .expected = std::move(via.expected),
                       .destination = via.dial,
                       .source_ip = info.source.ip,
                       .workload = info.destination_workload ? info.destination_workload->uid.str() : std::string(),
                       .spread = via.waypoint};
  co_return co_await connect(waiting, std::move(info), std::move(key), std::move(headers), limit);
}

Task<Outbound::Attempt> Outbound::double_tunnel(Waiting& waiting, ConnectionInfo info, DoubleHbone via, Clock::duration limit) {
  info.destination = via.dial;
  info.hbone_address = via.authority;
  info.mutual_tls = true;
  info.destination_workload = std::move(via.to.workload);
  info.service = std::move(via.to.service);
  const std::string trace = hbone::TraceParent::random().render();
  auto gateway = std::make_shared<hbone::TunnelKey::Gateway>();
  gateway->tunnel = {.source = identity_of(*info.source_workload),
                     .expected = std::move(via.expected),
                     .destination = via.dial,
                     .source_ip = info.source.ip,
                     .workload = info.destination_workload->uid.str(),
                     .spread = true};
  gateway->connect = request_of(info, trace, std::nullopt);
  hbone::TunnelKey key = gateway->tunnel;
  key.expected = std::move(via.inner_expected);
  key.authority = std::move(via.authority);
  key.gateway = std::move(gateway);
  auto headers = request_of(info, trace, worker_.settings().network);
  co_return co_await connect(waiting, std::move(info), std::move(key), std::move(headers), limit);
}

Task<Outbound::Attempt> Outbound::connect(Waiting& waiting, ConnectionInfo info, hbone::TunnelKey key, hbone::Headers headers,
                                          Clock::duration limit) {
  Connection& connection = connections_.add(std::move(info));
  connection.accepted = std::move(waiting.open);
  return ask(waiting, connection, std::move(key), std::move(headers), nullptr, limit);
}

Task<void> Outbound::run_on(Connection& connection, UniqueFd fd, hbone::TunnelKey key, std::unique_ptr<StreamRelay> relay,
                            bool socks) {
  const ConnectionInfo& info = connection.record.info();
  const SocketAddress client = info.source, destination = info.upstream;
  auto headers = request_of(info, hbone::TraceParent::random().render(),
                            key.gateway ? std::optional(worker_.settings().network) : std::nullopt);
  Waiting waiting{std::move(fd), std::move(connection.accepted), socks ? socks5::render(socks5::Reply::kSucceeded) : ""};
  Attempt attempt = co_await ask(waiting, connection, std::move(key), std::move(headers), std::move(relay), kConnectTimeout);
  if (!attempt) co_return;
  if (attempt->elsewhere) {
    auto failed = co_await reach(waiting, client, destination);
    if (!failed) co_return;
    attempt->why = std::move(*failed);
  }
  if (socks) co_return co_await refuse_socks(waiting, socks5::render(socks5::reply_for(attempt->why)));
  reset_and_close(std::move(waiting.fd));
}

Task<Outbound::Attempt> Outbound::ask(Waiting& waiting, Connection& connection, hbone::TunnelKey key, hbone::Headers headers,
                                      std::unique_ptr<StreamRelay> relay, Clock::duration limit) {
  const auto unreached = [&](Error why, bool elsewhere) {
    relay.reset();
    waiting.open = std::move(connection.accepted);
    connections_.end(connection, why);
    return Unreached{std::move(why), elsewhere};
  };

  // For the answers to all attempts together. Making a tunnel has a limit of its own.
  Clock::duration patience = worker_.settings().connect_answer_timeout;
  for (size_t attempt = 1;; ++attempt) {
    if (!relay) {
      relay = std::make_unique<StreamRelay>(worker_.io(), StreamRelay::Side::kSocketIsClient);
      const Stopwatch watch;
      auto stream = co_await dialler_.open(key, headers, *relay, limit);
      watch.stop(worker_.metrics().times.pool_wait);
      if (!stream) co_return unreached(stream.error(), worth_another(stream.error().reason));
      relay->attach(**stream);
    }
    const auto asked = Clock::now();
    RequestOnItsWay known(*relay);
    known.connection = &connection;
    known.application = waiting.fd.get();
    known.socks = !waiting.good_news.empty();
    pod_.requests.push_back(known);
    const bool answered = co_await relay->answered().wait(worker_.loop(), patience);
    if (known.frozen()) co_await known.thawed(worker_.loop());
    if (known.gone) {
      connections_.forget(connection);
      co_return std::nullopt;
    }
    if (!answered && !relay->answered().is_set())
      co_return unreached({Reason::kConnectAnswerTimeout, "h2 failed: no answer to CONNECT in time"}, false);
    if (relay->answer()) break;
    if (!relay->unprocessed() || attempt == kConnectAttempts)
      co_return unreached({Reason::kH2Failed, "h2 failed: stream closed before CONNECT was answered"}, true);
    relay.reset();
    patience -= Clock::now() - asked;
    worker_.metrics().connects_resent.get({}).add();
  }
  if (auto answer = hbone::parse_answer(*relay->answer()); !answer) {
    // 503: it could not reach its application. Anything else is what it has to say to us.
    const auto status = hbone::answer_status(*relay->answer());
    Unreached refused = unreached(answer.error(), status == 503);
    refused.stranger = status == 400;
    co_return refused;
  }
  connections_.start(connection, std::move(relay), taken(waiting));
  co_return std::nullopt;
}

}  // namespace zt::ztunnel
