// To another pod of this node, without a tunnel.
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "hbone/connect_headers.h"
#include "mesh/reason.h"
#include "ztunnel/proxy/handshake_admission.h"
#include "ztunnel/proxy/inbound.h"
#include "ztunnel/proxy/local_peers.h"
#include "ztunnel/proxy/outbound.h"

namespace zt::ztunnel {

namespace {
// A NetworkPolicy of the pods looks at the packets of a tunnel. Without a tunnel there are none unless we send some: so a connection to
// 15008 is made, as for one, which says that it has nothing to ask. What came of it counts for so long.
constexpr std::chrono::seconds kKnockCounts{2};
constexpr size_t kMostKnocks = 1024;
}  // namespace

std::shared_ptr<LocalPeers::Entry> Outbound::local_peer(const Hbone& via) {
  if (!worker_.settings().local_direct || !can_spare_tunnel(via)) return nullptr;
  auto entry = worker_.local_peers().find(*via.to.workload);
  if (!entry || entry->name == pod_.name) return nullptr;
  // Its address, and no other pod's that was there before it under the same name.
  return entry->inbound->owns(via.dial.ip) ? entry : nullptr;
}

Task<Result<>> Outbound::knock(SocketAddress door, Clock::duration limit) {
  if (const auto known = knocks_.find(door.ip); known != knocks_.end()) {
    const auto other = known->second;
    if (!other->done.is_set()) {
      if (!co_await other->done.wait(worker_.loop(), limit)) co_return fail(Reason::kNetworkPolicy, "connection timed out");
      co_return other->result;
    }
    if (other->result && Clock::now() < other->until) co_return other->result;
  }
  if (knocks_.size() >= kMostKnocks) std::erase_if(knocks_, [](const auto& each) { return each.second->done.is_set(); });
  const auto knock = knocks_[door.ip] = std::make_shared<Knock>();
  auto connected = co_await dialler_.connect(door, limit);
  if (connected) {
    tasks_.spawn(part(std::move(*connected)));
  } else {
    knock->result = std::unexpected(connected.error());
  }
  knock->until = Clock::now() + kKnockCounts;
  knock->done.set();
  co_return knock->result;
}

Task<void> Outbound::part(UniqueFd fd) {
  // Seven bytes into an empty buffer. If they do not get there, a line in the other pod's log is all there is to it.
  [[maybe_unused]] const ssize_t sent = ::send(fd.get(), kNothingToAsk.data(), kNothingToAsk.size(), MSG_NOSIGNAL);
  // Who closes first keeps the port for a minute: not one of those that the client's pod connects from.
  FdWaiter waiter(worker_.loop());
  if (waiter.attach(fd.get())) co_await waiter.wait(EPOLLIN, Clock::now() + kKnockCounts);
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
                                           std::shared_ptr<LocalPeers::Entry> peer, Clock::duration limit) {
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
  if (auto there = co_await knock(via.dial, limit); !there)
    co_return unreached(there.error(), worth_another(there.error().reason));
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
