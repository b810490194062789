#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "agent/agent.h"
#include "base/backoff.h"
#include "base/log.h"
#include "mesh/reason.h"

// The steps of the agent's pods: enrolment, leaving, verification.
namespace zt::agent {

namespace {
log::Scope log_agent("agent");
}  // namespace

void Agent::schedule() {
  Clock::time_point next = kNever;
  for (const auto& [uid, pod] : pods_) next = std::min(next, pod.due);
  for (const auto& pod : former_) next = std::min(next, pod.due);
  if (next == kNever) return step_timer_.cancel();
  step_timer_.start(next, [this] { step_next(); });
}

void Agent::step_next() {
  Pod* due = nullptr;
  const auto consider = [&](Pod& pod) {
    if (due == nullptr || pod.due < due->due) due = &pod;
  };
  for (auto& [uid, pod] : pods_) consider(pod);
  for (auto& pod : former_) consider(pod);
  if (due != nullptr && due->due <= Clock::now()) step(*due);
  schedule();
  if (left_) finish_leaving();
}

void Agent::step(Pod& pod) {
  pod.due = kNever;
  if (pod.wanted && !pod.leaves() && look_for_namespace(pod)) return;  // begins anew
  switch (pod.state) {
    case State::kAbsent:
    case State::kEnrolled: return;
    case State::kUnset: return enroll(pod);
    case State::kStopping: return stop_capturing(pod);
    case State::kLeaving: return wait_for_carried(pod);
    case State::kDropped: return remove_rules(pod);
  }
}

// Of a pod that waits for it; puts the pod's next step off if there is none.
bool Agent::look_for_namespace(Pod& pod) {
  auto netns = open_namespace(*pod.wanted, [&](const Netns::Id& id) { return owner_beside(id, &pod); });
  if (netns) {
    ZT_LOG(log_agent, kInfo, "the pod's network namespace is there", Field::string("uid", pod.spec.uid),
           Field::string("netns", pod.wanted->netns_path));
    put(PodSpec(*pod.wanted), std::move(*netns), {});
    save_state();
    return true;
  }
  retry_later(pod, netns.error(), "use the entry of the pods file; its namespace is looked for again");
  return false;
}

// Another pod that has the namespace and does not leave.
const PodSpec* Agent::owner_beside(const Netns::Id& id, const Pod* except) const {
  const auto owner = std::find_if(pods_.begin(), pods_.end(), [&](const auto& other) {
    return other.second.has(id) && !other.second.leaves() && &other.second != except;
  });
  return owner == pods_.end() ? nullptr : &owner->second.spec;
}

void Agent::enroll(Pod& pod) {
  auto enrolled = redirector_.enroll(pod.target());
  if (enrolled) {
    pod.state = State::kEnrolled;
    pod.failures = 0;
    if (!pod.wanted) pod.last_error.clear();
    ZT_LOG(log_agent, kInfo, "pod enrolled", Field::string("uid", pod.spec.uid), Field::string("name", pod.spec.info.name),
           Field::string("namespace", pod.spec.info.ns), Field::string("netns", pod.spec.netns_path));
  } else {
    pod.state = State::kUnset;
    retry_later(pod, enrolled.error(), "redirect the pod");
  }
  offer(pod);
  changed(pod.spec.uid);
}

void Agent::stop_capturing(Pod& pod) {
  // Until it captures no more the proxies must go on serving it: its new connections would find nobody.
  if (auto stopped = redirector_.stop_capturing(pod.target()); !stopped) {
    return retry_later(pod, stopped.error(), "stop capturing");
  }
  pod.state = State::kLeaving;
  pod.failures = 0;
  pod.last_error.clear();
  pod.leave_from = Clock::now() + options_.least_leave;
  pod.leave_by = Clock::now() + std::max(options_.leave_limit, options_.least_leave);
  pod.due = Clock::now();
  changed(pod.spec.uid);
}

void Agent::wait_for_carried(Pod& pod) {
  const auto carried = redirector_.carried_connections(pod.target());
  if (!carried) note_failure(pod, carried.error(), "count the connections of the leaving pod");
  const bool early = Clock::now() < pod.leave_from;
  if (early || ((!carried || *carried > 0) && Clock::now() < pod.leave_by)) {
    pod.due = Clock::now() + kLeavePoll;
    return;
  }
  if (carried && *carried > 0) {
    ZT_LOG(log_agent, kWarn, "connections of a leaving pod are cut", Field::string("uid", pod.spec.uid),
           Field::count("connections", static_cast<int64_t>(*carried)));
  }
  drop(pod);
}

// The proxies let go first: it is they who end what is still open, with a reset and not in silence.
void Agent::drop(Pod& pod) {
  server_.remove_pod(pod.spec.uid);
  if (pod.netns) {
    former_.push_back({.spec = pod.spec, .netns = pod.netns, .state = State::kDropped, .due = Clock::now() + kLeavePoll});
  }
  if (!pod.wanted) {
    const std::string uid = pod.spec.uid;
    pods_.erase(pods_.find(uid));
    return changed(uid);
  }
  PodSpec spec = std::move(*pod.wanted);
  pod = {.spec = spec, .netns = nullptr, .wanted = spec, .due = Clock::now()};
  offer(pod);
}

void Agent::remove_rules(Pod& pod) {
  const auto at = std::find_if(former_.begin(), former_.end(), [&](const Pod& other) { return &other == &pod; });
  if (auto left = redirector_.unenroll(pod.target()); !left) {
    ++failed_removals_;
    return retry_later(pod, left.error(), "remove the pod's redirection; it is tried again");
  }
  ZT_LOG(log_agent, kInfo, "pod left", Field::string("uid", pod.spec.uid));
  former_.erase(at);
  save_state();
}

void Agent::leave_all(std::function<void()> done) {
  left_ = std::move(done);
  verify_timer_.cancel();
  verify_step_.cancel();
  for (auto it = pods_.begin(); it != pods_.end();) {
    Pod& pod = (it++)->second;  // which may erase itself
    begin_leave(pod);
  }
  leave_limit_.start_after(options_.leave_limit + kLeaveMargin, [this] {
    for (const auto& [uid, why] : failures()) {
      ZT_LOG(log_agent, kError, "ending: the pod stays redirected", Field::string("uid", uid), Field::string("error", why));
    }
    step_timer_.cancel();
    std::exchange(left_, [] {})();
  });
  schedule();
  finish_leaving();
}

void Agent::finish_leaving() {
  if (!pods_.empty() || !former_.empty()) return;
  leave_limit_.cancel();
  std::exchange(left_, [] {})();
}

void Agent::verify_all() {
  reload();  // where the watch saw nothing: links to other directories, network file systems
  to_verify_.clear();
  for (const auto& [uid, pod] : pods_) to_verify_.push_back(uid);
  verify_timer_.start_after(options_.verify_interval, [this] { verify_all(); });
  verify_next();
}

// One pod a turn: proxies wait for no more than that.
void Agent::verify_next() {
  if (to_verify_.empty()) return;
  const std::string uid = std::move(to_verify_.back());
  to_verify_.pop_back();
  if (const auto it = pods_.find(uid); it != pods_.end() && it->second.state == State::kEnrolled) verify(it->second);
  verify_step_.start_after(std::chrono::milliseconds(0), [this] { verify_next(); });
}

void Agent::verify(Pod& pod) {
  const bool found = follow_path(pod);
  if (pod.state != State::kEnrolled) return schedule();
  auto deviations = redirector_.verify(pod.target());
  if (!deviations) return note_failure(pod, deviations.error(), "verify the pod");
  if (deviations->empty()) {
    if (found && !pod.wanted) pod.last_error.clear();
    return;
  }
  for (const auto& deviation : *deviations) {
    ZT_LOG(log_agent, kWarn, "the pod's redirection was changed", Field::string("uid", pod.spec.uid),
           Field::string("what", deviation));
  }
  enroll(pod);
  schedule();
  if (pod.state != State::kEnrolled) return;
  ++repairs_;
  deviations = redirector_.verify(pod.target());
  if (deviations && deviations->empty()) {
    ZT_LOG(log_agent, kInfo, "the pod's redirection is repaired", Field::string("uid", pod.spec.uid));
  } else {
    note_failure(pod, deviations ? Error{Reason::kInternal, deviations->front()} : deviations.error(), "repair the pod");
  }
}

bool Agent::follow_path(Pod& pod) {
  if (pod.wanted) return false;  // the file has another one for it, which is looked for
  auto now = find(pod.spec);
  if (!now) {
    note_failure(pod, now.error(), "find the pod's network namespace again; is the pod gone?");
    return false;
  }
  const Netns::Id id = (*now)->id();
  if (pod.has(id)) return true;
  const bool taken = std::any_of(pods_.begin(), pods_.end(), [&](const auto& other) { return other.second.has(id); });
  if (id == own_netns_ || taken) {
    const std::string whose = taken ? "another pod's" : "the agent's own";
    note_failure(pod, {Reason::kInvalidInput, fmt::format("{} leads to {} network namespace", pod.spec.netns_path, whose)},
                 "follow the pod to its new namespace");
    return false;
  }
  ZT_LOG(log_agent, kInfo, "the pod was made anew", Field::string("uid", pod.spec.uid),
         Field::string("netns", pod.spec.netns_path));
  put(pod.spec, std::move(*now), {});
  return true;
}

void Agent::retry_later(Pod& pod, const Error& error, std::string_view doing) {
  note_failure(pod, error, doing);
  pod.due = Clock::now() + Backoff::doubled(kFirstRetry, ++pod.failures, kMostRetry);
}

void Agent::note_failure(Pod& pod, const Error& error, std::string_view doing) {
  changed(pod.spec.uid);
  if (std::exchange(pod.last_error, error.text) == error.text) return;
  ZT_LOG(log_agent, kError, fmt::format("cannot {}", doing), Field::string("uid", pod.spec.uid),
         Field::string("error", error.text));
}

}  // namespace zt::agent
