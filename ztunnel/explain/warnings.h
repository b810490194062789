#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "base/yaml/value.h"
#include "workload_api/store/snapshot.h"

namespace zt::ztunnel {

// Where the resources of a file are in it, by their names ("policy namespace/name" of a policy). Nodes live as long as the reader.
class Places {
 public:
  // False: there is one of that name.
  bool add(std::string name, const yaml::Node& item) { return items_.emplace(std::move(name), &item).second; }
  // It was not understood as it was meant: of such nothing is warned.
  void set_faulty(const std::string& name) { faulty_.insert(name); }
  [[nodiscard]] bool faulty(const std::string& name) const { return faulty_.contains(name); }
  // Of the item, or of what is at `path` in it ("rules[0][1].ports"); of as much of the path as there is.
  [[nodiscard]] yaml::Mark find(const std::string& name, std::string_view path = {}) const;

 private:
  std::unordered_map<std::string, const yaml::Node*> items_;
  std::unordered_set<std::string> faulty_;
};

// What of a file can never match, be found or be chosen, as far as the file itself tells. `snapshot` is of what the file says.
using Warn = std::function<void(const yaml::Mark&, std::string)>;
void find_warnings(const workload_api::Snapshot& snapshot, const Places& places, const Warn& warn);

}  // namespace zt::ztunnel
