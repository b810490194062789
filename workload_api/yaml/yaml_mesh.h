#pragma once
#include "base/yaml/value.h"
#include "workload_api/model/model.h"
#include "workload_api/store/interner.h"

// The workloads and services of a local file, in the form of the admin dump (contract §10.6). All throw yaml::Refusal. Texts that
// many resources share are made by `texts`.
namespace zt::workload_api {

[[nodiscard]] Ref<Workload> read_workload(const yaml::Value& value, Interner& texts);
[[nodiscard]] Ref<Service> read_service(const yaml::Value& value, Interner& texts);

}  // namespace zt::workload_api
