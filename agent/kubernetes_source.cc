#include "agent/kubernetes_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/backoff.h"
#include "base/log.h"
#include "mesh/reason.h"

namespace zt::agent {

namespace {

using kubernetes::ListWatch;
using kubernetes::Object;

log::Scope log_source("kubernetes");

constexpr unsigned kOk = 200, kNotFound = 404;

// Whether the pod that kubelet calls so is this one. It calls a static pod by the hash of its file, and the API's mirror of it bears that.
bool is_of(const std::string& uid, const Object& object) {
  if (uid.empty() || uid == object.uid) return true;
  const auto mirror = object.annotations.find(kMirrorAnnotation);
  return mirror != object.annotations.end() && mirror->second == uid;
}

ListWatch::Options watch_of(ListWatch::Options options, std::string path, std::string selector) {
  options.path = std::move(path);
  options.field_selector = std::move(selector);
  return options;
}

}  // namespace

KubernetesSource::KubernetesSource(EventLoop& loop, kubernetes::Api& api, Agent& agent, PodNamespaces& namespaces,
                                   Options options)
    : loop_(loop),
      api_(api),
      agent_(agent),
      namespaces_(namespaces),
      options_(std::move(options)),
      pods_(loop, api, watch_of(options_.watch, "/api/v1/pods", "spec.nodeName=" + options_.node), [this] { reconcile(); }),
      spaces_(loop, api, watch_of(options_.watch, "/api/v1/namespaces", ""), [this] { reconcile(); }),
      timer_(loop) {}

KubernetesSource::~KubernetesSource() { *alive_ = false; }

KubernetesSource::Counts KubernetesSource::counts() const {
  Counts counts = counts_;
  counts.api_failures = pods_.counts().failures + spaces_.counts().failures;
  return counts;
}

void KubernetesSource::start(std::function<void(const Result<>&)> on_serving) {
  on_serving_ = std::move(on_serving);
  spaces_.start();
  pods_.start();
}

// What the API says now against what was done: so it does not matter which events there were in between, or in what order.
void KubernetesSource::reconcile() {
  if (!pods_.synced() || !spaces_.synced()) return;
  for (auto& [uid, pod] : known_) pod.listed = false;
  uint64_t ignored = 0;
  for (const auto& [key, object] : pods_.objects()) {
    if (!object.node.empty() && object.node != options_.node) continue;
    const auto [known, is_new] = known_.try_emplace(object.uid);
    Pod& pod = known->second;
    // A patch of ours may be newer than what the list shows: who is right is seen with the next version.
    const bool news = pod.object.version != object.version;
    ++(is_new ? counts_.added : news ? counts_.changed : ignored);
    pod.object = object;
    pod.listed = true;
    if (news) {
      const auto status = object.annotations.find(kStatusAnnotation);
      pod.annotation = status == object.annotations.end() ? std::string() : status->second;
    }
  }
  for (auto it = known_.begin(); it != known_.end();) {
    Pod& pod = it->second;
    if (pod.listed) {
      ++it;
      continue;
    }
    if (pod.wish && *pod.wish != Wish::kGone) {
      ZT_LOG(log_source, kInfo, "pod is gone", Field::string("uid", it->first), Field::string("name", pod.object.key()));
    }
    ++counts_.gone;
    agent_.forget_pod(it->first);
    namespaces_.forget(it->first);
    if (pod.patch) --patches_;
    it = known_.erase(it);
  }
  unsettled_ = false;
  // All of them first: one look through the node's processes then serves all.
  for (auto& [uid, pod] : known_) {
    if (pod.listed && wish_of(pod.object).wish == Wish::kIn && !addresses_of(pod).empty())
      namespaces_.want({uid, addresses_of(pod)});
  }
  for (auto& [uid, pod] : known_) {
    if (pod.listed) settle(pod);
  }
  tell_probed();
  settle_at_ = Clock::now() + kSettleAgain;
  if (!std::exchange(serving_, true)) {
    const auto served = agent_.serve();
    if (served)
      ZT_LOG(log_source, kInfo, "serving the pods of the node", Field::count("pods", static_cast<int64_t>(known_.size())));
    on_serving_(served);
  }
  for (auto& [uid, pod] : known_) annotate(pod);
  try_all_cni();
}

// Also those whose rules cannot be set: what is missing of them does not make their probes wrong.
void KubernetesSource::tell_probed() const {
  if (!options_.on_probed) return;
  redirection::ProbedPods probed;
  for (const auto& [uid, pod] : known_) {
    const auto standing = agent_.standing(uid);
    if (pod.wish != Wish::kIn && standing != Agent::Standing::kLeaving) continue;
    for (const auto& ip : addresses_of(pod)) {
      if (const auto address = IpAddress::parse(ip)) probed.insert_or_assign(*address, uid);
    }
  }
  options_.on_probed(std::move(probed));
}

void KubernetesSource::say(Pod& pod, const Verdict& verdict) {
  const bool same = pod.wish == verdict.wish && pod.why == verdict.why;
  const bool first_out = !pod.wish && verdict.wish == Wish::kOut;
  pod.why = verdict.why;
  if (same || first_out) return;
  const auto what = [&]() -> std::string_view {
    switch (verdict.wish) {
      case Wish::kIn: return "pod is to be in the mesh";
      case Wish::kOut: return "pod is not to be in the mesh";
      case Wish::kGone: return "pod has ended";
      case Wish::kLeaveAlone: break;
    }
    return "pod stays as it is";
  }();
  ZT_LOG(log_source, kInfo, what, Field::string("uid", pod.object.uid), Field::string("name", pod.object.key()),
         Field::string("reason", pod.why));
}

Verdict KubernetesSource::wish_of(const Object& object) const {
  const auto space = spaces_.objects().find(object.ns);
  return judge(object, space == spaces_.objects().end() ? nullptr : &space->second, options_.rules);
}

void KubernetesSource::settle(Pod& pod) {
  const Verdict verdict = wish_of(pod.object);
  say(pod, verdict);
  const std::string& uid = pod.object.uid;
  switch (verdict.wish) {
    case Wish::kLeaveAlone: return;
    case Wish::kGone:
      if (pod.wish != Wish::kGone) {
        agent_.forget_pod(uid);
        namespaces_.forget(uid);
      }
      break;
    case Wish::kIn: pod.wish = Wish::kIn; return enrol(pod);
    case Wish::kOut: {
      // An annotation of an earlier agent says that there are rules to be taken away.
      // One on the host's network can never have had any, whatever its annotation says.
      // One that was wanted and never had a sandbox has nothing to leave.
      const bool was_in = (pod.wish == Wish::kIn && pod.options) || (!pod.wish && !pod.annotation.empty());
      if (!was_in || pod.object.host_network) break;
      namespaces_.want({uid, pod.object.ips});
      const PodSpec spec{uid,
                         {pod.object.name, pod.object.ns, pod.object.service_account},
                         namespaces_.path(uid),
                         options_.defaults,
                         pod.object.key()};
      if (auto left = agent_.leave_pod(spec); !left) {
        // Its rules may be there, and nobody would serve it: it is looked for until it is found, or gone.
        unsettled_ = true;
        if (std::exchange(pod.leave_error, left.error().text) != left.error().text) {
          ZT_LOG(log_source, kWarn, "cannot find the namespace of a pod that was in the mesh, it is looked for again",
                 Field::string("uid", uid), Field::string("name", pod.object.key()), Field::string("error", left.error().text));
        }
        return;
      }
      pod.leave_error.clear();
      pod.options.reset();
      break;
    }
  }
  pod.wish = verdict.wish;
}

const std::vector<std::string>& KubernetesSource::addresses_of(const Pod& pod) {
  return pod.object.ips.empty() ? pod.cni_ips : pod.object.ips;
}

void KubernetesSource::enrol(Pod& pod, bool has_sandbox) {
  const auto& ips = addresses_of(pod);
  // Its sandbox is not there yet; unless an earlier agent had it: proxies that serve it are then told to keep it.
  if (ips.empty() && pod.annotation.empty() && !has_sandbox && !pod.options) return;
  Overrides overrides = overrides_of(pod.object, options_.defaults);
  if (std::exchange(pod.warnings, overrides.warnings) != overrides.warnings) {
    for (const auto& warning : overrides.warnings) {
      ZT_LOG(log_source, kWarn, "an annotation is passed over", Field::string("name", pod.object.key()),
             Field::string("error", warning));
    }
  }
  const std::string& uid = pod.object.uid;
  const bool moved = std::exchange(pod.ips, ips) != ips;
  namespaces_.want({uid, ips});
  const auto standing = agent_.standing(uid);
  const bool holds = standing == Agent::Standing::kRedirected || standing == Agent::Standing::kServed;
  // A step that waits for its time is the agent's to take, unless it may succeed now.
  const bool waits = (standing == Agent::Standing::kWaiting || standing == Agent::Standing::kUnset) && !moved;
  if (pod.options == overrides.options && (holds || waits)) return;
  pod.options = overrides.options;
  agent_.put_pod({uid,
                  {pod.object.name, pod.object.ns, pod.object.service_account},
                  namespaces_.path(uid),
                  overrides.options,
                  pod.object.key()});
}

// From within the agent's step: what is to be done is done in a turn of its own.
void KubernetesSource::on_pod_changed(const std::string& uid) {
  if (!changed_.insert(uid).second || changed_.size() > 1) return;
  loop_.post([this, alive = std::weak_ptr(alive_)] {
    if (alive.expired()) return;
    for (const auto& changed : std::exchange(changed_, {})) {
      if (const auto pod = known_.find(changed); pod != known_.end()) annotate(pod->second);
    }
    tell_probed();
    try_all_cni();
  });
}

// What the annotation should be; nothing: as it is.
std::optional<std::string> KubernetesSource::annotation_of(const Pod& pod) const {
  if (!serving_ || !pod.wish) return std::nullopt;
  const auto standing = agent_.standing(pod.object.uid);
  switch (*pod.wish) {
    case Wish::kLeaveAlone: return std::nullopt;
    case Wish::kGone: return "";
    case Wish::kOut:
      if (standing == Agent::Standing::kOut || standing == Agent::Standing::kLeaving) return "";
      return std::nullopt;
    case Wish::kIn: break;
  }
  // Who calls it enabled would have others come by a tunnel that it cannot answer through.
  if (standing == Agent::Standing::kUnset && pod.annotation == kStatusEnabled) return std::string(kStatusPending);
  if (standing == Agent::Standing::kServed) return std::string(kStatusEnabled);
  // A pod that an earlier agent had enrolled is served, though no proxy has said so to us yet.
  if (standing == Agent::Standing::kRedirected && pod.annotation != kStatusEnabled) return std::string(kStatusPending);
  return std::nullopt;
}

void KubernetesSource::annotate(Pod& pod) {
  const auto wanted = annotation_of(pod);
  if (!wanted || *wanted == pod.annotation) {
    pod.patch_failures = 0;  // nothing is left to be tried again
    return;
  }
  if (pod.patch || !pod.listed) return;
  if (Clock::now() < pod.patch_due || patches_ >= kMostPatches) return;
  send_patch(pod, *wanted);
}

void KubernetesSource::send_patch(Pod& pod, const std::string& wanted) {
  const std::string uid = pod.object.uid;
  pod.patching = wanted;
  pod.patch_status = 0;
  pod.patch_answer.clear();
  ++patches_;
  const auto of = [this, uid]() -> Pod* {
    const auto found = known_.find(uid);
    return found == known_.end() ? nullptr : &found->second;
  };
  pod.patch = api_.start(
      {.method = "PATCH",
       .target = fmt::format("/api/v1/namespaces/{}/pods/{}/status", pod.object.ns, pod.object.name),
       .content_type = "application/merge-patch+json",
       .body = kubernetes::annotation_patch(uid, kStatusAnnotation, wanted.empty() ? std::nullopt : std::optional(wanted))},
      {.on_head =
           [of](const kubernetes::ApiHead& head) {
             if (Pod* const patched_pod = of()) patched_pod->patch_status = head.status;
           },
       .on_data =
           [of](const std::string& data) {
             if (Pod* const patched_pod = of(); patched_pod != nullptr && patched_pod->patch_answer.size() < 4096)
               patched_pod->patch_answer += data;
           },
       .on_end = [this, uid](const Result<>& end) { patched(uid, end); }});
}

void KubernetesSource::patched(const std::string& uid, const Result<>& end) {
  const auto found = known_.find(uid);
  if (found == known_.end()) return;
  Pod& pod = found->second;
  pod.patch.reset();
  --patches_;
  // With a conflict or another uid the pod is not what it was. What it is now may have come by the watch already: it is tried again,
  // until the watch says that the pod is gone.
  const bool over = pod.patch_status == kOk || pod.patch_status == kNotFound;
  if (over) {
    if (pod.patch_status == kOk) {
      ZT_LOG(log_source, kInfo, "pod annotated", Field::string("uid", uid), Field::string("name", pod.object.key()),
             Field::string("status", pod.patching.empty() ? "none" : pod.patching));
    }
    pod.annotation = pod.patching;
    pod.patch_failures = 0;
    pod.patch_error.clear();
  } else {
    ++counts_.patch_failures;
    pod.patch_due = Clock::now() + Backoff::doubled(kFirstRetry, ++pod.patch_failures, kMostRetry);
    const auto status = kubernetes::parse_status(pod.patch_answer);
    const std::string why = pod.patch_status == 0 ? (end ? std::string("no answer") : end.error().text)
                                                  : fmt::format("{} {}: {}", pod.patch_status, status.reason, status.message);
    if (std::exchange(pod.patch_error, why) != why) {
      ZT_LOG(log_source, kError, "cannot annotate the pod, it is tried again", Field::string("name", pod.object.key()),
             Field::string("error", why));
    }
  }
  for (auto& [other, next] : known_) annotate(next);  // who waits for its turn
  schedule();
}

void KubernetesSource::schedule() {
  auto next = Clock::time_point::max();
  for (const auto& [uid, pod] : known_) {
    // Where as many are under way as may be, the end of one calls for the next.
    if (pod.patch_failures > 0 && !pod.patch && pod.listed && patches_ < kMostPatches) next = std::min(next, pod.patch_due);
  }
  for (const auto& waiting : waiting_) {
    next = std::min(next, waiting.until);
  }
  if (unsettled_) next = std::min(next, settle_at_);
  if (next == Clock::time_point::max()) return timer_.cancel();
  timer_.start(std::max(next, Clock::now() + std::chrono::milliseconds(1)), [this] { on_timer(); });
}

void KubernetesSource::on_timer() {
  if (unsettled_ && Clock::now() >= settle_at_) return reconcile();
  for (auto& [uid, pod] : known_) annotate(pod);
  try_all_cni();
}

void KubernetesSource::cni_add(CniAdd add, CniDone done) {
  waiting_.push_back({.add = std::move(add), .done = std::move(done), .until = Clock::now() + options_.cni_limit});
  try_all_cni();
}

void KubernetesSource::try_all_cni() {
  for (auto& waiting : waiting_) try_cni(waiting);
  std::erase_if(waiting_, [](const Waiting& waiting) { return waiting.done == nullptr; });
  schedule();
}

const Object* KubernetesSource::object_of(const Waiting& waiting) const {
  if (!pods_.synced() || !spaces_.synced()) return nullptr;
  const auto found = pods_.objects().find(waiting.add.ns + "/" + waiting.add.name);
  return found == pods_.objects().end() ? nullptr : &found->second;
}

// One step of a call of the plugin; `done` is null once it has been answered.
void KubernetesSource::try_cni(Waiting& waiting) {
  if (waiting.done == nullptr) return;
  const auto answer = [&](const Result<>& result) { std::exchange(waiting.done, nullptr)(result); };
  if (Clock::now() >= waiting.until) {
    const std::string failure = waiting.uid.empty() ? std::string() : agent_.failure(waiting.uid);
    return answer(fail(Reason::kIo, fmt::format("pod {}/{} is not in the mesh yet: {}", waiting.add.ns, waiting.add.name,
                                                failure.empty() ? waiting.why : failure)));
  }
  if (!serving_) {
    waiting.why = pods_.last_error().empty() && spaces_.last_error().empty() ? "the agent has just started"
                                                                             : pods_.last_error() + spaces_.last_error();
    return;
  }
  if (waiting.uid.empty()) {
    const Object* const object = object_of(waiting);
    if (object == nullptr) return;  // the watch lags behind the kubelet, which has its own
    const Verdict verdict = wish_of(*object);
    if (verdict.wish == Wish::kLeaveAlone) {
      waiting.why = verdict.why;
      return;
    }
    // A pod that has ended or is going has no new sandbox: this is for the next one of its name, which the API does not show yet.
    if (verdict.wish == Wish::kGone || object->deleting || !is_of(waiting.add.uid, *object)) {
      waiting.why = "the API shows the pod of this name before";
      return;
    }
    if (verdict.wish != Wish::kIn) return answer({});
    if (auto told = namespaces_.told(object->uid, waiting.add.netns); !told) return answer(told);
    waiting.uid = object->uid;
    Pod& pod = known_[object->uid];
    pod.object = *object;
    pod.cni_ips = waiting.add.ips;
    pod.wish = Wish::kIn;
    pod.listed = true;
    pod.options.reset();  // a new sandbox has no rules, whatever the last one had
    enrol(pod, true);
    tell_probed();
    waiting.why = "no proxy has taken it";
  }
  if (agent_.standing(waiting.uid) != Agent::Standing::kServed || !agent_.is_served(waiting.uid)) {
    waiting.why = agent_.proxies() == 0 ? "no proxy is connected" : "no proxy has taken it";
    return;
  }
  answer({});
}

}  // namespace zt::agent
