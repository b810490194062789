#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "workload_api/model/policy.h"

// Why a policy matches or does not: asked of the matcher that the proxy uses (PolicyMatcher), rule by rule, clause by clause, field
// by field. Pure; any thread.
namespace zt::ztunnel {

// A field of a match that does not hold.
struct FieldMiss {
  std::string field;   // as a file writes it: "notPrincipals"
  std::string is;      // what the connection has: "cluster.local/ns/shop/sa/web"; "nothing" if it has none
  std::string wanted;  // the values of the field, the first few
};

// Places count from 0, as in the file's lists.
struct MatchMiss {
  size_t match = 0;
  std::vector<FieldMiss> fields;  // empty: the match has no field and can never hold
};

struct RuleReason {
  bool holds = false;
  size_t clause = 0;              // the first that does not hold
  std::vector<MatchMiss> misses;  // of that clause
};

struct PolicyReason {
  bool matches = false;
  std::optional<size_t> rule;     // the first that holds
  std::vector<RuleReason> rules;  // up to that one
};

[[nodiscard]] PolicyReason policy_reason(const workload_api::Authorization& policy, const workload_api::PolicySubject& subject);

}  // namespace zt::ztunnel
