#include <algorithm>
#include <utility>

#include "agent/agent.h"
#include "base/log.h"
#include "mesh/reason.h"

// The agent's pods one by one, for a source that is no file.
namespace zt::agent {

namespace {
log::Scope log_agent("agent");
}  // namespace

Result<> Agent::serve() {
  take_first_steps();
  return server_.start();
}

void Agent::put_pod(PodSpec spec) {
  const auto known = pods_.find(spec.uid);
  Pod* const pod = known == pods_.end() ? nullptr : &known->second;
  auto netns = open_namespace(spec, [&](const Netns::Id& id) { return owner_beside(id, pod); });
  if (!netns) {
    put_waiting(std::move(spec), netns.error());
  } else if (pod == nullptr || pod->state != State::kEnrolled || !pod->has((*netns)->id()) || pod->spec.options != spec.options ||
             pod->wanted) {
    put(std::move(spec), std::move(*netns), {});
  }
  schedule();
}

Result<> Agent::leave_pod(const PodSpec& spec) {
  auto known = pods_.find(spec.uid);
  if (known == pods_.end()) {
    ZT_ASSIGN(auto netns, find(spec));
    if (netns->id() == own_netns_ || owner_beside(netns->id(), nullptr) != nullptr)
      return {};  // its rules are none, or another's
    Pod& pod = pods_[spec.uid];
    pod.spec = spec;
    pod.netns = std::move(netns);
    pod.state = State::kUnset;
    offer(pod);
    known = pods_.find(spec.uid);
  }
  begin_leave(known->second);
  schedule();
  return {};
}

void Agent::forget_pod(const std::string& uid) {
  server_.remove_pod(uid);
  pods_.erase(uid);
  former_.remove_if([&](const Pod& pod) { return pod.spec.uid == uid; });
  schedule();
}

Agent::Standing Agent::standing(std::string_view uid) const {
  const auto known = pods_.find(uid);
  if (known == pods_.end()) return Standing::kOut;
  const Pod& pod = known->second;
  switch (pod.state) {
    case State::kAbsent: return Standing::kWaiting;
    case State::kUnset: return pod.failures > kUnsetFrom ? Standing::kUnset : Standing::kWaiting;
    case State::kEnrolled:
    case State::kStopping: return pod.served ? Standing::kServed : Standing::kRedirected;
    case State::kLeaving:
    case State::kDropped: break;
  }
  return Standing::kLeaving;
}

std::string Agent::failure(std::string_view uid) const {
  const auto known = pods_.find(uid);
  return known == pods_.end() ? std::string() : known->second.last_error;
}

void Agent::changed(const std::string& uid) const {
  if (options_.on_change) options_.on_change(uid);
}

void Agent::answered(const std::string& uid, const std::string& error) {
  // Refusals are logged by the connection.
  if (!error.empty()) return;
  ZT_LOG(log_agent, kInfo, "the proxy serves the pod", Field::string("uid", uid));
  // The answer may be about the namespace that the pod had before.
  if (const auto known = pods_.find(uid); known != pods_.end() && server_.is_served(uid)) {
    Pod& pod = known->second;
    pod.served = pod.served || (pod.offered && pod.has(*pod.offered));
  }
  changed(uid);
}

}  // namespace zt::agent
