// To another pod of this node, without a tunnel.
#include <fmt/format.h>

#include "hbone/connect_headers.h"
#include "mesh/reason.h"
#include "ztunnel/proxy/inbound.h"
#include "ztunnel/proxy/local_peers.h"
#include "ztunnel/proxy/outbound.h"

namespace zt::ztunnel {

std::shared_ptr<LocalPeers::Entry> Outbound::local_peer(const Hbone& via) {
  if (!worker_.settings().local_direct || !via.to.workload || via.dial.port != kHbonePort) return nullptr;
  const workload_api::Workload& workload = *via.to.workload;
  // A waypoint, or a pod that stands behind a proxy of its own, gets its tunnel.
  const auto authority = SocketAddress::parse(via.authority);
  if (!authority || authority->ip != via.dial.ip || workload.application_tunnel || workload.native_tunnel) return nullptr;
  auto entry = worker_.local_peers().find(workload);
  if (!entry || entry->name == pod_.name) return nullptr;
  // Its address, and no other pod's that was there before it under the same name.
  return entry->inbound->owns(via.dial.ip) ? entry : nullptr;
}

Task<Result<LocalProof>> Outbound::prove(const ConnectionInfo& info, const Hbone& via, const LocalPeers::Entry& peer) {
  auto client = co_await worker_.tls().get(identity_of(*info.source_workload), hbone::TlsRole::kClient);
  if (!client) co_return std::unexpected(client.error());
  auto server = co_await worker_.tls().get({via.to.workload->trust_domain.str(), peer.name.ns, peer.name.service_account},
                                           hbone::TlsRole::kServer);
  if (!server) co_return fail(Reason::kTlsFailed, "tls error: " + server.error().text);
  auto proof = worker_.local_peers().proofs().prove(*client, *server, via.expected, Clock::now());
  if (!proof) co_return fail(proof.error().reason, "tls error: " + proof.error().text);
  // Lists may have come since the handshake.
  for (const auto& [chain, role] :
       {std::pair(&proof->client_chain, hbone::TlsRole::kServer), std::pair(&proof->server_chain, hbone::TlsRole::kClient)}) {
    if (!*chain) continue;
    if (auto good = worker_.tls().check_revocation(**chain, role); !good)
      co_return fail(good.error().reason, "tls error: " + good.error().text);
  }
  co_return proof;
}

Task<Outbound::Attempt> Outbound::to_local(Waiting& waiting, ConnectionInfo info, Hbone via,
                                           std::shared_ptr<LocalPeers::Entry> peer) {
  info.destination = via.dial;
  info.hbone_address = via.authority;
  info.mutual_tls = true;
  info.local = true;
  info.destination_workload = via.to.workload;
  info.service = via.to.service;
  auto request = std::make_shared<LocalRequest>();
  request->client = info.source;
  request->dial = via.dial;
  request->authority = *SocketAddress::parse(via.authority);
  if (info.service) request->forwarded_host = info.service->hostname.str();
  request->source = info.source_workload;
  Connection& connection = connections_.add(std::move(info));
  connection.accepted = std::move(waiting.open);
  const auto unreached = [&](Error why, bool elsewhere) {
    waiting.open = std::move(connection.accepted);
    connections_.end(connection, why);
    return Unreached{std::move(why), elsewhere};
  };
  auto proof = co_await prove(connection.record.info(), via, *peer);
  if (!proof) co_return unreached(proof.error(), proof.error().reason == Reason::kTlsFailed);
  request->proof = std::move(*proof);
  if (peer->inbound == nullptr)
    co_return unreached({Reason::kH2Failed, "h2 failed: stream closed before CONNECT was answered"}, true);
  peer->inbound->open_local(request);
  if (!co_await request->answered.wait(worker_.loop(), worker_.settings().connect_answer_timeout))
    co_return unreached({Reason::kConnectAnswerTimeout, "h2 failed: no answer to CONNECT in time"}, false);
  if (request->status == 0)
    co_return unreached({Reason::kH2Failed, "h2 failed: stream closed before CONNECT was answered"}, true);
  if (request->status != 200) {
    auto refused = hbone::parse_answer({{":status", std::to_string(request->status)}});
    co_return unreached(refused.error(), request->status == 503);
  }
  if (request->shadow == nullptr) co_return unreached({Reason::kUpstreamReset, "stream reset by the peer"}, false);
  auto relay = std::make_unique<SpliceRelay>(worker_.io(), pod_.peers.of(via.dial.ip));
  request->shadow->follow(*relay);
  connections_.start(connection, std::move(relay), taken(waiting), std::move(request->upstream));
  co_return std::nullopt;
}

}  // namespace zt::ztunnel
