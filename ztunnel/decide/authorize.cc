#include "ztunnel/decide/authorize.h"

#include <fmt/format.h>

#include "mesh/reason.h"

namespace zt::ztunnel {

using workload_api::Policy;
using workload_api::PolicyAction;
using workload_api::PolicySubject;
using workload_api::Snapshot;
using workload_api::Str;
using workload_api::Workload;

Verdict authorize(const Snapshot& snapshot, const Workload& workload, const PolicySubject& subject, MissingPolicy missing) {
  Verdict verdict;
  Str unknown;
  bool any_allow = false, any_dry_run_allow = false;

  // DENY policies first; the same walk finds out whether there are others worth a second one.
  snapshot.for_each_policy_of(workload, [&](const Policy* policy, std::string_view name) {
    if (policy == nullptr) {
      if (unknown.empty()) unknown = Str(name);
      return true;
    }
    if (policy->spec->action == PolicyAction::kAllow) {
      (policy->spec->dry_run ? any_dry_run_allow : any_allow) = true;
      return true;
    }
    // Once denied, only dry runs are still of interest.
    if ((verdict.decision == Verdict::Decision::kDeny && !policy->spec->dry_run) || !policy->matcher.matches(subject))
      return true;
    if (policy->spec->dry_run) {
      verdict.dry_run.push_back({DryRunNote::Kind::kWouldDeny, policy->spec->key});
    } else {
      verdict.decision = Verdict::Decision::kDeny;
      verdict.reason = Reason::kPolicyDenied;
      verdict.text = fmt::format("explicitly denied by: {}", policy->spec->key.view());
      verdict.policy = policy->spec->key;
    }
    return true;
  });
  if (verdict.decision == Verdict::Decision::kDeny) return verdict;

  bool allowed = false;
  if (any_allow || any_dry_run_allow) {
    Str first_dry_run;
    bool would_allow = false;
    snapshot.for_each_policy_of(workload, [&](const Policy* policy, std::string_view) {
      if (policy == nullptr || policy->spec->action != PolicyAction::kAllow) return true;
      if (policy->spec->dry_run) {
        if (first_dry_run.empty()) first_dry_run = policy->spec->key;
        if (policy->matcher.matches(subject)) {
          would_allow = true;
          verdict.dry_run.push_back({DryRunNote::Kind::kWouldAllow, policy->spec->key});
        }
      } else if (!allowed && policy->matcher.matches(subject)) {
        allowed = true;
        verdict.policy = policy->spec->key;
      }
      return true;
    });
    if (any_dry_run_allow && !any_allow && !would_allow)
      verdict.dry_run.push_back({DryRunNote::Kind::kNoneWouldAllow, first_dry_run});
  }

  if (!unknown.empty() && missing == MissingPolicy::kUndecided) {
    verdict.decision = Verdict::Decision::kUnknownPolicy;
    verdict.reason = Reason::kPolicyUnknown;
    verdict.text = fmt::format("policy not delivered: {}", unknown.view());
    verdict.policy = unknown;
  } else if (any_allow && !allowed) {
    verdict.decision = Verdict::Decision::kDeny;
    verdict.reason = Reason::kPolicyDenied;
    verdict.text = "allow policies exist, but none allowed";
  }
  return verdict;
}

}  // namespace zt::ztunnel
