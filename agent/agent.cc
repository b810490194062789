#include "agent/agent.h"

#include <fmt/core.h>

#include <algorithm>
#include <set>
#include <thread>
#include <utility>

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
                     .on_answer =
                         [](const std::string& uid, const std::string& error) {
                           // Refusals are logged by the connection.
                           if (error.empty()) {
                             ZT_LOG(log_agent, kInfo, "the proxy serves the pod", Field::string("uid", uid));
                           }
                         },
                     .on_proxies =
                         [this](size_t proxies) {
                           if (proxies == 0 && !pods_.empty()) {
                             ZT_LOG(log_agent, kWarn, "no proxy is connected: enrolled pods have no TCP",
                                    Field::count("pods", static_cast<int64_t>(pods_.size())));
                           }
                         }}),
      watch_(loop, options_.pods_file, [this] { reload(); }),
      verify_timer_(loop),
      verify_step_(loop),
      retry_timer_(loop),
      leave_timer_(loop) {
  if (options_.state_file.empty()) options_.state_file = options_.zds_path + ".pods";
}

Result<> Agent::start() {
  ZT_ASSIGN(const Netns own, Netns::current());
  own_netns_ = own.id();
  // First everything that can fail as a whole, so that a mistake touches no pod.
  ZT_ASSIGN(std::string text, read_pods_file(options_.pods_file));
  ZT_ASSIGN(std::vector<PodSpec> specs, parse_pods(text, options_.pods_file, options_.defaults));
  ZT_ASSIGN(Namespaces namespaces, open_namespaces(specs));
  ZT_TRY(redirector_.probe());
  ZT_TRY(server_.start());
  ZT_TRY(watch_.start());
  applied_text_ = std::move(text);
  adopt_left_over(specs, namespaces);
  save_state(specs);
  apply(std::move(specs), std::move(namespaces));
  verify_timer_.start_after(options_.verify_interval, [this] { verify_all(); });
  return {};
}

void Agent::reload() {
  if (left_) return;  // on the way out
  const auto refuse = [&](const Error& error) {
    if (refused_ == error.text) return;  // said already
    refused_ = error.text;
    ++refused_files_;
    ZT_LOG(log_agent, kError, "pods file refused, the pods stay as they are", Field::string("error", error.text));
  };
  auto text = read_pods_file(options_.pods_file);
  if (!text) return refuse(text.error());
  if (*text == applied_text_) return refused_.clear();
  auto specs = parse_pods(*text, options_.pods_file, options_.defaults);
  if (!specs) return refuse(specs.error());
  auto namespaces = open_namespaces(*specs);
  if (!namespaces) return refuse(namespaces.error());
  applied_text_ = std::move(*text);
  refused_.clear();
  ZT_LOG(log_agent, kInfo, "pods file loaded", Field::count("pods", static_cast<int64_t>(specs->size())));
  save_state(*specs);
  apply(std::move(*specs), std::move(*namespaces));
}

Result<Agent::Namespaces> Agent::open_namespaces(const std::vector<PodSpec>& specs) const {
  Namespaces namespaces;
  std::map<Netns::Id, const PodSpec*> owners;
  for (const auto& spec : specs) {
    auto netns = Netns::open(spec.netns_path);
    if (!netns) {
      return fail(Reason::kInvalidInput, fmt::format("{}: pod {}: {}", spec.where, spec.uid, netns.error().text));
    }
    if (netns->id() == own_netns_) {
      return fail(Reason::kInvalidInput, fmt::format("{}: pod {}: {} is the agent's own network namespace; "
                                                     "pods on the host's network cannot be enrolled",
                                                     spec.where, spec.uid, spec.netns_path));
    }
    if (const auto [owner, first] = owners.emplace(netns->id(), &spec); !first) {
      return fail(Reason::kInvalidInput, fmt::format("{}: pod {}: {} is the same network namespace as pod {}'s {}", spec.where,
                                                     spec.uid, spec.netns_path, owner->second->uid, owner->second->netns_path));
    }
    namespaces.push_back(std::make_shared<const Netns>(std::move(*netns)));
  }
  return namespaces;
}

