#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/yaml/value.h"

namespace zt::ztunnel {

// What is found in a file of ours, in the order of its lines.
struct Finding {
  enum class Kind : uint8_t {
    kMistake,  // the file, or of a pods file the entry, is refused for it
    kWarning,  // it is taken, and cannot mean what somebody meant by it
  };
  Kind kind = Kind::kMistake;
  yaml::Mark mark;
  std::string text;
};

struct CheckedFile {
  enum class What : uint8_t { kMesh, kPods };
  What what = What::kMesh;
  size_t workloads = 0, services = 0, policies = 0, pods = 0;
  std::vector<Finding> findings;
  [[nodiscard]] size_t mistakes() const;
};

// Reads a local file (LOCAL_XDS_PATH) or a pods file, whichever it is by its keys. Where the proxy stops at the first mistake, this
// goes on to the next. An error only if the file cannot be read. Blocks on file I/O.
[[nodiscard]] Result<CheckedFile> check_file(const std::string& path);

// "file:line:column: mistake: …" for each, and a line that sums up.
[[nodiscard]] std::string checked_text(const std::string& path, const CheckedFile& file);
[[nodiscard]] std::string checked_json(const std::string& path, const CheckedFile& file);

}  // namespace zt::ztunnel
