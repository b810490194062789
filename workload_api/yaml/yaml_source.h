#pragma once
#include <string>
#include <string_view>

#include "base/result.h"
#include "workload_api/store/store.h"

namespace zt::workload_api {

// The local configuration (contract §6.11): a map of `workloads`, `services` and `policies`, each a list. Workloads have the keys
// of the admin dump (§10.6), so a dumped workload can be pasted. Strict: an unknown or repeated key, a resource that is there
// twice, a value of the wrong kind are errors of the whole file. Limits: yaml::Limits, of which `bytes` is for the file.
//
// Differences from the peer, all towards accepting more: `services` and `uid` of a workload may be absent (the uid is then made
// of namespace and name), and absent trustDomain, serviceAccount and clusterId get the defaults that they have over xDS.
//
// Errors are kInvalidInput, with text "<file>:<line>:<column>: <where in the document>: <why>". Any thread.
[[nodiscard]] Result<Batch> parse_local_config(std::string_view text, std::string_view file_name);

// The same of a file, piece by piece: neither the file nor a tree of it is ever in memory as a whole. What `present` (may be null)
// already has, equal, is not made again. Blocks on file I/O; errors also as in base/file.h.
[[nodiscard]] Result<LocalContent> load_local_config(const std::string& path, const SnapshotPtr& present = nullptr);

// Tells one content of the file from another. Blocks on file I/O.
[[nodiscard]] Result<uint64_t> digest_local_config(const std::string& path);

}  // namespace zt::workload_api
