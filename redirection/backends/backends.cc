#include "redirection/backends/backends.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "mesh/reason.h"
#include "redirection/iptables/iptables.h"
#include "redirection/nftables/nftables.h"

namespace zt::redirection {

namespace {
log::Scope log_backends("redirection");
}  // namespace

Backends::Backends(std::vector<std::unique_ptr<Redirector>> wanted, std::vector<std::unique_ptr<Redirector>> others) {
  for (auto& backend : wanted) candidates_.push_back({.backend = std::move(backend), .wanted = true});
  for (auto& backend : others) candidates_.push_back({.backend = std::move(backend)});
}

std::string_view Backends::name() const {
  const auto first = std::find_if(candidates_.begin(), candidates_.end(), [](const Candidate& each) { return each.works; });
  return first == candidates_.end() ? std::string_view("none") : first->backend->name();
}

Result<> Backends::probe() {
  std::string refusals;
  bool works = false;
  for (auto& each : candidates_) {
    if (!each.wanted) continue;
    const auto probed = each.backend->probe();
    each.works = probed.has_value();
    if (!probed) refusals += fmt::format("{}{}", refusals.empty() ? "" : "; ", probed.error().text);
    if (each.works && !std::exchange(works, true)) {
      ZT_LOG(log_backends, kInfo, "pods are redirected by", Field::string("backend", each.backend->name()),
             Field::string("why", refusals.empty() ? "it comes first and works here" : refusals));
    }
  }
  probed_ = true;
  if (works) return {};
  return fail(Reason::kIo, refusals);
}

Result<Redirector*> Backends::choose(const RedirectionOptions& options) {
  if (!probed_) ZT_TRY(probe());
  std::string why;
  for (const auto& each : candidates_) {
    if (!each.works) continue;
    const auto unsuited = each.backend->unsuited(options);
    if (unsuited.empty()) return each.backend.get();
    why += fmt::format("{}{}: {}", why.empty() ? "" : "; ", each.backend->name(), unsuited);
  }
  return fail(Reason::kInvalidInput, why.empty() ? "no backend works here" : why);
}

Result<Redirector*> Backends::leads_out(const RedirectionOptions& options) {
  auto chosen = choose(options);
  if (chosen) return chosen;
  const auto first = std::find_if(candidates_.begin(), candidates_.end(), [](const Candidate& each) { return each.works; });
  return first == candidates_.end() ? chosen : first->backend.get();
}

Result<Presence> Backends::certain_presence_of(const Candidate& each, const RedirectedPod& pod) {
  if (each.works) return each.backend->presence(pod);
  return presence_of(each, pod);
}

// What cannot even be asked about is not there: a kernel without nf_tables, a node without the programs.
Presence Backends::presence_of(const Candidate& each, const RedirectedPod& pod) {
  const auto there = each.backend->presence(pod);
  if (!there) {
    ZT_LOG(log_backends, kDebug, "taken for not in the pod", Field::string("backend", each.backend->name()),
           Field::string("error", there.error().text));
  }
  return there ? *there : Presence::kNone;
}

// Carried connections that netfilter translates need it until they end, if `mine` does not: then the other only stops.
Result<> Backends::remove_others(const Redirector& mine, const RedirectedPod& pod, bool leaving) {
  for (const auto& each : candidates_) {
    if (each.backend.get() == &mine) continue;
    Presence there = presence_of(each, pod);
    if (leaving) {
      ZT_ASSIGN(there, certain_presence_of(each, pod));
    }
    const bool needed = !leaving && each.backend->translates() && !mine.translates();
    if (there == Presence::kNone || (needed && there == Presence::kStopped)) continue;
    ZT_TRY(needed ? each.backend->stop_capturing(pod) : each.backend->make_way(pod));
    ZT_LOG(log_backends, kInfo,
           needed ? "another backend captures no more in the pod" : "the pod's redirection by another backend is taken out",
           Field::string("backend", each.backend->name()));
  }
  return {};
}

Result<> Backends::enroll(const RedirectedPod& pod) {
  ZT_ASSIGN(const Redirector* const first, choose(pod.options));
  std::string refusals;
  for (const auto& each : candidates_) {
    if (!each.works || !each.backend->unsuited(pod.options).empty()) continue;
    if (auto enrolled = each.backend->enroll(pod); !enrolled) {
      refusals += fmt::format("{}{}", refusals.empty() ? "" : "; ", enrolled.error().text);
      continue;
    }
    if (each.backend.get() != first || !refusals.empty()) {
      ZT_LOG(log_backends, kInfo, "this pod is redirected by another backend than most",
             Field::string("backend", each.backend->name()),
             Field::string("netns", pod.netns ? pod.netns->to_string() : std::string()), Field::string("why", refusals));
    }
    // The pod is captured from here on, so nothing gets past while the others' is taken out.
    return remove_others(*each.backend, pod, false);
  }
  return fail(Reason::kIo, refusals);
}

// Who captures it now, if the first that suits could not have it.
Result<Redirector*> Backends::captor(const RedirectedPod& pod) {
  ZT_ASSIGN(Redirector* const first, choose(pod.options));
  for (const auto& each : candidates_) {
    const bool may = each.works && each.backend->unsuited(pod.options).empty();
    if (may && presence_of(each, pod) == Presence::kCaptures) return each.backend.get();
  }
  return first;
}

Result<> Backends::stop_capturing(const RedirectedPod& pod) {
  ZT_ASSIGN(Redirector* const mine, leads_out(pod.options));
  for (const auto& each : candidates_) {
    if (each.backend.get() == mine) continue;
    ZT_ASSIGN(const Presence there, certain_presence_of(each, pod));
    if (there == Presence::kCaptures) ZT_TRY(each.backend->stop_capturing(pod));
  }
  return mine->stop_capturing(pod);
}

Result<size_t> Backends::carried_connections(const RedirectedPod& pod) {
  ZT_ASSIGN(Redirector* const mine, leads_out(pod.options));
  return mine->carried_connections(pod);
}

Result<> Backends::unenroll(const RedirectedPod& pod) {
  ZT_ASSIGN(Redirector* const mine, leads_out(pod.options));
  ZT_TRY(remove_others(*mine, pod, true));
  return mine->unenroll(pod);
}

Result<Deviations> Backends::verify(const RedirectedPod& pod) {
  ZT_ASSIGN(Redirector* const mine, captor(pod));
  ZT_ASSIGN(Deviations deviations, mine->verify(pod));
  for (const auto& each : candidates_) {
    if (each.backend.get() == mine) continue;
    const Presence there = presence_of(each, pod);
    const bool stays = there == Presence::kStopped && each.backend->translates() && !mine->translates();
    if (there == Presence::kNone || stays) continue;
    deviations.push_back(fmt::format("unexpected redirection by {}", each.backend->name()));
  }
  return deviations;
}

Result<Presence> Backends::presence(const RedirectedPod& pod) {
  Presence most = Presence::kNone;
  for (const auto& each : candidates_) most = std::max(most, presence_of(each, pod));
  return most;
}

Result<> Backends::make_way(const RedirectedPod& pod) {
  for (const auto& each : candidates_) {
    if (presence_of(each, pod) != Presence::kNone) ZT_TRY(each.backend->make_way(pod));
  }
  return {};
}

Result<std::unique_ptr<Redirector>> make_redirector(const BackendSettings& settings) {
  if (std::find(kBackendNames.begin(), kBackendNames.end(), settings.backend) == kBackendNames.end()) {
    return fail(Reason::kInvalidInput,
                fmt::format("'{}' is not a redirection backend: {}", settings.backend, fmt::join(kBackendNames, ", ")));
  }
  std::vector<std::unique_ptr<Redirector>> wanted, others;
  const auto add = [&](std::string_view name, std::unique_ptr<Redirector> backend) {
    (settings.backend == "auto" || settings.backend == name ? wanted : others).push_back(std::move(backend));
  };
  add("ebpf", std::make_unique<EbpfRedirector>(settings.ebpf));
  add("nftables", std::make_unique<NftablesRedirector>());
  add("iptables", std::make_unique<IptablesRedirector>(settings.iptables_variant));
  return std::make_unique<Backends>(std::move(wanted), std::move(others));
}

}  // namespace zt::redirection
