#include "zds/zds_session.h"

#include <fmt/core.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/log.h"

namespace zt::zds {

namespace {
log::Scope log_state("inpod::statemanager");
}  // namespace

ZdsSession::ZdsSession(PodManager& pods, ZdsChannel& channel, std::function<void(bool)> on_ready)
    : pods_manager_(pods), channel_(channel), on_ready_(std::move(on_ready)), self_(std::make_shared<ZdsSession*>(this)) {}

void ZdsSession::connected() {
  disconnected();
  connected_ = true;
}

// Pods that are pending stay so, where istio/ztunnel forgets them: they go on being retried while the agent
// is away, and the next snapshot removes those it does not name.
void ZdsSession::disconnected() {
  connected_ = false;
  snapshot_.clear();
  snapshot_received_ = false;
  waiting_.reset();
  update_ready();
}

void ZdsSession::request(const WorkloadRequest& request, UniqueFd fd, Time now) {
  now_ = now;
  if (auto rule = check_fd_rule(request, static_cast<bool>(fd)); !rule) return bad_packet(rule.error().text);
  if (const auto* add = std::get_if<AddWorkload>(&request)) return on_add(*add, std::move(fd));
  if (const auto* keep = std::get_if<KeepWorkload>(&request)) return on_keep(*keep);
  if (const auto* del = std::get_if<DelWorkload>(&request)) return on_del(*del);
  on_snapshot_sent();
}

void ZdsSession::bad_packet(const std::string& why) { refuse_and_drop(why); }

void ZdsSession::on_add(const AddWorkload& add, UniqueFd fd) {
  if (!add.info) return refuse_and_drop(fmt::format("add of {} without workload_info", add.uid));
  if (add.uid.empty()) return refuse_and_drop("add without uid");
  if (!remember(add.uid)) return answer(fmt::format("failure to start proxy : more than {} pods", kMaxPods));

  auto netns = Netns::from_fd(std::move(fd));
  if (!netns) return answer(fmt::format("failure to start proxy : descriptor is {}", netns.error().text));

  if (auto it = pods_.find(add.uid); it != pods_.end()) {
    if (it->second.netns->id() == netns->id()) return on_repeated_add(add.uid, it->second);
    ZT_LOG(log_state, kInfo, "pod has a new network namespace, replacing its proxy", Field::string("uid", add.uid));
    remove(add.uid);
  }
  // A namespace belongs to one pod. What the agent says last is true: the earlier owner's removal was lost.
  const auto owner =
      std::find_if(pods_.begin(), pods_.end(), [&](const auto& pod) { return pod.second.netns->id() == netns->id(); });
  if (owner != pods_.end()) {
    ZT_LOG(log_state, kWarn, "network namespace was another pod's, stopping that one", Field::string("uid", add.uid),
           Field::string("previous_uid", owner->first));
    remove(std::string(owner->first));
  }
  if (pods_.size() >= kMaxPods) {
    return answer(fmt::format("failure to start proxy : more than {} pods", kMaxPods));
  }
  ZT_LOG(log_state, kInfo, "pod received, starting proxy", Field::string("uid", add.uid), Field::string("name", add.info->name),
         Field::string("namespace", add.info->ns));
  Pod& pod = pods_[add.uid];
  pod.info = *add.info;
  pod.netns = std::make_shared<const Netns>(std::move(*netns));
  start_and_answer(add.uid);
}

void ZdsSession::on_repeated_add(const std::string& uid, const Pod& pod) {
  switch (pod.state) {
    case PodState::kUp: return answer({});
    case PodState::kStarting: waiting_ = Waiting{uid, now_ + kStartLimit}; return channel_.rearm();
    case PodState::kPending: return start_and_answer(uid);
  }
}

void ZdsSession::on_keep(const KeepWorkload& keep) {
  if (snapshot_received_) return refuse_and_drop(fmt::format("keep of {} after the snapshot", keep.uid));
  ZT_LOG(log_state, kInfo, "pod keep received. will not delete it when snapshot is sent", Field::string("uid", keep.uid));
  // The agent sends it for every pod whose namespace it cannot find: it need not be known here.
  answer(remember(keep.uid) ? std::string() : fmt::format("more than {} pods", kMaxPods));
}

// Notes the uid for the snapshot's end; false if that would be too many.
bool ZdsSession::remember(const std::string& uid) {
  if (snapshot_received_ || snapshot_.contains(uid)) return true;
  if (snapshot_.size() >= kMaxPods) return false;
  snapshot_.insert(uid);
  return true;
}

void ZdsSession::on_del(const DelWorkload& del) {
  ZT_LOG(log_state, kInfo, "pod delete request, shutting down proxy", Field::string("uid", del.uid));
  snapshot_.erase(del.uid);
  remove(del.uid);
  answer({});
  update_ready();
}

void ZdsSession::on_snapshot_sent() {
  if (snapshot_received_) return refuse_and_drop("second snapshot_sent on one connection");
  ZT_LOG(log_state, kInfo, "received snapshot sent");
  std::vector<std::string> gone;
  for (const auto& [uid, pod] : pods_) {
    if (!snapshot_.contains(uid)) gone.push_back(uid);
  }
  for (const auto& uid : gone) {
    ZT_LOG(log_state, kInfo, "pod is not in the snapshot, shutting down proxy", Field::string("uid", uid));
    remove(uid);
  }
  snapshot_.clear();
  snapshot_received_ = true;
  answer({});
  update_ready();
}

void ZdsSession::start_and_answer(const std::string& uid) {
  waiting_ = Waiting{uid, now_ + kStartLimit};
  start(uid);
  channel_.rearm();
}

void ZdsSession::start(const std::string& uid) {
  Pod& pod = pods_.find(uid)->second;
  pod.state = PodState::kStarting;
  pod.attempt = ++attempts_;
  pod.retry_at = now_ + kRetryInterval;
  pods_manager_.start(uid, pod.info, pod.netns, [self = std::weak_ptr(self_), uid, attempt = pod.attempt](Result<> result) {
    if (const auto session = self.lock()) {
      (*session)->started(uid, attempt, std::move(result));
    }
  });
}

void ZdsSession::started(const std::string& uid, uint64_t attempt, Result<> result) {
  const auto it = pods_.find(uid);
  if (it == pods_.end() || it->second.attempt != attempt || it->second.state != PodState::kStarting) return;
  Pod& pod = it->second;
  if (result) {
    pod.state = PodState::kUp;
    pod.error.clear();
  } else {
    ++failed_starts_;
    pod.state = PodState::kPending;
    pod.error = std::move(result.error().text);
    ZT_LOG(log_state, kWarn, "failed to start proxy, will retry", Field::string("uid", uid), Field::string("error", pod.error));
  }
  const bool awaited = waiting_ && waiting_->uid == uid;
  if (awaited) answer(pod.error.empty() ? std::string() : "failure to start proxy : " + pod.error);
  update_ready();
  channel_.rearm();
}

void ZdsSession::remove(const std::string& uid) {
  // A pod that is pending is known to the manager no more than one that never came (start() left nothing
  // behind).
  const auto it = pods_.find(uid);
  if (it == pods_.end()) return;
  const bool known = it->second.state != PodState::kPending;
  pods_.erase(it);
  if (known) pods_manager_.stop(uid);
}

std::optional<ZdsSession::Time> ZdsSession::next_tick() const {
  std::optional<Time> next;
  const auto consider = [&](Time time) { next = next ? std::min(*next, time) : time; };
  if (waiting_) consider(waiting_->deadline);
  for (const auto& [uid, pod] : pods_) {
    if (pod.state == PodState::kPending) consider(pod.retry_at);
  }
  return next;
}

void ZdsSession::tick(Time now) {
  now_ = now;
  if (waiting_ && waiting_->deadline <= now) {
    // The start goes on. If it still succeeds, the agent's next add of the pod finds it up.
    answer(fmt::format("failure to start proxy : not started within {} ms, still trying", kStartLimit.count()));
  }
  std::vector<std::string> due;
  for (const auto& [uid, pod] : pods_) {
    if (pod.state == PodState::kPending && pod.retry_at <= now) due.push_back(uid);
  }
  for (const auto& uid : due) start(uid);
  channel_.rearm();
}

void ZdsSession::refuse_and_drop(const std::string& why) {
  ZT_LOG(log_state, kError, "the node agent broke the protocol", Field::string("error", why));
  answer(why);
  channel_.drop(why);
}

void ZdsSession::answer(std::string error) {
  waiting_.reset();
  channel_.answer(std::move(error));
}

void ZdsSession::update_ready() {
  const bool settled = std::all_of(pods_.begin(), pods_.end(), [](const auto& pod) { return pod.second.state == PodState::kUp; });
  const bool ready = connected_ && snapshot_received_ && (ready_ || settled);
  if (std::exchange(ready_, ready) != ready && on_ready_) on_ready_(ready);
}

std::vector<PodStatus> ZdsSession::pods() const {
  std::vector<PodStatus> out;
  out.reserve(pods_.size());
  for (const auto& [uid, pod] : pods_) out.push_back({uid, pod.info, pod.state, pod.error});
  return out;
}

}  // namespace zt::zds