void Agent::apply(std::vector<PodSpec> specs, Namespaces namespaces) {
  // A namespace that goes from one pod to another stays captured throughout.
  std::set<Netns::Id> claimed;
  for (const auto& netns : namespaces) claimed.insert(netns->id());
  std::set<std::string, std::less<>> named;
  for (const auto& spec : specs) named.insert(spec.uid);
  for (auto& [uid, pod] : pods_) {
    const bool leaving = pod.state == State::kLeaving || pod.state == State::kDropped;
    if (!named.contains(uid) && !claimed.contains(pod.netns->id()) && !leaving) begin_leave(pod);
  }
  for (size_t i = 0; i < specs.size(); ++i) put(std::move(specs[i]), std::move(namespaces[i]), claimed);
}

// Makes the pod as the file says, whatever it was before.
void Agent::put(PodSpec spec, std::shared_ptr<const Netns> netns, const std::set<Netns::Id>& claimed) {
  release(netns->id(), spec.uid);
  Pod& pod = pods_[spec.uid];
  const bool moved = pod.netns && pod.netns->id() != netns->id();
  const bool same_rules = pod.state == State::kEnrolled && !moved && pod.spec.options == spec.options;
  const redirection::RedirectedPod before = target(pod);
  if (!pod.netns || moved) pod.netns = std::move(netns);
  pod.spec = std::move(spec);
  if (!same_rules) enroll(pod);
  if (moved && !claimed.contains(before.netns->id())) {
    // The proxy stops serving the former namespace as soon as it hears of the new one.
    if (auto left = redirector_.unenroll(before); !left) note_failure(pod, left.error(), "clean the former namespace");
  }
  if (auto offered = server_.set_pod({pod.spec.uid, pod.spec.info, pod.netns}); !offered) {
    note_failure(pod, offered.error(), "offer the pod to the proxies");
  }
}

// A pod whose namespace another pod takes over: the rules are that one's now.
void Agent::release(const Netns::Id& netns, const std::string& new_uid) {
  for (auto it = pods_.begin(); it != pods_.end();) {
    if (it->first != new_uid && it->second.netns->id() == netns) {
      server_.remove_pod(it->first);
      it = pods_.erase(it);
    } else {
      ++it;
    }
  }
}

void Agent::enroll(Pod& pod) {
  if (auto enrolled = redirector_.enroll(target(pod)); !enrolled) {
    pod.state = State::kFailed;
    note_failure(pod, enrolled.error(), "redirect the pod");
    if (!retry_timer_.armed()) {
      retry_timer_.start_after(kRetryInterval, [this] {
        for (auto& [uid, failed] : pods_) {
          if (failed.state == State::kFailed) enroll(failed);
        }
      });
    }
    return;
  }
  pod.state = State::kEnrolled;
  pod.last_error.clear();
  ZT_LOG(log_agent, kInfo, "pod enrolled", Field::string("uid", pod.spec.uid), Field::string("name", pod.spec.info.name),
         Field::string("namespace", pod.spec.info.namespace_name), Field::string("netns", pod.spec.netns_path));
}

void Agent::begin_leave(Pod& pod) {
  ZT_LOG(log_agent, kInfo, "pod leaves", Field::string("uid", pod.spec.uid));
  if (auto stopped = redirector_.stop_capturing(target(pod)); !stopped) {
    note_failure(pod, stopped.error(), "stop capturing");
  }
  pod.state = State::kLeaving;
  pod.leave_by = Clock::now() + options_.leave_limit;
  if (!leave_timer_.armed()) leave_timer_.start_after(std::chrono::milliseconds(0), [this] { poll_leaving(); });
}

