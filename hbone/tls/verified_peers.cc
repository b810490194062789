#include "hbone/tls/verified_peers.h"

#include <utility>

namespace zt::hbone {

const VerifiedPeer* VerifiedPeers::find(const Key& key, identity::WallTime now) {
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) return nullptr;
  const auto entry = found->second;
  // Not erased: a clock that was stepped may be stepped back.
  if (now < entry->peer.not_before || now >= entry->peer.not_after) return nullptr;
  entries_.splice(entries_.begin(), entries_, entry);
  return &entry->peer;
}

const VerifiedPeer& VerifiedPeers::insert(const Key& key, VerifiedPeer peer) {
  if (const auto found = by_key_.find(key); found != by_key_.end()) {
    entries_.splice(entries_.begin(), entries_, found->second);
    return entries_.front().peer = std::move(peer);
  }
  if (entries_.size() == kMaxPeers) {
    by_key_.erase(entries_.back().key);
    entries_.pop_back();
  }
  entries_.push_front({key, std::move(peer)});
  by_key_.emplace(key, entries_.begin());
  return entries_.front().peer;
}

}  // namespace zt::hbone
