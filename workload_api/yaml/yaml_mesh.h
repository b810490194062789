#pragma once
#include <string>
#include <utility>
#include <vector>

#include "base/yaml/value.h"
#include "workload_api/model/model.h"
#include "workload_api/store/interner.h"

// The workloads and services of a local file, in the form of the admin dump (contract §10.6). All throw yaml::Refusal. Texts that
// many resources share are made by `texts`.
namespace zt::workload_api {

[[nodiscard]] Ref<Workload> read_workload(const yaml::Value& value, Interner& texts);
// The admin dump lists a service's endpoints: the uid of each and its ports. In a local file they are no part of a service, and
// are refused unless `endpoints` is given.
using DumpedEndpoints = std::vector<std::pair<std::string, PortMap>>;
[[nodiscard]] Ref<Service> read_service(const yaml::Value& value, Interner& texts, DumpedEndpoints* endpoints = nullptr);

}  // namespace zt::workload_api
