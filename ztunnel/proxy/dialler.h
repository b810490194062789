#pragma once
#include <utility>

#include "hbone/tunnel_pool.h"
#include "ztunnel/proxy/local_pod.h"

namespace zt::ztunnel {

// Tunnels from one pod to others, on one worker: certificate, TCP, TLS handshake, each within its limit; kept in a pool.
// Worker's thread.
class Dialler {
 public:
  explicit Dialler(const LocalPod& pod);
  Dialler(const Dialler&) = delete;

  // A stream on a pooled tunnel, dialled if need be: see TunnelPool::open().
  Task<Result<hbone::Stream*>> open(const hbone::TunnelKey& key, const hbone::Headers& headers, hbone::StreamHandler& handler,
                                    Clock::duration limit = Clock::duration::max()) {
    return (key.gateway ? inner_ : pool_).open(key, headers, handler, limit);
  }
  // TCP alone, as for a tunnel. kConnectFailed, kNetworkPolicy.
  Task<Result<UniqueFd>> connect(SocketAddress destination, Clock::duration limit = kConnectTimeout) const;
  // Tunnels to addresses whose workload is gone would fail whoever uses them next, or reach a stranger. In pieces, as the next.
  bool retire_some(bool anew, const workload_api::Snapshot& snapshot);
  bool close_some_if(bool anew, const std::function<bool(const hbone::Tunnel&)>& condition, Reason reason) {
    if (anew) inner_looked_at_anew_ = true;
    return pool_.close_some_if(anew, condition, reason) &&
           inner_.close_some_if(std::exchange(inner_looked_at_anew_, false), condition, reason);
  }
  [[nodiscard]] size_t tunnels() const { return pool_.tunnels() + inner_.tunnels(); }
  // Hand-over: what is there, over TCP and inside that. What comes from another process is resumed, frozen, and ours and thawed from
  // adopt() on.
  [[nodiscard]] hbone::TunnelPool& pool() { return pool_; }
  [[nodiscard]] hbone::TunnelPool& inner() { return inner_; }
  // Before: tells the peers what they have to know.
  bool prepare_some_handover(bool anew);
  Result<std::unique_ptr<hbone::Tunnel>> resume(const hbone::TunnelKey& key, std::unique_ptr<hbone::Transport> transport,
                                                const hbone::TunnelState& state, const hbone::AttachStream& attach);
  hbone::Tunnel& adopt(const hbone::TunnelKey& key, std::unique_ptr<hbone::Tunnel> tunnel, std::chrono::milliseconds idle);

 private:
  // Whoever it leads to, or through, is not there any more.
  [[nodiscard]] bool gone(const hbone::TunnelKey& key, const workload_api::Snapshot& snapshot) const;
  Task<Result<std::unique_ptr<hbone::Tunnel>>> dial(hbone::TunnelKey key, hbone::TunnelOwner& owner);
  Task<Result<std::unique_ptr<hbone::Tunnel>>> dial_uncounted(hbone::TunnelKey key, hbone::TunnelOwner& owner);

  // A tunnel to a service of another network, inside a stream to its gateway (contract §2.9).
  Task<Result<std::unique_ptr<hbone::Tunnel>>> dial_inner(hbone::TunnelKey key, hbone::TunnelOwner& owner);

  const LocalPod& pod_;
  hbone::TunnelPool pool_;
  hbone::TunnelPool inner_;  // in streams of those of pool_, so it goes first
  bool inner_looked_at_anew_ = false, inner_retired_anew_ = false, inner_prepared_anew_ = false;
};

}  // namespace zt::ztunnel