void Agent::poll_leaving() {
  bool waiting = false;
  for (auto it = pods_.begin(); it != pods_.end();) {
    Pod& pod = it->second;
    if (pod.state == State::kDropped) {
      finish_leave(pod);
      it = pods_.erase(it);
      save_state();
      continue;
    }
    if (pod.state == State::kLeaving) {
      waiting = true;
      const auto carried = redirector_.carried_connections(target(pod));
      const bool expired = Clock::now() >= pod.leave_by;
      if (!carried || *carried == 0 || expired) {
        if (carried && *carried > 0) {
          ZT_LOG(log_agent, kWarn, "connections of a leaving pod are cut", Field::string("uid", pod.spec.uid),
                 Field::count("connections", static_cast<int64_t>(*carried)));
        }
        // The proxies let go first: it is they who end what is still open, with a reset and not in silence.
        server_.remove_pod(it->first);
        pod.state = State::kDropped;
      }
    }
    ++it;
  }
  if (waiting) {
    leave_timer_.start_after(kLeavePoll, [this] { poll_leaving(); });
  } else if (left_ && pods_.empty()) {
    left_();
  }
}

void Agent::finish_leave(const Pod& pod) {
  if (auto left = redirector_.unenroll(target(pod)); !left) {
    ZT_LOG(log_agent, kError, "cannot remove the pod's redirection", Field::string("uid", pod.spec.uid),
           Field::string("error", left.error().text));
    return;
  }
  ZT_LOG(log_agent, kInfo, "pod left", Field::string("uid", pod.spec.uid));
}

void Agent::adopt_left_over(const std::vector<PodSpec>& specs, const Namespaces& namespaces) {
  const auto state = read_pods_file(options_.state_file);
  if (!state) return;  // the first agent since the node came up
  const auto former = parse_pods(*state, options_.state_file, options_.defaults);
  if (!former) {
    ZT_LOG(log_agent, kWarn, "state of the former agent is not usable, pods that it enrolled may stay redirected",
           Field::string("error", former.error().text));
    return;
  }
  for (const auto& spec : *former) {
    auto netns = Netns::open(spec.netns_path);
    if (!netns || netns->id() == own_netns_) continue;  // gone with all its rules
    const bool still_there =
        std::any_of(specs.begin(), specs.end(), [&](const PodSpec& now) { return now.uid == spec.uid; }) ||
        std::any_of(namespaces.begin(), namespaces.end(), [&](const auto& now) { return now->id() == netns->id(); });
    if (still_there) continue;
    Pod& pod = pods_[spec.uid];
    pod.spec = spec;
    pod.netns = std::make_shared<const Netns>(std::move(*netns));
    // Proxies go on serving it until its connections have ended.
    if (auto offered = server_.set_pod({spec.uid, spec.info, pod.netns}); !offered) {
      note_failure(pod, offered.error(), "offer the pod to the proxies");
    }
    begin_leave(pod);
  }
}

void Agent::save_state(const std::vector<PodSpec>& coming) {
  std::vector<PodSpec> specs = coming;
  for (const auto& [uid, pod] : pods_) {
    const bool named = std::any_of(coming.begin(), coming.end(), [&](const PodSpec& spec) { return spec.uid == uid; });
    if (!named) specs.push_back(pod.spec);
  }
  if (auto written = write_pods_file(options_.state_file, render_pods(specs)); !written) {
    ZT_LOG(log_agent, kError, "cannot write the agent's state", Field::string("error", written.error().text));
  }
}

void Agent::leave_all(std::function<void()> done) {
  left_ = std::move(done);
  verify_timer_.cancel();
  verify_step_.cancel();
  retry_timer_.cancel();
  for (auto& [uid, pod] : pods_) {
    if (pod.state == State::kEnrolled || pod.state == State::kFailed) begin_leave(pod);
  }
  if (pods_.empty()) left_();
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
  if (pod.state != State::kEnrolled) return;
  auto deviations = redirector_.verify(target(pod));
  if (!deviations) return note_failure(pod, deviations.error(), "verify the pod");
  if (deviations->empty()) {
    if (found) pod.last_error.clear();
    return;
  }
  for (const auto& deviation : *deviations) {
    ZT_LOG(log_agent, kWarn, "the pod's redirection was changed", Field::string("uid", pod.spec.uid),
           Field::string("what", deviation));
  }
  enroll(pod);
  if (pod.state != State::kEnrolled) return;
  ++repairs_;
  deviations = redirector_.verify(target(pod));
  if (deviations && deviations->empty()) {
    ZT_LOG(log_agent, kInfo, "the pod's redirection is repaired", Field::string("uid", pod.spec.uid));
  } else {
    note_failure(pod, deviations ? Error{Reason::kInternal, deviations->front()} : deviations.error(), "repair the pod");
  }
}

