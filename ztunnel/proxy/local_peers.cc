#include "ztunnel/proxy/local_peers.h"

#include <algorithm>

#include "hbone/tls/handshake.h"
#include "mesh/reason.h"
#include "ztunnel/proxy/connection.h"
#include "ztunnel/proxy/relay.h"

namespace zt::ztunnel {

using hbone::TlsHandshake;

namespace {

// Turns that a handshake can take at all.
constexpr int kMostSteps = 16;

// What one has to say is said to the other. False: nothing was there.
bool pass(TlsHandshake& from, TlsHandshake& to, TlsHandshake::Status& status) {
  if (from.output().empty()) return false;
  const std::vector<uint8_t> bytes(from.output().begin(), from.output().end());
  from.consume_output(bytes.size());
  size_t consumed = 0;
  if (status == TlsHandshake::Status::kWantsInput) status = to.advance(bytes, consumed);
  return true;
}

std::string key_of(std::string_view ns, std::string_view name, std::string_view account) {
  std::string key(ns);
  key.append("/").append(name).append("/").append(account);
  return key;
}

}  // namespace

Result<LocalProof> LocalProofs::prove(const std::shared_ptr<const hbone::TlsContext>& client,
                                      const std::shared_ptr<const hbone::TlsContext>& server,
                                      const std::vector<identity::SpiffeId>& expected, Clock::time_point now) {
  const auto [first, last] = known_.equal_range(client.get());
  for (auto known = first; known != last; ++known)
    if (known->second.server == server && known->second.expected == expected && now < known->second.until)
      return known->second.proof;

  ZT_ASSIGN(TlsHandshake client_side, TlsHandshake::make_client(client, expected));
  ZT_ASSIGN(TlsHandshake server_side, TlsHandshake::make_server(server));
  size_t consumed = 0;
  auto at_client = client_side.advance({}, consumed);
  auto at_server = server_side.advance({}, consumed);
  for (int step = 0; step < kMostSteps; ++step) {
    const bool sent = pass(client_side, server_side, at_server);
    if (!pass(server_side, client_side, at_client) && !sent) break;
  }
  if (at_client == TlsHandshake::Status::kFailed) return std::unexpected(client_side.error());
  if (at_server == TlsHandshake::Status::kFailed) return std::unexpected(server_side.error());
  if (at_client != TlsHandshake::Status::kDone || at_server != TlsHandshake::Status::kDone)
    return fail(Reason::kTlsFailed, "tls handshake eof");
  ZT_ASSIGN(auto seen_by_client, client_side.take());
  ZT_ASSIGN(auto seen_by_server, server_side.take());
  LocalProof proof{.client = seen_by_server.peer ? std::make_shared<const ProvenPeer>(*seen_by_server.peer) : nullptr,
                   .client_chain = std::move(seen_by_server.peer_chain),
                   .server_chain = std::move(seen_by_client.peer_chain)};
  std::erase_if(known_, [&](const auto& entry) { return entry.second.until <= now; });
  if (known_.size() >= kMost) known_.clear();
  known_.emplace(client.get(), Known{client, server, expected, proof, now + kLifetime});
  return proof;
}

std::shared_ptr<LocalPeers::Entry> LocalPeers::add(const PodName& name, Inbound& inbound) {
  auto entry = std::make_shared<Entry>(Entry{name, &inbound});
  pods_[key_of(name.ns, name.name, name.service_account)].push_back(entry);
  return entry;
}

std::shared_ptr<LocalPeers::Entry> LocalPeers::find(const workload_api::Workload& workload) {
  const auto found = pods_.find(key_of(workload.ns.view(), workload.name.view(), workload.service_account.view()));
  if (found == pods_.end()) return nullptr;
  std::erase_if(found->second, [](const std::weak_ptr<Entry>& entry) { return entry.expired(); });
  if (found->second.empty()) {
    pods_.erase(found);
    return nullptr;
  }
  auto newest = found->second.back().lock();
  return newest->inbound != nullptr ? newest : nullptr;
}

LocalRequest::~LocalRequest() {
  if (shadow != nullptr) shadow->kill(Reason::kDownstreamReset, {});
}

}  // namespace zt::ztunnel
