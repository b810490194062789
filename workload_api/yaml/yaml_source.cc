#include "workload_api/yaml/yaml_source.h"

#include <absl/container/flat_hash_set.h>
#include <fmt/format.h>

#include <array>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/yaml/reader.h"
#include "mesh/reason.h"
#include "workload_api/store/tables.h"
#include "workload_api/yaml/yaml_mesh.h"
#include "workload_api/yaml/yaml_policy.h"

namespace zt::workload_api {
namespace {

using yaml::Value;

constexpr yaml::Limits kLimits;

class Collector {
 public:
  explicit Collector(const Snapshot* present) : present_(present) {
    if (present_ != nullptr) content_.compared_with = present_->generation();
  }

  LocalContent read(yaml::Source& source) {
    const std::array<yaml::Reader::Section, 3> sections{{
        {"workloads", [this](const Value& item) { workload(item); }},
        {"services", [this](const Value& item) { service(item); }},
        {"policies", [this](const Value& item) { policy(item); }},
    }};
    // Most likely a file that somebody is about to fill: taking it for an empty mesh would drop everything.
    yaml::Reader(source, kLimits).sections(sections, "nothing in it (an empty configuration is written {})");
    return std::move(content_);
  }

 private:
  using Names = absl::flat_hash_set<Str, StrHash, StrEqual>;

  void workload(const Value& item) {
    Ref<Workload> made = read_workload(item, texts_);
    canonicalize(*made);
    const Workload* known = present_ != nullptr ? present_->workload(made->uid.view()) : nullptr;
    once(addresses_, known != nullptr ? known->uid : made->uid, item);
    if (known != nullptr) {
      made->identity = known->identity;  // follows from the rest
      if (*made == *known) {
        content_.same_workloads.emplace_back(known);
        return;
      }
      made->identity = {};
    }
    content_.batch.workloads.push_back(std::move(made));
  }

  void service(const Value& item) {
    Ref<Service> made = read_service(item, texts_);
    made->key = NamespacedHostname{made->ns, made->hostname}.to_string();
    const ServiceEntry* entry = present_ != nullptr ? present_->service(made->key.view()) : nullptr;
    once(addresses_, entry != nullptr ? entry->service().key : made->key, item);
    if (entry != nullptr && *made == entry->service()) return content_.same_services.push_back(entry->service_ptr());
    content_.batch.services.push_back(std::move(made));
  }

  void policy(const Value& item) {
    Ref<Authorization> made = read_policy(item);
    once(policies_, made->key, item);
    const Policy* known = present_ != nullptr ? present_->policy(made->key.view()) : nullptr;
    if (known != nullptr && *made == *known->spec) return content_.same_policies.push_back(known->spec);
    content_.batch.policies.push_back(std::move(made));
  }

  // Two resources of one name: the second is the mistake.
  static void once(Names& names, const Str& name, const Value& item) {
    if (!names.insert(name).second) item.refuse(fmt::format("\"{}\" is there twice", name.view()));
  }

  const Snapshot* present_;
  LocalContent content_;
  Interner texts_;
  Names addresses_, policies_;
};

class FileSource final : public yaml::Source {
 public:
  FileSource(const std::string& path, OpenFile file) : path_(path), file_(std::move(file)) {}
  Result<size_t> read(uint64_t offset, std::span<char> into) override { return read_at(file_.fd.get(), offset, into, path_); }

 private:
  const std::string& path_;
  const OpenFile file_;
};

}  // namespace

Result<Batch> parse_local_config(std::string_view text, std::string_view file_name) {
  if (text.size() > kLimits.bytes)
    return yaml::refused(file_name, {{}, fmt::format("{} bytes, more than {}", text.size(), kLimits.bytes)});
  yaml::TextSource source(text);
  return yaml::checked(file_name, [&] { return Collector(nullptr).read(source).batch; });
}

Result<LocalContent> load_local_config(const std::string& path, const SnapshotPtr& present) {
  ZT_ASSIGN(OpenFile file, open_file(path, kLimits.bytes));
  FileSource source(path, std::move(file));
  return yaml::checked(path, [&] { return Collector(present.get()).read(source); });
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
