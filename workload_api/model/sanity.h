#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "workload_api/model/model.h"

// What can be told from a resource alone: it is well-formed and yet cannot mean what somebody meant by it. Pure; any thread.
namespace zt::workload_api {

// A workload that nobody can prove to be (identity_part_fault()): where, and why.
struct DeadIdentity {
  std::string uid, field, value, why;
  size_t workloads = 0;  // of which this is the first
};
// Notes the workload in `found` if it is one. Costs a look at three short texts.
void note_dead_identity(const Workload& workload, DeadIdentity& found);

// A value of a policy's rule that equals nothing that there can be.
struct DeadValue {
  std::string field;  // "rules[0][1][0].principals[2]"
  std::string value;
  std::string why;
  size_t more = 0;  // others after this one
};
// The first, if there is one. In a positive field it never matches: an ALLOW lets nobody in by it, a DENY keeps nobody out. In a
// not… field it always holds: it excepts nobody.
[[nodiscard]] std::optional<DeadValue> dead_value(const Authorization& policy);
// All of them, each by itself.
[[nodiscard]] std::vector<DeadValue> dead_values(const Authorization& policy);

}  // namespace zt::workload_api
