#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "base/log.h"

namespace zt::log {

// A parsed filter: levels by target, the most specific (longest) matching target wins. Plain data, one thread
// at a time.
class FilterSpec {
 public:
  static constexpr size_t kMaxSpecBytes = 4096;
  static constexpr size_t kMaxDirectives = 256;

  static Result<FilterSpec> parse(std::string_view spec);
  // Adds the directives of `later`; those for the same target replace ours.
  void merge(const FilterSpec& later);
  [[nodiscard]] Level level_for(std::string_view target) const;
  [[nodiscard]] std::string to_string() const;  // longest target first, the bare level last
  [[nodiscard]] size_t size() const { return directives_.size(); }
  // One clause for every target, and no other.
  [[nodiscard]] bool is_one_level() const { return directives_.size() == 1 && directives_.front().target.empty(); }

 private:
  struct Directive {
    std::string target;  // empty: every target
    Level level = Level::kOff;
  };
  void add(Directive directive);
  std::vector<Directive> directives_;  // longest target first
};

// "ztunnel::" + target, except for "access" and "ztunnel" themselves.
[[nodiscard]] std::string full_target(std::string_view target);

}  // namespace zt::log
