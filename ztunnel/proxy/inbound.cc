#include "ztunnel/proxy/inbound.h"
#include "ztunnel/proxy/stopwatch.h"

#include <sys/socket.h>

#include <algorithm>

#include "base/log.h"
#include "base/text.h"
#include "mesh/reason.h"
#include "ztunnel/decide/route.h"
#include "ztunnel/proxy/handshaking.h"
#include "ztunnel/proxy/inbound_tunnel.h"
#include "ztunnel/proxy/proxy_header.h"

namespace zt::ztunnel {

namespace {

log::Scope kRbac("rbac");
// Open connections for which the policies are asked again before the clock is looked at.
constexpr size_t kRecheckedAtOnce = 64;

bool is_illegal(const WorkerSettings& settings, uint16_t port) {
  return std::find(settings.illegal_ports.begin(), settings.illegal_ports.end(), port) != settings.illegal_ports.end();
}

// Contract §5.2: decisions at debug, or at info if asked for; what dry-run policies would have done likewise.
void log_verdict(const WorkerSettings& settings, const ConnectionInfo& info, const Verdict& verdict) {
  const auto level = settings.policy_info_logging ? log::Level::kInfo : log::Level::kDebug;
  if (!kRbac.enabled(level)) return;
  const std::string source = info.source.to_string(), destination = info.upstream.to_string();
  const std::string_view identity = info.peer ? std::string_view(info.peer->text) : std::string_view();
  const auto write = [&](std::string_view message, std::string_view policy) {
    using log::Field;
    log::write(kRbac, level, message,
               {Field::bare("src.addr", source), Field::string("src.identity", identity), Field::bare("dst.addr", destination),
                Field::string("policy", policy)});
  };
  for (const DryRunNote& note : verdict.dry_run) {
    switch (note.kind) {
      case DryRunNote::Kind::kWouldDeny: write("dry run: would be denied", note.policy); break;
      case DryRunNote::Kind::kWouldAllow: write("dry run: would be allowed", note.policy); break;
      case DryRunNote::Kind::kNoneWouldAllow: write("dry run: no policy would allow", note.policy); break;
    }
  }
  write(verdict.allowed() ? "allowed" : verdict.text, verdict.policy);
}

workload_api::PolicySubject subject_of(const ConnectionInfo& info) {
  return {.source_ip = info.source.ip, .destination = info.upstream, .peer = info.peer ? info.peer->parsed : SpiffeView{}};
}

}  // namespace

Inbound::Inbound(LocalPod& pod, ConnectionTable& connections)
    : pod_(pod),
      worker_(pod.worker),
      connections_(connections),
      local_(worker_.local_peers().add(pod.name, *this)),
      tasks_(pod.worker.loop()) {}

Inbound::~Inbound() {
  local_->inbound = nullptr;
  tasks_.cancel();
  while (InboundTunnel* tunnel = tunnels_.front()) forget(*tunnel);
}

void Inbound::forget(InboundTunnel& tunnel) {
  --tunnel_count_;
  delete &tunnel;
}

bool Inbound::drain_some(bool anew) {
  draining_ = true;
  local_->inbound = nullptr;  // the next process's listeners take those
  return drained_.some(tunnels_, anew, InboundTunnel::kPiece, [](InboundTunnel& each) { each.tunnel_->drain(); });
}

bool Inbound::close_some_if(bool anew, const std::function<bool(const hbone::Tunnel&)>& condition, Reason reason) {
  return looked_at_.some(tunnels_, anew, InboundTunnel::kPiece, [&](InboundTunnel& each) {
    if (condition(*each.tunnel_)) each.tunnel_->close(reason);
  });
}

void Inbound::stop() {
  stopped_ = true;
  local_->inbound = nullptr;
  tasks_.cancel();
}

bool Inbound::admit_tunnel() {
  if (pod_.counts->tunnels.load(std::memory_order_relaxed) < worker_.settings().tunnels_per_pod) return true;
  worker_.metrics().limit_reached.get({"tunnels_per_pod"}).add();
  while (!unused_.empty()) {
    auto& oldest = static_cast<InboundTunnel&>(unused_.front());
    unused_.pop_front();
    if (oldest.tunnel_->closed() || oldest.tunnel_->streams() > 0) continue;
    oldest.leaving_ = true;
    oldest.in_pod_.release();
    oldest.tunnel_->drain();
    return true;
  }
  return false;
}

Task<void> Inbound::accept_tunnel(Arrival arrival) {
  UniqueFd fd = std::move(arrival.fd);
  const SocketAddress client = arrival.client;
  const SocketAddress local = local_address(fd.get());
  OpenSocket open(worker_.traffic(), Reporter::kDestination);
  const auto deny = [&](const Error& why) { deny_early(worker_, Direction::kInbound, client, local, why); };
  if (!admit_tunnel()) {
    deny({Reason::kTunnelLimit, "the pod has too many tunnels"});
    co_return;
  }
  Counted in_pod(pod_.counts->tunnels);
  auto workload = co_await pod_.workload();
  if (!workload) {
    deny(workload.error());
    co_return;
  }
  // Which certificate: the control plane's trust domain, but the account that the node agent vouched for (contract §2.2).
  auto context = co_await worker_.tls().get({(*workload)->trust_domain.str(), pod_.name.ns, pod_.name.service_account},
                                            hbone::TlsRole::kServer);
  if (!context) {
    deny(context.error());
    co_return;
  }
  auto made = hbone::TlsHandshake::make_server(*context);
  if (!made) {
    deny({Reason::kTlsFailed, "tls error: " + made.error().text});
    co_return;
  }
  const PeerAccounts::Ptr memory = pod_.peers.of(client.ip);
  auto shaken = co_await shake_hands(worker_, *memory, fd.get(), hbone::TlsRole::kServer, std::move(*made));
  if (!shaken) {
    deny({shaken.error().reason, "tls handshake error: " + shaken.error().text});
    co_return;
  }
  auto owner = std::make_unique<InboundTunnel>(*this, client, local, arrival.transparent);
  if (shaken->tls.peer) owner->identity_ = std::make_shared<const ProvenPeer>(*shaken->tls.peer);
  auto started = hbone::Tunnel::start(worker_.io(), *memory, hbone::Tunnel::Role::kServer, std::move(fd), std::move(shaken->tls),
                                      std::move(shaken->early), worker_.settings().tunnel, *owner);
  if (!started) {
    deny(started.error());
    co_return;
  }
  owner->tunnel_ = std::move(*started);
  owner->tunnel_->keep_account(memory);
  enter(std::move(owner), std::move(open), std::move(in_pod));
}

void Inbound::enter(std::unique_ptr<InboundTunnel> tunnel, OpenSocket open, Counted in_pod) {
  tunnel->in_pod_ = std::move(in_pod);
  tunnel->socket_ = std::move(open);
  if (draining_) tunnel->tunnel_->drain();
  ++tunnel_count_;
  if (tunnel->tunnel_->streams() == 0) unused_.push_back(*tunnel);
  tunnels_.add(*tunnel.release());
}

Verdict Inbound::judge(const workload_api::Snapshot& snapshot, const ConnectionInfo& info, MissingPolicy missing) const {
  const auto* now = snapshot.local_workload(pod_.name);
  return authorize(snapshot, now != nullptr ? *now : *info.destination_workload, subject_of(info), missing);
}

Task<Verdict> Inbound::authorize_inbound(const ConnectionInfo& info) {
  const auto deadline = Clock::now() + worker_.settings().policy_wait;
  for (;;) {
    Verdict verdict = judge(*worker_.snapshot(), info, worker_.settings().missing_policy);
    const auto left = deadline - Clock::now();
    if (verdict.decision != Verdict::Decision::kUnknownPolicy || left <= Clock::duration::zero()) {
      log_verdict(worker_.settings(), info, verdict);
      co_return verdict;
    }
    co_await worker_.state().next(left);
  }
}

Task<Result<UniqueFd>> Inbound::connect_if_allowed(const ConnectionInfo& info, ConnectTarget target) {
  const auto refused = [](const Verdict& verdict) {
    return fail(verdict.reason, "connection closed due to policy rejection: " + verdict.text);
  };
  const Verdict before = co_await authorize_inbound(info);
  if (!before.allowed()) co_return refused(before);
  const Stopwatch watch;
  auto upstream = co_await connect_tcp(worker_.loop(), pod_.sockets, target);
  watch.stop(worker_.metrics().times.connect_application);
  if (!upstream) co_return fail(upstream.error().reason, "connection failed: " + upstream.error().text);
  const Verdict after = judge(*worker_.snapshot(), info, worker_.settings().missing_policy);
  if (after.allowed()) co_return upstream;
  reset_and_close(std::move(*upstream));
  co_return refused(after);
}

Task<void> Inbound::accept_connect(InboundTunnel& tunnel, hbone::Stream& stream, hbone::Headers headers) {
  // The tunnel may go while we wait; what is needed of it is copied here, and the relay is told by its stream.
  const auto begun = Clock::now();
  const SocketAddress peer = tunnel.peer_, local = tunnel.local_;
  const bool transparent = tunnel.transparent_;
  const auto identity = tunnel.identity_;
  const WorkerSettings& settings = worker_.settings();
  auto relay = std::make_unique<StreamRelay>(worker_.io(), StreamRelay::Side::kSocketIsServer);
  relay->attach(stream);
  stream.set_handler(relay.get());
  RequestOnItsWay known(*relay);

  const auto answer_error = [&](Reason reason) {
    if (hbone::Stream* open = relay->stream()) {
      open->set_handler(nullptr);
      open->respond(hbone::render_answer(reason_info(reason).http_status, nullptr), true);
      relay->detach();
    }
  };
  const auto deny = [&](const Error& why) {
    deny_early(worker_, Direction::kInbound, peer, local, why);
    answer_error(why.reason);
  };

  auto request = hbone::parse_connect(headers);
  hbone::Headers().swap(headers);  // up to 64 KiB, which no account knows of: not for as long as this request is dealt with
  if (!request) {
    deny(request.error());
    co_return;
  }
  if (const auto room = pod_.room(); !room) {
    deny(room.error());
    co_return;
  }
  const Counted on_its_way(pod_.counts->connections);
  known.request = &*request;
  pod_.requests.push_back(known);
  const bool from_gateway = request->from_network && !equals_ignoring_case(*request->from_network, settings.network);
  if (pod_.lookups.on_demand() && !from_gateway) co_await pod_.lookups.find_source(peer.ip);
  auto workload = co_await pod_.workload();
  if (known.frozen()) co_await known.thawed(worker_.loop());
  if (known.gone) co_return;
  if (!workload) {
    deny(workload.error());
    co_return;
  }
  LookupAnswer asked = LookupAnswer::kAnswered;
  if (pod_.lookups.on_demand() && !request->address) asked = co_await pod_.lookups.find_service(pod_.name.ns, request->host);
  if (known.frozen()) co_await known.thawed(worker_.loop());
  if (known.gone) co_return;
  const auto snapshot = worker_.snapshot();
  const Authority authority = request->address ? Authority(*request->address) : Authority(HostPort{request->host, request->port});
  auto target = inbound_target(*snapshot, {.workload = **workload,
                                           .local = local,
                                           .client_ip = peer.ip,
                                           .authority = authority,
                                           .network = settings.network,
                                           .illegal_ports = settings.illegal_ports});
  if (!target) {
    if (target.error().reason == Reason::kNoService && asked != LookupAnswer::kAnswered) {
      target = fail(Reason::kLookupFailed, "the control plane did not say in time what it knows of " + request->host);
    }
    deny(target.error());
    co_return;
  }
  ConnectionInfo info;
  info.direction = Direction::kInbound;
  info.source = peer;
  info.destination = local;
  info.hbone_address = request->authority;
  info.upstream = target->upstream;
  ConnectTarget application{.destination = target->upstream,
                            .source = transparent ? std::optional(peer.ip) : std::nullopt,
                            .source_required = settings.transparency == Transparency::kRequired,
                            .local_leg = true,
                            .own_address = target->upstream.ip == local.ip};
  std::string header;
  if (target->proxy_destination) {
    header =
        render_proxy_header(peer, *target->proxy_destination, identity ? std::string_view(identity->text) : std::string_view(),
                            target->proxy_service ? target->proxy_service->hostname.view() : std::string_view());
    // Such an application is asked over the loopback, where nobody else can write it a header (contract §4.4). Policies see the
    // pod's address all the same.
    if (settings.localhost_app_tunnel) {
      application.destination.ip = *IpAddress::parse(local.ip.is_v4() ? "127.0.0.1" : "::1");
      application.source.reset();
    }
  }
  info.destination_workload = *workload;
  info.service = inbound_service(*snapshot, **workload, *target, request->forwarded_host.value_or(""));
  if (auto& host = request->forwarded_host) info.requested_host = std::make_unique<const std::string>(std::move(*host));
  info.mutual_tls = true;
  info.peer = identity;
  info.begun = begun;
  if (!from_gateway) info.source_workload = workload_api::WorkloadPtr(snapshot->workload(settings.network, peer.ip));
  if (settings.response_baggage && request->baggage)
    info.baggage = std::make_unique<hbone::Baggage>(std::move(*request->baggage));

  // Tracked before the policy is asked, so that no change falls between the two.
  Connection& connection = connections_.add(std::move(info));
  known.connection = &connection;
  const auto refuse = [&](const Error& why) {
    answer_error(why.reason);
    relay.reset();
    connections_.end(connection, why);
  };
  auto upstream = co_await connect_if_allowed(connection.record.info(), application);
  if (known.frozen()) co_await known.thawed(worker_.loop());
  if (known.gone) {
    if (upstream) reset_and_close(std::move(*upstream));
    connections_.forget(connection);
    co_return;
  }
  // A fresh socket takes more than a header.
  if (upstream && !header.empty() &&
      ::send(upstream->get(), header.data(), header.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(header.size())) {
    upstream = fail(Reason::kConnectFailed, "connection failed: the application took no PROXY header");
  }
  if (!upstream) {
    refuse(upstream.error());
    co_return;
  }
  hbone::Stream* open = relay->stream();
  if (open == nullptr) {
    reset_and_close(std::move(*upstream));
    refuse({Reason::kDownstreamReset, "stream closed before it was answered"});
    co_return;
  }
  const hbone::Baggage destination = baggage_of(**workload);
  open->respond(hbone::render_answer(200, settings.response_baggage ? &destination : nullptr), false);
  connections_.start(connection, std::move(relay), std::move(*upstream));
}

Task<void> Inbound::accept_plain(Arrival arrival) {
  const auto begun = Clock::now();
  UniqueFd fd = std::move(arrival.fd);
  const SocketAddress client = arrival.client;
  const SocketAddress destination = original_destination(fd.get());
  OpenSocket open(worker_.traffic(), Reporter::kDestination);
  const auto deny = [&](const Error& why) {
    deny_early(worker_, Direction::kInbound, client, destination, why);
    reset_and_close(std::move(fd));
  };
  if (is_illegal(worker_.settings(), destination.port)) {
    deny({Reason::kRecursiveCall, "attempted recursive call to ourselves"});
    co_return;
  }
  if (pod_.lookups.on_demand()) co_await pod_.lookups.find_source(client.ip);
  auto workload = co_await pod_.workload();
  if (!workload) {
    deny(workload.error());
    co_return;
  }
  ConnectionInfo info;
  info.direction = Direction::kInbound;
  info.source = client;
  info.destination = info.upstream = destination;
  info.destination_workload = *workload;
  info.source_workload = workload_api::WorkloadPtr(worker_.snapshot()->workload(worker_.settings().network, client.ip));
  info.service =
      inbound_service(*worker_.snapshot(), **workload, {.upstream = destination, .proxy_destination = {}, .service = {}}, "");
  info.begun = begun;
  Connection& connection = connections_.add(std::move(info));
  const auto refuse = [&](const Error& why) {
    reset_and_close(std::move(fd));
    connections_.end(connection, why);
  };
  connection.accepted = std::move(open);
  auto upstream = co_await connect_if_allowed(
      connection.record.info(), {.destination = destination,
                                 .source = arrival.transparent ? std::optional(client.ip) : std::nullopt,
                                 .source_required = worker_.settings().transparency == Transparency::kRequired,
                                 .local_leg = true,
                                 // Redirection leaves a local address; what else the pod answers for may be behind it.
                                 .own_address = local_address(fd.get()).ip == destination.ip});
  if (!upstream) {
    refuse(upstream.error());
    co_return;
  }
  connections_.start(connection, std::make_unique<SpliceRelay>(worker_.io(), pod_.peers.of(client.ip)), std::move(fd),
                     std::move(*upstream));
}

void Inbound::judge_open(Connection& connection, const workload_api::Snapshot& snapshot) {
  const ConnectionInfo& known = connection.record.info();
  if (known.direction != Direction::kInbound || !connection.relay) return;
  // A policy that the workload names and that has not come counts for nothing here, as at the peer: those that are there decide.
  // A new connection waits for it and is refused without it, since it may be a DENY. An open one was let in before it was
  // named; to cut it for the name alone would end all connections of a workload whenever the control plane sends the
  // workload first, as it does. When it comes, this is asked again. But it must not shield from the others meanwhile: if an
  // ALLOW is withdrawn and none of those that are left matches, or a DENY does, the connection ends.
  const Verdict verdict = judge(snapshot, known, MissingPolicy::kSkip);
  if (verdict.allowed()) return;
  ZT_LOG(kRbac, kInfo, "connection closed by a policy change", Field::bare("src.addr", known.source.to_string()),
         Field::string("policy", verdict.policy.view()));
  connection.relay->kill(Reason::kPolicyRevoked, "connection closed due to policy change");
}

// A policy changed: every open inbound connection is asked again with the workload as it is now (contract §4.7; unlike the peer
// this also follows a change of the workload's own policy list).
bool Inbound::recheck_some(const workload_api::Snapshot& snapshot) {
  for (size_t left = kRecheckedAtOnce; left > 0; --left) {
    Connection* const connection = rechecked_.next();
    if (connection == nullptr) break;
    judge_open(*connection, snapshot);
  }
  return rechecked_.done();
}

}  // namespace zt::ztunnel
