#include "ztunnel/proxy/dialler.h"

#include <algorithm>

#include "hbone/connect_headers.h"
#include "hbone/stream_transport.h"
#include "mesh/reason.h"
#include "ztunnel/proxy/connection.h"
#include "ztunnel/proxy/handshaking.h"
#include "ztunnel/proxy/stopwatch.h"

namespace zt::ztunnel {

Dialler::Dialler(const LocalPod& pod)
    : pod_(pod),
      pool_(
          pod.worker.loop(), pod.worker.settings().pool,
          [this](const hbone::TunnelKey& key, hbone::TunnelOwner& owner) { return dial(key, owner); },
          [this](const hbone::TunnelKey& key, const Error& why) {
            note_tunnel_end(pod_.worker, Direction::kOutbound, {key.source_ip, 0}, key.destination, why);
          }),
      inner_(
          pod.worker.loop(), pod.worker.settings().pool,
          [this](const hbone::TunnelKey& key, hbone::TunnelOwner& owner) { return dial(key, owner); },
          [this](const hbone::TunnelKey& key, const Error& why) {
            note_tunnel_end(pod_.worker, Direction::kOutbound, {key.source_ip, 0}, key.destination, why);
          }) {}

bool Dialler::gone(const hbone::TunnelKey& key, const workload_api::Snapshot& snapshot) const {
  if (key.gateway) return gone(key.gateway->tunnel, snapshot);
  const auto unexpected = [&](const workload_api::Workload& workload) {
    return std::ranges::find(key.expected, identity_of(workload)) == key.expected.end();
  };
  const auto* chosen = key.workload.empty() ? snapshot.workload(pod_.worker.settings().network, key.destination.ip)
                                            : snapshot.workload(key.workload);
  if (chosen == nullptr || unexpected(*chosen)) return true;
  // By name: what the name stands for is not in the state.
  if (chosen->addresses.empty()) return chosen->hostname.empty();
  if (!chosen->has_address(key.destination.ip)) return true;
  // Another workload may have got the address before the old one is said to be gone. (On the host's network many share one.)
  const auto* owner = snapshot.workload(chosen->network.view(), key.destination.ip);
  return owner != nullptr && unexpected(*owner);
}

bool Dialler::retire_some(bool anew, const workload_api::Snapshot& snapshot) {
  if (anew) inner_retired_anew_ = true;
  return pool_.retire_some(anew, [&](const hbone::TunnelKey& key) { return gone(key, snapshot); }) &&
         inner_.retire_some(std::exchange(inner_retired_anew_, false),
                            [&](const hbone::TunnelKey& key) { return gone(key, snapshot); });
}

bool Dialler::prepare_some_handover(bool anew) {
  if (anew) inner_prepared_anew_ = true;
  return pool_.prepare_some_handover(anew) && inner_.prepare_some_handover(std::exchange(inner_prepared_anew_, false));
}

Result<std::unique_ptr<hbone::Tunnel>> Dialler::resume(const hbone::TunnelKey& key, std::unique_ptr<hbone::Transport> transport,
                                                       const hbone::TunnelState& state, const hbone::AttachStream& attach) {
  const PeerAccounts::Ptr memory = pod_.peers.of(key.destination.ip);
  auto resumed = hbone::Tunnel::resume(pod_.worker.io(), *memory, std::move(transport), state, pod_.worker.settings().tunnel,
                                       (key.gateway ? inner_ : pool_).owner(), attach);
  if (resumed) (*resumed)->keep_account(memory);
  return resumed;
}

hbone::Tunnel& Dialler::adopt(const hbone::TunnelKey& key, std::unique_ptr<hbone::Tunnel> tunnel,
                              std::chrono::milliseconds idle) {
  hbone::Tunnel& adopted = *tunnel;
  (key.gateway ? inner_ : pool_).adopt(key, std::move(tunnel), idle);
  adopted.thaw();
  if (gone(key, *pod_.worker.snapshot())) adopted.drain();
  return adopted;
}

Task<Result<std::unique_ptr<hbone::Tunnel>>> Dialler::dial(hbone::TunnelKey key, hbone::TunnelOwner& owner) {
  auto result = key.gateway ? co_await dial_inner(std::move(key), owner) : co_await dial_uncounted(std::move(key), owner);
  pod_.worker.metrics().pool_dials.get({result ? "ok" : reason_info(result.error().reason).name}).add();
  co_return result;
}

Task<Result<UniqueFd>> Dialler::connect(SocketAddress destination, Clock::duration limit) const {
  const Stopwatch watch;
  auto connected = co_await connect_tcp(pod_.worker.loop(), pod_.sockets,
                                        {.destination = destination, .source = std::nullopt, .local_leg = false}, limit);
  watch.stop(pod_.worker.metrics().times.connect_peer);
  if (connected) co_return connected;
  if (connected.error().reason == Reason::kConnectTimeout) {
    co_return fail(Reason::kNetworkPolicy,
                   "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008: " + connected.error().text);
  }
  co_return fail(connected.error().reason, "io error: " + connected.error().text);
}

Task<Result<std::unique_ptr<hbone::Tunnel>>> Dialler::dial_uncounted(hbone::TunnelKey key, hbone::TunnelOwner& owner) {
  auto context = co_await pod_.worker.tls().get(key.source, hbone::TlsRole::kClient);
  if (!context) co_return std::unexpected(context.error());

  auto connected = co_await connect(key.destination);
  if (!connected) co_return std::unexpected(connected.error());
  UniqueFd fd = std::move(*connected);
  auto made = hbone::TlsHandshake::make_client(*context, key.expected);
  if (!made) co_return fail(Reason::kTlsFailed, "tls error: " + made.error().text);
  const PeerAccounts::Ptr memory = pod_.peers.of(key.destination.ip);
  auto shaken = co_await shake_hands(pod_.worker, *memory, fd.get(), hbone::TlsRole::kClient, std::move(*made));
  if (!shaken) co_return fail(shaken.error().reason, "tls error: " + shaken.error().text);
  auto started = hbone::Tunnel::start(pod_.worker.io(), *memory, hbone::Tunnel::Role::kClient, std::move(fd),
                                      std::move(shaken->tls), std::move(shaken->early), pod_.worker.settings().tunnel, owner);
  if (started) (*started)->keep_account(memory);
  co_return started;
}

Task<Result<std::unique_ptr<hbone::Tunnel>>> Dialler::dial_inner(hbone::TunnelKey key, hbone::TunnelOwner& owner) {
  Worker& worker = pod_.worker;
  auto context = co_await worker.tls().get(key.source, hbone::TlsRole::kClient);
  if (!context) co_return std::unexpected(context.error());
  auto made = hbone::TlsHandshake::make_client(*context, key.expected);
  if (!made) co_return fail(Reason::kTlsFailed, "tls error: " + made.error().text);

  auto transport = std::make_unique<hbone::StreamTransport>();
  auto stream = co_await pool_.open(key.gateway->tunnel, key.gateway->connect, *transport);
  if (!stream) co_return std::unexpected(stream.error());
  transport->use(**stream);
  const auto deadline = Clock::now() + worker.settings().connect_answer_timeout;
  while (!transport->answered()) {
    if (transport->closed()) co_return fail(Reason::kH2Failed, "h2 failed: stream closed before the gateway answered");
    if (!co_await transport->changed(worker.loop(), deadline - Clock::now()))
      co_return fail(Reason::kConnectAnswerTimeout, "h2 failed: no answer of the gateway in time");
    // It was told from inside the outer tunnel.
    co_await worker.handshake_turns().turn();
  }
  if (auto answer = hbone::parse_answer(transport->answer()); !answer)
    co_return fail(answer.error().reason, "network gateway: " + answer.error().text);
  const PeerAccounts::Ptr memory = pod_.peers.of(key.destination.ip);
  auto shaken = co_await shake_hands(worker, *memory, *transport, std::move(*made));
  if (!shaken) co_return fail(shaken.error().reason, "tls error: " + shaken.error().text);
  hbone::StreamTransport& carrier = *transport;
  auto started = hbone::Tunnel::start(worker.io(), *memory, hbone::Tunnel::Role::kClient, std::move(transport),
                                      std::move(shaken->tls), std::move(shaken->early), worker.settings().tunnel, owner);
  if (started) {
    (*started)->keep_account(memory);
    carrier.carry(**started);
  }
  co_return started;
}

}  // namespace zt::ztunnel