bool Agent::follow_path(Pod& pod) {
  auto now = Netns::open(pod.spec.netns_path);
  if (!now) {
    note_failure(pod, now.error(), "find the pod's network namespace again; is the pod gone?");
    return false;
  }
  if (now->id() == pod.netns->id()) return true;
  const bool taken =
      std::any_of(pods_.begin(), pods_.end(), [&](const auto& other) { return other.second.netns->id() == now->id(); });
  if (now->id() == own_netns_ || taken) {
    const std::string whose = taken ? "another pod's" : "the agent's own";
    note_failure(pod, {Reason::kInvalidInput, fmt::format("{} leads to {} network namespace", pod.spec.netns_path, whose)},
                 "follow the pod to its new namespace");
    return false;
  }
  ZT_LOG(log_agent, kInfo, "the pod was made anew", Field::string("uid", pod.spec.uid),
         Field::string("netns", pod.spec.netns_path));
  put(pod.spec, std::make_shared<const Netns>(std::move(*now)), {});
  return true;
}

void Agent::note_failure(Pod& pod, const Error& error, std::string_view doing) {
  if (std::exchange(pod.last_error, error.text) == error.text) return;
  ZT_LOG(log_agent, kError, fmt::format("cannot {}", doing), Field::string("uid", pod.spec.uid),
         Field::string("error", error.text));
}

Agent::Counts Agent::counts() const {
  Counts counts{.repairs = repairs_, .refused_files = refused_files_};
  for (const auto& [uid, pod] : pods_) {
    counts.enrolled += pod.state == State::kEnrolled ? 1 : 0;
    counts.failed += pod.state == State::kFailed ? 1 : 0;
    counts.leaving += pod.state == State::kLeaving || pod.state == State::kDropped ? 1 : 0;
  }
  return counts;
}

Result<> leave_pods(redirection::Redirector& redirector, const std::vector<PodSpec>& specs, std::chrono::milliseconds limit) {
  std::vector<std::pair<const PodSpec*, redirection::RedirectedPod>> pods;
  std::string failures;
  const auto note = [&](const PodSpec& spec, const Error& error) {
    failures += fmt::format("{}pod {}: {}", failures.empty() ? "" : "; ", spec.uid, error.text);
  };
  for (const auto& spec : specs) {
    auto netns = Netns::open(spec.netns_path);
    if (!netns && netns.error().reason == Reason::kNotFound) continue;  // a pod that is gone has nothing to remove
    if (!netns) {
      note(spec, netns.error());
      continue;
    }
    pods.emplace_back(&spec, redirection::RedirectedPod{std::make_shared<const Netns>(std::move(*netns)), spec.options});
    if (auto stopped = redirector.stop_capturing(pods.back().second); !stopped) note(spec, stopped.error());
  }
  const auto deadline = Clock::now() + limit;
  const auto carries = [&](const auto& pod) {
    const auto carried = redirector.carried_connections(pod.second);
    return carried && *carried > 0;
  };
  while (Clock::now() < deadline && std::any_of(pods.begin(), pods.end(), carries)) {
    std::this_thread::sleep_for(Agent::kLeavePoll);
  }
  for (const auto& [spec, pod] : pods) {
    if (auto left = redirector.unenroll(pod); !left) note(*spec, left.error());
  }
  return failures.empty() ? Result<>{} : fail(Reason::kIo, failures);
}

}  // namespace zt::agent
