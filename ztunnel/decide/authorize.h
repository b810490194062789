#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "mesh/reason.h"
#include "workload_api/model/policy.h"
#include "workload_api/store/snapshot.h"

namespace zt::ztunnel {

// Something that a dry-run policy would have done (contract §5.2); for the log only.
struct DryRunNote {
  enum class Kind : uint8_t {
    kWouldDeny,       // `policy`, a DENY, matches
    kWouldAllow,      // `policy`, an ALLOW, matches
    kNoneWouldAllow,  // there are dry-run ALLOWs (`policy` is the first), none matches, and no ALLOW is
                      // enforced
  };
  Kind kind;
  workload_api::Str policy;  // "namespace/name"
  friend bool operator==(const DryRunNote&, const DryRunNote&) = default;
};

struct Verdict {
  enum class Decision : uint8_t {
    kAllow,
    kDeny,
    // The workload names a policy that has not been delivered, and no policy that has been denies. The
    // control plane sends workloads before the policies they name, so the caller waits a moment for a newer
    // snapshot and asks again; when its limit has passed it denies with Reason::kPolicyUnknown. Letting such
    // a connection in would be a hole in every DENY and STRICT.
    kUnknownPolicy,
  };
  Decision decision = Decision::kAllow;
  Reason reason = Reason::kOk;      // kPolicyDenied or kPolicyUnknown
  std::string text;                 // the reason as operators know it (§10.3); empty for kAllow
  workload_api::Str policy;         // the policy that decided; empty if the absence of one did
  std::vector<DryRunNote> dry_run;  // of the policies that were looked at

  [[nodiscard]] bool allowed() const { return decision == Decision::kAllow; }
};

// What a policy that the workload names and that has not been delivered means.
enum class MissingPolicy : uint8_t {
  kUndecided,  // kUnknownPolicy, see above
  kSkip,       // it is passed over, as the peer does (contract §5.1): a hole while it is on its way
};

// May `subject` connect to `workload` (§5)? A pure function; allocates only to report a denial or a dry run.
// Any thread.
[[nodiscard]] Verdict authorize(const workload_api::Snapshot& snapshot, const workload_api::Workload& workload,
                                const workload_api::PolicySubject& subject, MissingPolicy missing = MissingPolicy::kUndecided);

}  // namespace zt::ztunnel
