#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "workload_api/store/snapshot.h"

namespace zt::ztunnel {

// What a proxy knows, from a file or from a proxy that runs.
struct KnownState {
  workload_api::SnapshotPtr snapshot;
  std::string origin;                                               // for people: where it is from
  std::string network;                                              // NETWORK; a dump says it
  std::vector<uint16_t> illegal_ports{15001, 15006, 15008, 15080};  // contract §1.7; a dump says them
  std::vector<std::string> ignored;                                 // what of it was not understood
};

// The local configuration file (workload_api/yaml/yaml_source.h). Blocks on file I/O.
[[nodiscard]] Result<KnownState> state_of_file(const std::string& path);

// A config_dump, ours or istio/ztunnel's. What it does not say, whoever wrote it: the ports of endpoints that are not healthy. What
// we do not understand of a resource is left out and named in `ignored`; what is no dump at all is an error (kInvalidInput).
[[nodiscard]] Result<KnownState> state_of_dump(std::string_view json, const std::string& name);

}  // namespace zt::ztunnel
