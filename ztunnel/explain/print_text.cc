#include <fmt/format.h>

#include <iterator>

#include "mesh/reason.h"
#include "ztunnel/explain/explain.h"

namespace zt::ztunnel {

using workload_api::PolicyAction;

namespace {

constexpr size_t kMostWays = 10;  // that are written out, of services with many endpoints

std::string ids(const std::vector<identity::SpiffeId>& list) {
  std::string text;
  for (const auto& id : list) text += (text.empty() ? "" : " or ") + id.to_string();
  return text.empty() ? "anybody with a certificate of the mesh" : text;
}

class Text {
 public:
  template <class... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    out_.append(indent_, ' ');
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
    out_ += '\n';
  }
  std::string take() { return std::move(out_); }

  void ways(const Explanation& explanation) {
    for (size_t i = 0; i < explanation.ways.size() && i < kMostWays; ++i) way(explanation.ways[i], explanation.turns);
    if (explanation.ways.size() > kMostWays)
      line("and {} more routes of this kind: -o json names all", explanation.ways.size() - kMostWays);
  }

 private:
  void way(const Way& way, size_t turns) {
    const std::string share = way.turns == turns ? "" : fmt::format(" ({} of {} connections)", way.turns, turns);
    line("route   {}{}", std::visit([this](const auto& route) { return of(route); }, way.route), share);
    if (way.arrival) arrival(*way.arrival);
    if (!way.beyond.empty()) line("note    {}", way.beyond);
    if (!way.onward) return;
    line("onward  if the waypoint calls the same, as {}", way.onward->source->identity.view());
    indent_ += 2;
    ways(*way.onward);
    indent_ -= 2;
  }

  std::string of(const Deny& deny) { return fmt::format("refused: {} [{}]", deny.text, reason_info(deny.reason).name); }
  std::string of(const Plain& plain) { return fmt::format("as it is, to {}{}", plain.address.to_string(), to(plain.to)); }
  std::string of(const Hbone& hbone) {
    return fmt::format("a tunnel to {}{}, in it a CONNECT to {}; there must prove to be {}", hbone.dial.to_string(), to(hbone.to),
                       hbone.authority, ids(hbone.expected));
  }
  std::string of(const DoubleHbone& hbone) {
    return fmt::format("a tunnel to the gateway {}{}, who must prove to be {}, and in it a tunnel to {}, who must prove to be {}",
                       hbone.dial.to_string(), to(hbone.to), ids(hbone.expected), hbone.authority, ids(hbone.inner_expected));
  }
  std::string of(const NeedsResolution& pending) {
    return fmt::format("to the address that DNS gives for {} (workload {}), then: {}", pending.hostname.view(),
                       pending.workload_uid.view(), std::visit([this](const auto& then) { return of(then); }, pending.then));
  }
  static std::string to(const Destination& destination) {
    if (!destination.workload) return {};
    const std::string service = destination.service ? fmt::format(" of service {}", destination.service->key.view()) : "";
    return fmt::format(" ({}{})", destination.workload->uid.view(), service);
  }

  void arrival(const Arriving& arriving) {
    if (!arriving.target) {
      line("target  refused by the proxy there: {}", arriving.target.error().text);
      return;
    }
    line("target  {}", arriving.target->upstream.to_string());
    const Verdict& verdict = *arriving.verdict;
    switch (verdict.decision) {
      case Verdict::Decision::kAllow:
        if (verdict.policy.empty()) {
          line("policy  allowed: no ALLOW policy applies, and no DENY policy matches");
        } else {
          line("policy  allowed by {}", verdict.policy.view());
        }
        break;
      case Verdict::Decision::kDeny: line("policy  denied: {}", verdict.text); break;
      case Verdict::Decision::kUnknownPolicy: line("policy  denied unless it comes in time: {}", verdict.text); break;
    }
    for (const PolicyLine& policy : arriving.policies) this->policy(policy);
  }

  void policy(const PolicyLine& policy) {
    if (policy.spec == nullptr) {
      line("  {}  {}, and it is not there", policy.name, policy.applies);
      return;
    }
    const bool deny = policy.spec->action == PolicyAction::kDeny;
    const std::string what =
        fmt::format("{}{}, {}", deny ? "DENY" : "ALLOW", policy.spec->dry_run ? ", dry run" : "", policy.applies);
    if (policy.reason.matches) {
      line("  {}  ({}) matches by rule {}{}", policy.name, what, *policy.reason.rule, policy.decides ? ": this decides" : "");
      return;
    }
    line("  {}  ({}) does not match{}", policy.name, what, policy.spec->rules.empty() ? ": it has no rules" : "");
    for (size_t r = 0; r < policy.reason.rules.size(); ++r) {
      const RuleReason& rule = policy.reason.rules[r];
      for (const MatchMiss& miss : rule.misses) {
        const std::string place = fmt::format("rules[{}][{}][{}]", r, rule.clause, miss.match);
        if (miss.fields.empty()) line("    {} is empty: it never holds", place);
        for (const FieldMiss& field : miss.fields) {
          const bool negated = field.field.starts_with("not");
          line("    {}.{}: {} is {} {}", place, field.field, field.is, negated ? "among" : "not among", field.wanted);
        }
      }
    }
  }

  std::string out_;
  size_t indent_ = 0;
};

}  // namespace

std::string explanation_text(const KnownState& state, const Question& question, const Explanation& explanation) {
  Text text;
  text.line("state   {}: {} workloads, {} services, {} policies", state.origin, state.snapshot->workload_count(),
            state.snapshot->service_count(), state.snapshot->policy_count());
  text.line("from    {}, {}", question.source->uid.view(), question.source->identity.view());
  text.line("to      {}{}: {}", question.destination.to_string(),
            question.found.empty() ? "" : fmt::format(" (\"{}\" is {})", question.asked, question.found),
            explanation.destination);
  text.ways(explanation);
  return text.take();
}

}  // namespace zt::ztunnel
