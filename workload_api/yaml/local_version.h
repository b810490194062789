#pragma once
#include <memory>
#include <stop_token>
#include <string>

#include "base/result.h"
#include "workload_api/store/store.h"
#include "workload_api/yaml/pieces.h"

namespace zt::workload_api {

// The local file as it was read once.
struct LocalVersion {
  LocalContent content;
  std::shared_ptr<const Pieces> pieces;  // null: it cannot be cut, or is not worth it
};

struct LocalReading {
  // What is known: what the file says of it, equal, is not made again. May be null.
  SnapshotPtr present = nullptr;
  // The last version that became part of `present`, if it was cut: of the file only what has changed is then parsed, if the change
  // can be read on its own, and the content is an edit.
  std::shared_ptr<const Pieces> before = nullptr;
  std::stop_token stop = {};         // once it is requested, reading ends soon with an error
  size_t worth_cutting = 256 << 10;  // bytes
};

// Reads the file piece by piece: neither it nor a tree of it is ever in memory as a whole. Errors as of load_local_config().
[[nodiscard]] Result<LocalVersion> read_local_version(const std::string& path, const LocalReading& reading);

}  // namespace zt::workload_api
