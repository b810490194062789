#pragma once
#include <string_view>

#include "base/result.h"
#include "workload_api/store/store.h"

namespace zt::workload_api {

// What a local file says: a batch without removals, for Store::replace_local.
using LocalConfig = Batch;

// Parses the local configuration (contract §6.11): a map of `workloads`, `services` and `policies`, each a
// list. Workloads have the keys of the admin dump (§10.6), so a dumped workload can be pasted. Strict: an
// unknown or repeated key, a resource that is there twice, a value of the wrong kind are errors of the whole
// file. Limits: yaml_reader.h.
//
// Differences from the peer, all towards accepting more: `services` and `uid` of a workload may be absent
// (the uid is then made of namespace and name), and absent trustDomain, serviceAccount and clusterId get the
// defaults that they have over xDS.
//
// Errors are kInvalidInput, with text "<file>:<line>:<column>: <where in the document>: <why>". Pure; any
// thread.
[[nodiscard]] Result<LocalConfig> parse_local_config(std::string_view text, std::string_view file_name);

// Reads and parses a file. Blocks on file I/O.
[[nodiscard]] Result<LocalConfig> load_local_config(const std::string& path);

// The file's bytes; refuses what is no regular file or larger than yaml::kMaxBytes.
[[nodiscard]] Result<std::string> read_local_config(const std::string& path);

}  // namespace zt::workload_api
