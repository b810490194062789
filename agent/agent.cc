#include "agent/agent.h"

#include <fmt/core.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "mesh/reason.h"

namespace zt::agent {

namespace {
log::Scope log_agent("agent");
}  // namespace

Agent::Agent(EventLoop& loop, redirection::Redirector& redirector, Options options)
    : redirector_(redirector),
      options_(std::move(options)),
      server_(loop, {.path = options_.zds_path,
                     .on_answer = [this](const std::string& uid, const std::string& error) { answered(uid, error); },
                     .on_proxies =
                         [this](size_t proxies) {
                           if (proxies == 0 && !pods_.empty()) {
                             ZT_LOG(log_agent, kWarn, "no proxy is connected: enrolled pods have no TCP",
                                    Field::count("pods", static_cast<int64_t>(pods_.size())));
                           }
                         }}),
      watch_(loop, options_.pods_file, [this] { reload(); }),
      step_timer_(loop),
      verify_timer_(loop),
      verify_step_(loop),
      leave_limit_(loop) {
  if (options_.state_file.empty()) options_.state_file = options_.zds_path + ".pods";
}

Result<> Agent::start() {
  ZT_ASSIGN(const Netns own, Netns::current());
  own_netns_ = own.id();
  if (options_.pods_file.empty()) return redirector_.probe();
  // First everything that can fail as a whole, so that a mistake touches no pod. The watch comes before the reading: an edit in
  // between is seen.
  const auto watched = watch_.start();
  ZT_ASSIGN(std::string text, read_pods_file(options_.pods_file));
  ZT_TRY(watched);
  ZT_ASSIGN(PodsFile file, parse_pods(text, options_.pods_file, options_.defaults));
  ZT_TRY(redirector_.probe());
  ZT_TRY(server_.start());
  applied_text_ = std::move(text);
  adopt_left_over(file);
  apply(std::move(file));
  take_first_steps();
  return {};
}

// Of every pod, before any proxy is heard.
void Agent::take_first_steps() {
  std::vector<std::string> uids;
  for (const auto& [uid, pod] : pods_) uids.push_back(uid);
  for (const auto& uid : uids) {
    if (const auto it = pods_.find(uid); it != pods_.end() && it->second.due <= Clock::now()) step(it->second);
  }
  schedule();
  verify_timer_.start_after(options_.verify_interval, [this] { verify_all(); });
}

void Agent::reload() {
  if (left_ || options_.pods_file.empty()) return;  // on the way out, or nothing to read
  const auto refuse = [&](const Error& error) {
    if (refused_ == error.text) return;  // said already
    refused_ = error.text;
    ++refused_files_;
    ZT_LOG(log_agent, kError, "pods file refused, the pods stay as they are", Field::string("error", error.text));
  };
  auto text = read_pods_file(options_.pods_file);
  if (!text) return refuse(text.error());
  if (*text == applied_text_) return refused_.clear();
  auto file = parse_pods(*text, options_.pods_file, options_.defaults);
  if (!file) return refuse(file.error());
  applied_text_ = std::move(*text);
  refused_.clear();
  ZT_LOG(log_agent, kInfo, "pods file loaded", Field::count("pods", static_cast<int64_t>(file->pods.size())));
  apply(std::move(*file));
  schedule();
}

Result<std::shared_ptr<const Netns>> Agent::open_namespace(const PodSpec& spec, const OwnerOf& owner_of) const {
  const auto refuse = [&](std::string_view why) {
    return fail(Reason::kInvalidInput, fmt::format("{}: pod {}: {}", spec.where, spec.uid, why));
  };
  auto netns = find(spec);
  if (!netns) return refuse(netns.error().text);
  if ((*netns)->id() == own_netns_) {
    return refuse(
        fmt::format("{} is the agent's own network namespace; pods on the host's network cannot be enrolled", spec.netns_path));
  }
  if (const PodSpec* owner = owner_of((*netns)->id())) {
    return refuse(fmt::format("{} is the same network namespace as pod {}'s {}", spec.netns_path, owner->uid, owner->netns_path));
  }
  return netns;
}

Result<std::shared_ptr<const Netns>> Agent::find(const PodSpec& spec) const {
  if (options_.find_namespace) return options_.find_namespace(spec);
  ZT_ASSIGN(Netns netns, Netns::open(spec.netns_path));
  return std::make_shared<const Netns>(std::move(netns));
}

void Agent::apply(PodsFile file) {
  save_state(file.pods);
  bad_entries_ = std::move(file.bad);
  for (const auto& entry : bad_entries_) {
    ZT_LOG(log_agent, kError, "an entry of the pods file is refused, the others are used", Field::string("uid", entry.uid),
           Field::string("error", entry.text));
  }
  // A namespace that goes from one pod to another stays captured throughout.
  Claims claims;
  std::map<Netns::Id, const PodSpec*> owners;
  std::vector<Result<std::shared_ptr<const Netns>>> namespaces;
  for (const auto& spec : file.pods) {
    claims.uids.insert(spec.uid);
    namespaces.push_back(open_namespace(spec, [&](const Netns::Id& id) {
      const auto owner = owners.find(id);
      return owner == owners.end() ? nullptr : owner->second;
    }));
    if (!namespaces.back()) continue;
    owners.emplace((*namespaces.back())->id(), &spec);
    claims.namespaces.insert((*namespaces.back())->id());
  }
  let_others_leave(claims);
  for (size_t i = 0; i < file.pods.size(); ++i) {
    if (namespaces[i]) {
      put(std::move(file.pods[i]), std::move(*namespaces[i]), claims);
    } else {
      put_waiting(std::move(file.pods[i]), namespaces[i].error());
    }
  }
}

// Pods that the file does not name. The pod of a bad entry stays as it is.
void Agent::let_others_leave(const Claims& claims) {
  std::set<std::string_view> bad;
  for (const auto& entry : bad_entries_) bad.insert(entry.uid);
  if (bad.contains("")) {
    ZT_LOG(log_agent, kWarn, "an entry of the pods file does not say whose it is: no pod leaves until it is mended");
    return;
  }
  for (auto it = pods_.begin(); it != pods_.end();) {
    Pod& pod = (it++)->second;  // which may erase itself
    const bool moves_on = pod.netns && claims.namespaces.contains(pod.netns->id());
    if (!claims.uids.contains(pod.spec.uid) && !bad.contains(pod.spec.uid) && !moves_on) begin_leave(pod);
  }
}

// Makes the pod as the file says, whatever it was before.
void Agent::put(PodSpec spec, std::shared_ptr<const Netns> netns, const Claims& claims) {
  release(netns->id(), spec.uid, claims);
  Pod& pod = pods_[spec.uid];
  const bool same_netns = pod.has(netns->id());
  const bool same_rules = pod.state == State::kEnrolled && same_netns && pod.spec.options == spec.options;
  if (pod.netns && !same_netns && !claims.namespaces.contains(pod.netns->id())) {
    // The proxy stops serving the former namespace as soon as it hears of the new one.
    former_.push_back({.spec = pod.spec, .netns = pod.netns, .state = State::kDropped, .due = Clock::now() + kLeavePoll});
  }
  if (!same_netns) {
    pod.netns = std::move(netns);
    pod.served = false;
  }
  pod.spec = std::move(spec);
  pod.wanted.reset();
  pod.failures = 0;
  if (same_rules) {
    pod.due = kNever;
    offer(pod);
  } else {
    pod.state = State::kUnset;
    pod.due = Clock::now();
  }
}

// The pod of an entry whose namespace cannot be had. What there is of it stays.
void Agent::put_waiting(PodSpec spec, const Error& error) {
  Pod& pod = pods_[spec.uid];
  pod.wanted = std::move(spec);
  pod.failures = 0;
  if (!pod.netns) {
    pod.spec = *pod.wanted;
    offer(pod);
  }
  if (pod.state == State::kAbsent || pod.state == State::kEnrolled) {
    retry_later(pod, error, "use the entry of the pods file; its namespace is looked for again");
  }
}

void Agent::offer(Pod& pod) {
  pod.offered = pod.netns ? std::optional(pod.netns->id()) : std::nullopt;
  // Without a namespace: a proxy that has the pod from before is told to keep it.
  if (auto offered = server_.set_pod({pod.spec.uid, pod.spec.info, pod.netns}); !offered) {
    note_failure(pod, offered.error(), "offer the pod to the proxies");
  }
}

// Whoever had the namespace before: the rules are the new pod's now.
void Agent::release(const Netns::Id& netns, const std::string& new_uid, const Claims& claims) {
  for (auto it = pods_.begin(); it != pods_.end();) {
    auto& [uid, pod] = *it;
    if (uid == new_uid || !pod.has(netns)) {
      ++it;
    } else if (pod.wanted || claims.uids.contains(uid)) {  // it is about to get another, or waits for one
      pod.netns.reset();
      pod.state = State::kAbsent;
      pod.due = pod.wanted ? Clock::now() : kNever;
      offer(pod);
      ++it;
    } else {
      server_.remove_pod(uid);
      it = pods_.erase(it);
    }
  }
  std::erase_if(former_, [&](const Pod& pod) { return pod.has(netns); });
}

void Agent::begin_leave(Pod& pod) {
  pod.wanted.reset();
  if (pod.leaves()) return;
  ZT_LOG(log_agent, kInfo, "pod leaves", Field::string("uid", pod.spec.uid));
  if (pod.state == State::kAbsent) return drop(pod);
  pod.state = State::kStopping;
  pod.failures = 0;
  pod.due = Clock::now();
}

void Agent::adopt_left_over(const PodsFile& file) {
  const auto state = read_pods_file(options_.state_file);
  if (!state) return;  // the first agent since the node came up
  const auto former = parse_pods(*state, options_.state_file, options_.defaults);
  if (!former || !former->bad.empty()) {
    ZT_LOG(log_agent, kWarn, "state of the former agent is not usable, pods that it enrolled may stay redirected",
           Field::string("error", former ? former->bad.front().text : former.error().text));
  }
  if (!former) return;
  for (const auto& spec : former->pods) {
    auto netns = Netns::open(spec.netns_path);
    if (!netns || netns->id() == own_netns_) continue;  // gone with all its rules
    const bool named = std::any_of(file.pods.begin(), file.pods.end(), [&](const PodSpec& now) { return now.uid == spec.uid; });
    if (named) continue;
    Pod& pod = pods_[spec.uid];
    pod.spec = spec;
    pod.netns = std::make_shared<const Netns>(std::move(*netns));
    // It leaves, unless the file's entry of it is bad. Proxies go on serving it until its connections have ended.
    pod.state = State::kUnset;
    pod.due = Clock::now();
    offer(pod);
  }
}

void Agent::save_state(const std::vector<PodSpec>& coming) {
  if (options_.pods_file.empty()) return;
  std::vector<PodSpec> specs = coming;
  std::set<std::string, std::less<>> uids, paths;
  for (const auto& spec : coming) uids.insert(spec.uid), paths.insert(spec.netns_path);
  const auto add = [&](const Pod& pod) {
    // An earlier one of the same name has moved: where it was, no path leads any more.
    if (uids.insert(pod.spec.uid).second && paths.insert(pod.spec.netns_path).second) specs.push_back(pod.spec);
  };
  for (const auto& [uid, pod] : pods_) add(pod);
  for (const auto& pod : former_) add(pod);
  if (auto written = replace_file(options_.state_file, render_pods(specs), 0600); !written) {
    ZT_LOG(log_agent, kError, "cannot write the agent's state", Field::string("error", written.error().text));
  }
}

Agent::Counts Agent::counts() const {
  Counts counts{.leaving = former_.size(),
                .bad_entries = bad_entries_.size(),
                .repairs = repairs_,
                .refused_files = refused_files_,
                .failed_removals = failed_removals_};
  for (const auto& [uid, pod] : pods_) {
    counts.enrolled += pod.state == State::kEnrolled ? 1 : 0;
    counts.failed += pod.state == State::kUnset && pod.failures > 0 ? 1 : 0;
    counts.waiting += pod.wanted ? 1 : 0;
    counts.leaving += pod.leaves() ? 1 : 0;
  }
  return counts;
}

std::map<std::string, std::string> Agent::failures() const {
  std::map<std::string, std::string> out;
  for (size_t i = 0; i < bad_entries_.size(); ++i) {
    const BadEntry& entry = bad_entries_[i];
    out.emplace(entry.uid.empty() ? fmt::format("#{}", i) : entry.uid, entry.text);
  }
  const auto add = [&](const Pod& pod) {
    if (!pod.last_error.empty()) out.insert_or_assign(pod.spec.uid, pod.last_error);
  };
  for (const auto& [uid, pod] : pods_) add(pod);
  for (const auto& pod : former_) add(pod);
  return out;
}

}  // namespace zt::agent
