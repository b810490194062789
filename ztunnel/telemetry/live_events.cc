#include "ztunnel/telemetry/live_events.h"

namespace zt::ztunnel {

void LiveEvents::watch(bool on) {
  if (on == watched()) return;
  if (!on) watched_.store(false, std::memory_order_relaxed);
  // At the end too: the events would keep their memory until somebody watches again.
  uint64_t left_out = 0;
  std::ignore = take(left_out);
  if (on) watched_.store(true, std::memory_order_relaxed);
}

std::vector<std::unique_ptr<const LiveEvent>> LiveEvents::take(uint64_t& left_out) {
  std::vector<std::unique_ptr<const LiveEvent>> events;
  left_out = 0;
  for (const auto& ring : rings_) {
    ring->queue.consume_all([&](const LiveEvent* event) { events.emplace_back(event); });
    left_out += ring->left_out.exchange(0, std::memory_order_relaxed);
  }
  return events;
}

LiveEvents::~LiveEvents() {
  uint64_t left_out = 0;
  std::ignore = take(left_out);
}

}  // namespace zt::ztunnel
