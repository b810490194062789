#include "ztunnel/proxy/ended_connections.h"

#include <algorithm>
#include <utility>

namespace zt::ztunnel {

void EndedConnections::add(EndedConnection ended) {
  ended.number = ++count_;
  ended.at = std::chrono::system_clock::now();
  ring_[(count_ - 1) % kKept] = std::move(ended);
}

std::vector<EndedConnection> EndedConnections::all() const {
  std::vector<EndedConnection> kept;
  const uint64_t have = std::min<uint64_t>(count_, kKept);
  kept.reserve(have);
  for (uint64_t i = count_ - have; i < count_; ++i) kept.push_back(ring_[i % kKept]);
  return kept;
}

}  // namespace zt::ztunnel
