#pragma once
#include "workload_api/model/model.h"
#include "workload_api/yaml/yaml_reader.h"

namespace zt::workload_api::yaml {

// A policy in the form of the admin dump (§10.6): rules are a list of lists of lists of matches. Throws
// Refusal.
[[nodiscard]] Ref<Authorization> policy(const Value& value);

}  // namespace zt::workload_api::yaml
