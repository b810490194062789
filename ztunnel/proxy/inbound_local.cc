// A connection from another pod of this node, without a tunnel: what accept_connect() does of a CONNECT, and nothing less.
#include <algorithm>

#include "mesh/reason.h"
#include "ztunnel/decide/route.h"
#include "ztunnel/proxy/inbound.h"
#include "ztunnel/proxy/local_peers.h"

namespace zt::ztunnel {

bool Inbound::owns(const IpAddress& ip) {
  if (std::ranges::find(own_addresses_, ip) != own_addresses_.end()) return true;
  if (!is_own_address(pod_.sockets, ip)) return false;
  constexpr size_t kMostKept = 16;
  if (own_addresses_.size() < kMostKept) own_addresses_.push_back(ip);
  return true;
}

namespace {
// Whoever asked is told whatever happens, also if the pod ends in the middle.
class Answer {
 public:
  explicit Answer(std::shared_ptr<LocalRequest> request) : request_(std::move(request)) {}
  Answer(const Answer&) = delete;
  ~Answer() { request_->answered.set(); }

 private:
  std::shared_ptr<LocalRequest> request_;
};
}  // namespace

Task<void> Inbound::accept_local(std::shared_ptr<LocalRequest> request) {
  const Answer said(request);
  const auto begun = Clock::now();
  const WorkerSettings& settings = worker_.settings();
  const SocketAddress peer = request->client, local = request->dial;
  const auto answer = [&](Reason reason) { request->status = reason_info(reason).http_status; };
  const auto deny = [&](const Error& why) {
    deny_early(worker_, Direction::kInbound, peer, local, why);
    answer(why.reason);
  };
  if (const auto room = pod_.room(); !room) {
    deny(room.error());
    co_return;
  }
  const Counted on_its_way(pod_.counts->connections);
  auto workload = co_await pod_.workload();
  if (!workload) {
    deny(workload.error());
    co_return;
  }
  const auto snapshot = worker_.snapshot();
  const Authority authority(request->authority);
  auto target = inbound_target(*snapshot, {.workload = **workload,
                                           .local = local,
                                           .client_ip = peer.ip,
                                           .authority = authority,
                                           .network = settings.network,
                                           .illegal_ports = settings.illegal_ports});
  if (!target) {
    deny(target.error());
    co_return;
  }
  ConnectionInfo info;
  info.direction = Direction::kInbound;
  info.source = peer;
  info.destination = local;
  info.hbone_address = request->authority.to_string();
  info.upstream = target->upstream;
  info.source_workload = request->source;
  info.destination_workload = *workload;
  info.service = inbound_service(*snapshot, **workload, *target, request->forwarded_host);
  if (!request->forwarded_host.empty()) info.requested_host = std::make_unique<const std::string>(request->forwarded_host);
  info.mutual_tls = true;
  info.local = true;
  info.peer = request->proof.client;
  info.begun = begun;
  Connection& connection = connections_.add(std::move(info));
  auto upstream = co_await connect_if_allowed(
      connection.record.info(), {.destination = target->upstream,
                                 .source = settings.transparency == Transparency::kNever ? std::nullopt : std::optional(peer.ip),
                                 .source_required = settings.transparency == Transparency::kRequired,
                                 .local_leg = true,
                                 .own_address = true});
  if (!upstream) {
    answer(upstream.error().reason);
    connections_.end(connection, upstream.error());
    co_return;
  }
  // Only we and `said` have it: who asked has gone.
  if (request.use_count() == 2) {
    reset_and_close(std::move(*upstream));
    connections_.end(connection, {Reason::kDownstreamReset, "stream closed before it was answered"});
    co_return;
  }
  auto shadow = std::make_unique<Shadow>(worker_.io(), request->proof.client_chain, request->proof.server_chain);
  Shadow& answered = *shadow;
  shadows_.add(answered);
  connections_.start(connection, std::move(shadow));
  answered.wait_in(*request);
  request->upstream = std::move(*upstream);
  request->status = 200;
}

Connection& Inbound::adopt_local(ConnectionInfo info, const RelayBytes& counted, const handover::PairUnit::Server& server,
                                 SpliceRelay& front) {
  Connection& connection = connections_.adopt(std::move(info), counted);
  auto shadow = std::make_unique<Shadow>(worker_.io(), server.client_chain, server.server_chain);
  shadows_.add(*shadow);
  shadow->follow(front);
  (void)shadow->start(connections_.done(connection));
  shadow->connection = &connection;
  connection.relay = std::move(shadow);
  return connection;
}

void Inbound::cut_if_revoked(Shadow& shadow) {
  constexpr std::string_view kText = "connection closed: peer certificate revoked by CRL";
  if (shadow.client_chain() && !worker_.tls().check_revocation(*shadow.client_chain(), hbone::TlsRole::kServer)) {
    shadow.kill(Reason::kCertRevoked, std::string(kText));
  } else if (shadow.server_chain() && !worker_.tls().check_revocation(*shadow.server_chain(), hbone::TlsRole::kClient)) {
    shadow.cut_client(Reason::kCertRevoked, std::string(kText));
  }
}

bool Inbound::cut_revoked_some(bool anew) {
  return shadows_looked_at_.some(shadows_, anew, kShadowsAtOnce, [this](Shadow& shadow) { cut_if_revoked(shadow); });
}

}  // namespace zt::ztunnel
