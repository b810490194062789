#include "redirection/iptables/iptables.h"

#include <fmt/core.h>

#include <algorithm>
#include <fstream>

#include "base/log.h"
#include "mesh/reason.h"
#include "redirection/iptables/run_program.h"
#include "redirection/nftables/nftables.h"
#include "redirection/nftables/policy_routes.h"

namespace zt::redirection {

namespace {

log::Scope log_iptables("redirection");

// Legacy takes a lock on a file. The node's own may be held for seconds by others (kube-proxy), and one that the pod can open (its
// namespace, say) by the pod for ever. So it is the program's own input, which nobody else has: in a pod only the agent writes rules.
const std::vector<std::string> kLockOfItsOwn{"XTABLES_LOCKFILE=/proc/self/fd/0"};
constexpr const char* kWait = "--wait=1";
constexpr std::chrono::seconds kLimit(10);

// Whether tables of the variant exist in the calling thread's namespace. To ask the program would take milliseconds.
bool has_legacy_tables(bool v6) {
  std::ifstream file(v6 ? "/proc/thread-self/net/ip6_tables_names" : "/proc/thread-self/net/ip_tables_names");
  std::string name;
  return static_cast<bool>(file >> name);
}
bool has_nft_tables(bool v6) {
  const auto tables = list_nft_tables();
  if (!tables) return true;  // let the program say what is wrong
  return std::any_of(kIptablesTables.begin(), kIptablesTables.end(), [&](std::string_view table) {
    return std::find(tables->begin(), tables->end(), fmt::format("{} {}", v6 ? "ip6" : "ip", table)) != tables->end();
  });
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

}  // namespace

std::string IptablesRedirector::program(bool v6, Variant variant, std::string_view what) {
  return fmt::format("{}tables-{}-{}", v6 ? "ip6" : "ip", suffix(variant), what);
}

Result<IptablesRules> IptablesRedirector::save(bool v6, Variant variant) {
  if (variant == Variant::kLegacy ? !has_legacy_tables(v6) : !has_nft_tables(v6)) return IptablesRules{};
  const std::string name = program(v6, variant, "save");
  ZT_ASSIGN(const ProgramOutput output, run_program({name}, {}, kLockOfItsOwn, kLimit));
  if (output.status == 0) return parse_iptables_save(output.out);
  return fail(Reason::kIo, fmt::format("{}: {}", name, first_line(output.err)));
}

Result<> IptablesRedirector::restore(bool v6, Variant variant, const std::string& text) {
  if (text.empty()) return {};
  const std::string name = program(v6, variant, "restore");
  std::vector<std::string> words{name, "--noflush"};
  if (variant == Variant::kLegacy) words.emplace_back(kWait);
  ZT_ASSIGN(const ProgramOutput output, run_program(words, text, kLockOfItsOwn, kLimit));
  if (output.status == 0) return {};
  return fail(Reason::kIo, fmt::format("{}: {}", name, first_line(output.err)));
}

Result<IptablesRedirector::Listing> IptablesRedirector::list(Variant variant) {
  Listing listing;
  for (const bool v6 : {false, true}) {
    auto rules = save(v6, variant);
    if (rules) {
      listing[v6 ? 1 : 0] = std::move(*rules);
    } else if (rules.error().reason != Reason::kNotFound) {  // which is: the program is not installed
      return std::unexpected(rules.error());
    }
  }
  return listing;
}

// In the calling thread's namespace: whether the variant's tables have rules that are not ours.
bool IptablesRedirector::is_used_by_others(Variant variant) {
  for (const bool v6 : {false, true}) {
    if (variant == Variant::kLegacy && !has_legacy_tables(v6)) continue;
    const auto output = run_program({program(v6, variant, "save")}, {}, kLockOfItsOwn, kLimit);
    if (!output || output->status != 0) continue;
    std::string_view text = output->out;
    for (size_t at = text.find("\n-A "); at != std::string_view::npos; at = text.find("\n-A ", at + 1)) {
      const auto line = text.substr(at + 1, text.find('\n', at + 1) - at - 1);
      if (line.find("ISTIO_") == std::string_view::npos) return true;
    }
  }
  return false;
}

Result<> IptablesRedirector::apply(Variant variant, const RedirectionOptions& options) {
  for (const bool v6 : {false, true}) {
    auto present = save(v6, variant);
    if (!present && v6 && !options.ipv6) continue;
    if (!present) return std::unexpected(present.error());
    const bool wanted = !v6 || options.ipv6;
    ZT_TRY(restore(v6, variant, wanted ? render_iptables_rules(options, v6, *present) : render_iptables_removal(*present)));
  }
  return {};
}

Result<> IptablesRedirector::remove(Variant variant) {
  ZT_ASSIGN(const Listing listing, list(variant));
  for (const bool v6 : {false, true}) ZT_TRY(restore(v6, variant, render_iptables_removal(listing[v6 ? 1 : 0])));
  return {};
}

Result<const IptablesRedirector::Listing*> IptablesRedirector::reference(Variant variant, const RedirectionOptions& options) {
  const auto known =
      std::find_if(references_.begin(), references_.end(), [&](const auto& reference) { return reference.first == options; });
  if (known != references_.end()) return &known->second;
  ZT_ASSIGN(const Netns scratch, make_scratch_netns());
  ZT_ASSIGN(Listing listing, in_netns_thread(scratch, [&]() -> Result<Listing> {
              ZT_TRY(apply(variant, options));
              return list(variant);
            }));
  return &references_.emplace_back(options, std::move(listing)).second;
}

Result<IptablesRedirector::Variant> IptablesRedirector::variant() {
  if (chosen_) return *chosen_;
  std::vector<Variant> order{Variant::kNft, Variant::kLegacy};
  std::string why = "nothing speaks for legacy";
  if (forced_ == "legacy" || forced_ == "nft") {
    order = {forced_ == "legacy" ? Variant::kLegacy : Variant::kNft};
    why = "it is asked for";
  } else if (!forced_.empty()) {
    return fail(Reason::kInvalidInput, fmt::format("'{}' is not a variant of iptables: legacy or nft", forced_));
  } else if (is_used_by_others(Variant::kLegacy)) {
    order = {Variant::kLegacy, Variant::kNft};
    why = "its tables hold rules of others";
  }
  std::string errors;
  for (const Variant each : order) {
    references_.clear();
    if (const auto works = reference(each, {.ipv6 = false}); !works) {
      errors += fmt::format("{}{}", errors.empty() ? "" : "; ", works.error().text);
      why = "the other does not work";
      continue;
    }
    chosen_ = each;
    ZT_LOG(log_iptables, kInfo, "variant of iptables chosen", Field::string("variant", suffix(each)), Field::string("why", why));
    return each;
  }
  return fail(Reason::kIo, errors);
}

Result<> IptablesRedirector::probe() {
  auto tried = variant();
  if (tried) return {};
  return fail(
      Reason::kIo,
      fmt::format("iptables redirection does not work here: {}. It needs iptables-restore, CAP_SYS_ADMIN, CAP_NET_ADMIN "
                  "and CAP_NET_RAW, and a kernel with the tables nat, mangle and raw and xt_REDIRECT, xt_connmark, xt_mark",
                  tried.error().text));
}

Result<> IptablesRedirector::enroll(const RedirectedPod& pod) {
  ZT_ASSIGN(const Variant mine, variant());
  return in_netns_thread(*pod.netns, [&]() -> Result<> {
    ZT_TRY(add_policy_routes(pod.options.ipv6));
    ZT_TRY(apply(mine, pod.options));
    // What the other variant has would redirect on. The kernel's translations know nothing of variants: no connection notices.
    const Variant other = mine == Variant::kLegacy ? Variant::kNft : Variant::kLegacy;
    if (auto removed = remove(other); !removed && removed.error().reason != Reason::kNotFound) return removed;
    return {};
  });
}

Result<> IptablesRedirector::stop_capturing(const RedirectedPod& pod) {
  return in_netns_thread(*pod.netns, []() -> Result<> {
    for (const Variant each : {Variant::kLegacy, Variant::kNft}) {
      ZT_ASSIGN(const Listing listing, list(each));
      for (const bool v6 : {false, true}) {
        if (listing[v6 ? 1 : 0].contains("nat")) ZT_TRY(restore(v6, each, render_iptables_stop_capturing()));
      }
    }
    return {};
  });
}

Result<size_t> IptablesRedirector::carried_connections(const RedirectedPod& pod) {
  return in_netns_thread(*pod.netns, [] { return count_carried_connections(); });
}

Result<> IptablesRedirector::unenroll(const RedirectedPod& pod) {
  ZT_TRY(make_way(pod));
  return in_netns_thread(*pod.netns, [] { return remove_policy_routes(); });
}

Result<Deviations> IptablesRedirector::verify(const RedirectedPod& pod) {
  ZT_ASSIGN(const Variant mine, variant());
  ZT_ASSIGN(const Listing* wanted, reference(mine, pod.options));
  return in_netns_thread(*pod.netns, [&]() -> Result<Deviations> {
    Deviations deviations;
    for (const Variant each : {mine, mine == Variant::kLegacy ? Variant::kNft : Variant::kLegacy}) {
      ZT_ASSIGN(const Listing actual, list(each));
      for (const bool v6 : {false, true}) {
        IptablesRules want = each == mine ? (*wanted)[v6 ? 1 : 0] : IptablesRules{}, have = actual[v6 ? 1 : 0];
        for (const auto table : kIptablesTables) {
          compare_lines(fmt::format("{}tables-{} table {}", v6 ? "ip6" : "ip", suffix(each), table), want[std::string(table)],
                        have[std::string(table)], deviations);
        }
      }
    }
    ZT_ASSIGN(const Deviations routes, verify_policy_routes(pod.options.ipv6));
    deviations.insert(deviations.end(), routes.begin(), routes.end());
    return deviations;
  });
}

Result<Presence> IptablesRedirector::presence(const RedirectedPod& pod) {
  return in_netns_thread(*pod.netns, []() -> Result<Presence> {
    Presence presence = Presence::kNone;
    for (const Variant each : {Variant::kLegacy, Variant::kNft}) {
      ZT_ASSIGN(const Listing listing, list(each));
      for (const auto& rules : listing) {
        if (!rules.empty()) presence = std::max(presence, Presence::kStopped);
        const auto nat = rules.find("nat");
        if (nat == rules.end()) continue;
        for (const auto& line : nat->second) {
          if (line.find("-j REDIRECT") != std::string::npos) presence = Presence::kCaptures;
        }
      }
    }
    return presence;
  });
}

Result<> IptablesRedirector::make_way(const RedirectedPod& pod) {
  return in_netns_thread(*pod.netns, []() -> Result<> {
    ZT_TRY(remove(Variant::kLegacy));
    return remove(Variant::kNft);
  });
}

}  // namespace zt::redirection
