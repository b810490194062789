#pragma once
#include <span>
#include <string_view>

#include "ztunnel/config/config.h"

namespace zt::ztunnel {

// One row of the table of settings: it drives parsing, `ztunnel help` and `ztunnel settings`.
struct Setting {
  std::string_view name;          // of the variable; ends in '*' for a family of names, which parse_config handles
  std::string_view default_text;  // as one would write it; a word in parentheses where it depends on other things
  std::string_view help;
  // Puts the text's value into the config. Null where the value depends on other variables or on files:
  // parse_config does it. A warning that it adds is the end of a sentence that begins with NAME=VALUE.
  Result<> (*set)(Config& config, std::string_view text) = nullptr;
  bool secret = false;         // errors do not quote the value
  std::string_view unit = "";  // of the value; empty: text
};

[[nodiscard]] std::span<const Setting> settings();

}  // namespace zt::ztunnel
