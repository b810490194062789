#include "ztunnel/proxy/set_aside.h"

#include <algorithm>

namespace zt::ztunnel {

namespace {
// Who has not failed for that long has never failed.
constexpr Clock::duration kMemory = 2 * SetAside::kLongest;
}  // namespace

std::optional<Clock::duration> SetAside::failed(const workload_api::Workload& endpoint, Clock::time_point now) {
  if (entries_.size() >= kMostEntries && !entries_.contains(endpoint.uid)) forget_old(now);
  if (entries_.size() >= kMostEntries && !entries_.contains(endpoint.uid)) return std::nullopt;
  Entry& entry = entries_[endpoint.uid];
  if (now - entry.last_failure > kMemory) entry = {};
  entry.last_failure = now;
  // Those that were on their way when it was set aside say nothing new.
  if (now < entry.until) return std::nullopt;
  ++entry.failures;
  if (entry.times == 0 && entry.failures < kFailures) return std::nullopt;
  const uint32_t doublings = std::min(entry.times, 16u);
  const Clock::duration time = std::min<Clock::duration>(kFirst * (1u << doublings), kLongest);
  ++entry.times;
  entry.until = now + time;
  return time;
}

bool SetAside::worked(const workload_api::Workload& endpoint) {
  if (entries_.empty()) return false;
  const auto found = entries_.find(endpoint.uid);
  if (found == entries_.end()) return false;
  const bool was = found->second.times > 0;
  entries_.erase(found);
  return was;
}

bool SetAside::contains(const workload_api::Workload& endpoint, Clock::time_point now) const {
  const auto found = entries_.find(endpoint.uid);
  return found != entries_.end() && now < found->second.until;
}

void SetAside::forget_old(Clock::time_point now) {
  std::erase_if(entries_, [&](const auto& entry) { return now - entry.second.last_failure > kMemory; });
}

}  // namespace zt::ztunnel
