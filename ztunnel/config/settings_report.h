#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ztunnel/config/config.h"
#include "ztunnel/config/environment.h"

namespace zt::ztunnel {

// One setting as it counts now.
struct SettingReport {
  std::string name;
  std::string value;  // as it is written; where it depends on other things, as it came out. "<hidden>" if it is a secret
  std::string unit;   // of the value; empty: text
  std::string from;   // "default", or what gave it: the variable's own name is said as "environment"
  std::string default_text;
  std::string help;
};

// All settings in the order of the table; of a family of names, those that are set. `config` was parsed from `environment`;
// `memory_limit` is the container's.
[[nodiscard]] std::vector<SettingReport> report_settings(const Environment& environment, const Config& config,
                                                         std::optional<uint64_t> memory_limit);

[[nodiscard]] std::string settings_table(const std::vector<SettingReport>& settings);
[[nodiscard]] std::string settings_json(const std::vector<SettingReport>& settings);

}  // namespace zt::ztunnel
