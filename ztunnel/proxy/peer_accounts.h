#pragma once
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/address.h"
#include "base/memory_account.h"

namespace zt::ztunnel {

// What each peer of a pod makes one worker hold: a level of accounts below the pod's, so that of several peers the one that grew pays,
// and not its neighbours. A peer is an address: one that opens many tunnels, or begins many handshakes, is one peer. Worker's thread.
class PeerAccounts {
 public:
  // Whoever charges an account holds it: tunnels, handshakes, relays. What a stream has kept may outlive them all.
  using Ptr = std::shared_ptr<MemoryAccount>;

  explicit PeerAccounts(MemoryAccount& pod) : pod_(pod) {}
  PeerAccounts(const PeerAccounts&) = delete;

  [[nodiscard]] Ptr of(const IpAddress& peer);
  [[nodiscard]] size_t size() const { return peers_.size(); }

 private:
  struct Peer {
    Peer(MemoryAccount& pod, const IpAddress& address) : account(pod, address.to_string()) {}
    MemoryAccount account;
    std::weak_ptr<MemoryAccount> users;
  };
  void let_go(const IpAddress& peer);

  MemoryAccount& pod_;
  std::unordered_map<IpAddress, Peer> peers_;
  std::vector<IpAddress> left_behind_;  // without users, and yet not empty
};

}  // namespace zt::ztunnel
