#pragma once
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/address.h"
#include "base/event_loop.h"
#include "base/result.h"
#include "base/task.h"
#include "base/unique_fd.h"
#include "hbone/tls/context.h"
#include "hbone/tls/verified_peers.h"
#include "identity/spiffe_id.h"
#include "mesh/pod_name.h"
#include "workload_api/model/model.h"

// Connections between two pods of this node, without a tunnel: one worker has both ends (docs/local.md says why that is as good).
// Worker's thread.
namespace zt::ztunnel {

class Inbound;
class Shadow;
struct ProvenPeer;

// What each of two pods has proved to the other: a handshake of their certificates, in memory.
struct LocalProof {
  std::shared_ptr<const ProvenPeer> client;     // who the server was shown
  hbone::PeerChain client_chain, server_chain;  // if revocation is asked about
};

// Handshakes that have been made stand for those that would be made again, as long as both certificates, the roots and what is
// expected are the same, and for as long as a tunnel may be unused.
class LocalProofs {
 public:
  static constexpr std::chrono::minutes kLifetime{5};
  static constexpr size_t kMost = 1024;

  // kTlsFailed, kCertRevoked. Some 2 ms of work the first time.
  Result<LocalProof> prove(const std::shared_ptr<const hbone::TlsContext>& client,
                           const std::shared_ptr<const hbone::TlsContext>& server,
                           const std::vector<identity::SpiffeId>& expected, Clock::time_point now);

 private:
  struct Known {
    std::shared_ptr<const hbone::TlsContext> client, server;
    std::vector<identity::SpiffeId> expected;
    LocalProof proof;
    Clock::time_point until;
  };
  std::unordered_multimap<const hbone::TlsContext*, Known> known_;  // by the client's
};

// A request of one pod to another, as a CONNECT and its answer.
struct LocalRequest {
  SocketAddress client;  // the application's end
  SocketAddress dial;    // the pod's 15008, to which a tunnel would go
  SocketAddress authority;
  std::string forwarded_host;
  workload_api::WorkloadPtr source;
  LocalProof proof;

  // The answer.
  Event answered;
  uint16_t status = 0;       // as of a CONNECT
  UniqueFd upstream;         // with 200: the application
  Shadow* shadow = nullptr;  // with 200: the server's connection, until somebody takes it or it is gone
  ~LocalRequest();           // nobody has taken it: it ends
};

// The pods that can be reached so, on this worker.
class LocalPeers {
 public:
  // How others find the pod: `inbound` is null once it takes nothing more.
  struct Entry {
    PodName name;
    Inbound* inbound;
  };
  std::shared_ptr<Entry> add(const PodName& name, Inbound& inbound);
  // The newest of that name that takes connections; null: none.
  [[nodiscard]] std::shared_ptr<Entry> find(const workload_api::Workload& workload);
  [[nodiscard]] LocalProofs& proofs() { return proofs_; }

 private:
  std::unordered_map<std::string, std::vector<std::weak_ptr<Entry>>> pods_;  // by "namespace/name/account"
  LocalProofs proofs_;
};

}  // namespace zt::ztunnel
