#include "workload_api/xds/on_demand.h"

#include <utility>

namespace zt::workload_api {

bool OnDemandKeys::has_room(const std::string& asker) const {
  const auto known = askers_.find(asker);
  const size_t mine = known == askers_.end() ? 0 : known->second;
  return mine < kLookupsAlways || (mine < per_asker_ && waiters_.size() < kMaxLookupsWaiting);
}

bool OnDemandKeys::look_up(const std::string& key, const std::string& asker, Clock::time_point now, LookupDone done) {
  ++lookups_;
  const auto found = keys_.find(key);
  if (found != keys_.end() && found->second.answered) {
    done(LookupAnswer::kAnswered);
    return false;
  }
  if (!has_room(asker)) {
    ++refused_;
    done(LookupAnswer::kRefused);
    return false;
  }
  const bool room = keys_.size() < kMaxKeysPerStream;
  const bool known = found != keys_.end();
  auto& [text, state] = *keys_.try_emplace(key).first;
  auto& whose = *askers_.try_emplace(asker, 0).first;
  ++whose.second;
  Waiter& waiter = waiters_.emplace_back(now + kLookupLimit, text, whose, std::move(done));
  waiter.place = std::prev(waiters_.end());
  state.waiters.push_back(waiter);
  if (known || !streaming_) return false;
  full_ |= !room;
  return room;
}

LookupDone OnDemandKeys::take(Waiter& waiter) {
  LookupDone done = std::move(waiter.done);
  if (--waiter.asker.second == 0) askers_.erase(askers_.find(waiter.asker.first));
  waiters_.erase(waiter.place);
  return done;
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
  while (!found->second.waiters.empty()) released_.push_back(take(found->second.waiters.front()));
}

void OnDemandKeys::release() {
  for (const LookupDone& done : std::exchange(released_, {})) done(LookupAnswer::kAnswered);
}

std::optional<Clock::time_point> OnDemandKeys::next_deadline() const {
  return waiters_.empty() ? std::nullopt : std::optional(waiters_.front().deadline);
}

void OnDemandKeys::expire(Clock::time_point now) {
  std::vector<LookupDone> late;
  while (!waiters_.empty() && waiters_.front().deadline <= now) {
    const auto key = keys_.find(waiters_.front().key);
    late.push_back(take(waiters_.front()));
    // The key stays: the answer to its subscription may still come, and another subscription would get none.
    if (key->second.waiters.empty() && !streaming_) keys_.erase(key);
  }
  timeouts_ += late.size();
  for (const LookupDone& done : late) done(LookupAnswer::kTimedOut);
}

void OnDemandKeys::refuse_all() {
  std::vector<LookupDone> rest = std::exchange(released_, {});
  while (!waiters_.empty()) rest.push_back(take(waiters_.front()));
  keys_.clear();
  refused_ += rest.size();
  for (const LookupDone& done : rest) done(LookupAnswer::kRefused);
}

}  // namespace zt::workload_api
