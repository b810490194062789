#pragma once
#include "base/yaml/value.h"
#include "workload_api/model/model.h"

namespace zt::workload_api {

// A policy in the form of the admin dump (§10.6): rules are a list of lists of lists of matches. Throws
// yaml::Refusal.
[[nodiscard]] Ref<Authorization> read_policy(const yaml::Value& value);

}  // namespace zt::workload_api
