#pragma once
#include "base/yaml/reader.h"
#include "workload_api/store/store.h"
#include "workload_api/yaml/outline.h"

namespace zt::workload_api {

// Makes resources of the items of a local file's lists, but for those that `present` (may be null) has, equal. All throw
// yaml::Refusal. One file, one thread.
class Collector {
 public:
  explicit Collector(const Snapshot* present);

  // A list begins with its key; one of its items.
  void begin(LocalList list, const yaml::Value& key);
  void item(LocalList list, const yaml::Value& item);

  // A whole document.
  void read(yaml::Reader& reader);

  [[nodiscard]] const Outline& outline() const { return outline_; }
  // What the items say, with all their names, and where they are; each once, and last.
  [[nodiscard]] LocalContent take();
  [[nodiscard]] Outline take_outline() { return std::move(outline_); }

 private:
  Str workload(const yaml::Value& item);
  Str service(const yaml::Value& item);
  Str policy(const yaml::Value& item);

  const Snapshot* present_;
  LocalContent content_;
  Interner texts_;
  LocalNames names_;
  Outline outline_;
};

}  // namespace zt::workload_api
