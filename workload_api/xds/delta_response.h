#pragma once
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "workload_api/model/str.h"
#include "workload_api/store/store.h"
#include "workload_api/xds/resource_type.h"

namespace zt::workload_api {

// Longest message that the control plane may send (contract §6.1).
inline constexpr size_t kMaxResponseBytes = 200u << 20;
// Resources, removals and aliases that one message may have together: four times a mesh of a million
// workloads. On the wire each may take two bytes, with us a hundred.
inline constexpr size_t kMaxResponseEntries = 4'000'000;
// Longest resource; it may hold as much that is short on the wire and long in memory. etcd takes a tenth of
// it.
inline constexpr size_t kMaxResourceBytes = 16u << 20;

// One DeltaDiscoveryResponse, decoded and converted; what the control thread has left to do is to apply it.
struct DeltaResponse {
  struct Named {
    Str name;     // of the resource, which need not be the workload's uid
    Str version;  // may be empty
  };
  std::string type_url;
  ResourceType type = ResourceType::kOther;
  std::string nonce;
  Batch batch;                       // resources that are well-formed, and the removals
  std::vector<Named> accepted;       // in the order of the message
  std::vector<std::string> aliases;  // other names of the resources: answers to on-demand requests
  std::vector<Rejected> rejected;    // malformed ones, first those of bad content, then those of bad encoding
  size_t resources = 0;              // in the message
  size_t bytes = 0;                  // of the message
};

// Decodes a message that lies in memory in pieces. A resource that is malformed is refused by name and does
// not harm the others; the whole fails (kInvalidInput) only if the message's own framing is broken or it is
// beyond a limit. Resources
// of types we do not know are counted and not looked at. Pure; any thread, but not a worker: a million
// workloads take seconds.
[[nodiscard]] Result<DeltaResponse> decode_response(std::span<const std::string_view> pieces);
[[nodiscard]] Result<DeltaResponse> decode_response(std::string_view bytes);

}  // namespace zt::workload_api
