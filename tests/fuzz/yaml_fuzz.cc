// The local configuration file: no text may crash the parser, and what it accepts must be fit for the store.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "workload_api/yaml/yaml_source.h"

using namespace zt::workload_api;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto config = parse_local_config({reinterpret_cast<const char*>(data), size}, "fuzz.yaml");
  if (!config) {
    if (config.error().text.empty()) std::abort();
    return 0;
  }
  Store store({.node_name = "n1"});
  if (!store.replace_local(std::move(*config)).empty()) std::abort();
  const SnapshotPtr snapshot = store.snapshot();
  snapshot->for_each_service([&](const ServiceEntry& entry) {
    snapshot->for_each_workload([&](const Workload& source) {
      for (size_t i = 0; i < entry.service().ports.size(); ++i)
        for (const auto mode : {ResolutionMode::kStandard, ResolutionMode::kWaypoint})
          (void)entry.choose(source, entry.service().ports[i].first, mode, i);
    });
  });
  store.replace_local({});
  if (store.snapshot()->workload_count() != 0 || store.snapshot()->service_count() != 0) std::abort();
  return 0;
}
