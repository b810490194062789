#include "ztunnel/proxy/peer_accounts.h"

#include <utility>

namespace zt::ztunnel {

PeerAccounts::Ptr PeerAccounts::of(const IpAddress& peer) {
  for (const IpAddress& left : std::exchange(left_behind_, {})) let_go(left);
  Peer& found = peers_.try_emplace(peer, pod_, peer).first->second;
  if (Ptr known = found.users.lock()) return known;
  Ptr first(&found.account, [this, peer](MemoryAccount*) { let_go(peer); });
  found.users = first;
  return first;
}

void PeerAccounts::let_go(const IpAddress& peer) {
  const auto found = peers_.find(peer);
  if (found == peers_.end() || !found->second.users.expired()) return;
  if (found->second.account.used() == 0) {
    peers_.erase(found);
  } else {
    left_behind_.push_back(peer);
  }
}

}  // namespace zt::ztunnel
