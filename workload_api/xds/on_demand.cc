#include "workload_api/xds/on_demand.h"

#include <utility>

namespace zt::workload_api {

bool OnDemandKeys::look_up(const std::string& key, Clock::time_point now, LookupDone done) {
  ++lookups_;
  const auto found = keys_.find(key);
  if (found != keys_.end() && found->second.answered) {
    done(LookupAnswer::kAnswered);
    return false;
  }
  if (deadlines_.size() >= kMaxLookupsWaiting) {
    ++refused_;
    done(LookupAnswer::kRefused);
    return false;
  }
  const bool room = keys_.size() < kMaxKeysPerStream;
  const bool known = found != keys_.end();
  deadlines_.emplace_back(now + kLookupLimit, key);
  keys_[key].waiters.push_back({now + kLookupLimit, std::move(done)});
  ++waiting_;
  if (known || !streaming_) return false;
  full_ |= !room;
  return room;
}

std::vector<std::string> OnDemandKeys::start_stream() {
  streaming_ = true;
  full_ = false;
  std::erase_if(keys_, [](const auto& entry) { return entry.second.waiters.empty(); });
  std::vector<std::string> ask;
  ask.reserve(keys_.size());
  for (const auto& [key, state] : keys_) ask.push_back(key);
  return ask;
}

void OnDemandKeys::answered(std::string_view name) {
  const auto found = keys_.find(name);
  if (found == keys_.end()) return;
  found->second.answered = true;
  for (Waiter& waiter : std::exchange(found->second.waiters, {})) {
    released_.push_back(std::move(waiter.done));
    --waiting_;
  }
}

void OnDemandKeys::release() {
  for (const LookupDone& done : std::exchange(released_, {})) done(LookupAnswer::kAnswered);
}

std::optional<Clock::time_point> OnDemandKeys::next_deadline() const {
  return deadlines_.empty() ? std::nullopt : std::optional(deadlines_.front().first);
}

void OnDemandKeys::expire(Clock::time_point now) {
  std::vector<LookupDone> late;
  while (!deadlines_.empty() && deadlines_.front().first <= now) {
    const std::string key = std::move(deadlines_.front().second);
    deadlines_.pop_front();
    const auto found = keys_.find(key);
    if (found == keys_.end()) continue;
    std::vector<Waiter>& waiters = found->second.waiters;
    size_t count = 0;
    while (count < waiters.size() && waiters[count].deadline <= now) late.push_back(std::move(waiters[count++].done));
    waiters.erase(waiters.begin(), waiters.begin() + static_cast<ptrdiff_t>(count));
    waiting_ -= count;
    // The key stays: the answer to its subscription may still come, and another subscription would get none.
    if (waiters.empty() && !streaming_) keys_.erase(found);
  }
  timeouts_ += late.size();
  for (const LookupDone& done : late) done(LookupAnswer::kTimedOut);
}

void OnDemandKeys::refuse_all() {
  std::vector<LookupDone> rest = std::exchange(released_, {});
  for (auto& [key, state] : std::exchange(keys_, {}))
    for (Waiter& waiter : state.waiters) rest.push_back(std::move(waiter.done));
  deadlines_.clear();
  waiting_ = 0;
  refused_ += rest.size();
  for (const LookupDone& done : rest) done(LookupAnswer::kRefused);
}

}  // namespace zt::workload_api
