#include "workload_api/yaml/yaml_source.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "base/file.h"
#include "base/yaml/reader.h"
#include "workload_api/store/tables.h"
#include "workload_api/yaml/collector.h"
#include "workload_api/yaml/local_version.h"

namespace zt::workload_api {
namespace {

constexpr yaml::Limits kLimits;

}  // namespace

Result<Batch> parse_local_config(std::string_view text, std::string_view file_name) {
  if (text.size() > kLimits.bytes)
    return yaml::refused(file_name, {{}, fmt::format("{} bytes, more than {}", text.size(), kLimits.bytes)});
  yaml::TextSource source(text);
  return yaml::checked(file_name, [&] {
    Collector collector(nullptr);
    yaml::Reader reader(source, kLimits);
    collector.read(reader);
    return collector.take().batch;
  });
}

Result<LocalContent> load_local_config(const std::string& path, const SnapshotPtr& present) {
  ZT_ASSIGN(LocalVersion version, read_local_version(path, {.present = present, .worth_cutting = SIZE_MAX}));
  return std::move(version.content);
}

Result<uint64_t> digest_local_config(const std::string& path) {
  ZT_ASSIGN(const OpenFile file, open_file(path, kLimits.bytes));
  std::vector<char> piece(64 * 1024);
  uint64_t digest = 0;
  for (uint64_t offset = 0;; offset += piece.size()) {
    ZT_ASSIGN(const size_t got, read_at(file.fd.get(), offset, piece, path));
    digest = hashing::mix(digest, hashing::of(std::string_view(piece.data(), got)));
    if (got < piece.size()) return digest;
  }
}

}  // namespace zt::workload_api
