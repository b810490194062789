#pragma once
#include <string>
#include <string_view>

namespace zt::ztunnel {

// Longest label value; the rest is cut. Names of Kubernetes and SPIFFE ids are shorter.
inline constexpr size_t kMaxLabelBytes = 1024;

// A label's value in OpenMetrics text: backslash, quote and line feed escaped, not UTF-8 replaced.
void append_label_value(std::string& out, std::string_view value);
// `name="value"`, after a comma unless `out` ends with the opening brace.
void append_label(std::string& out, std::string_view name, std::string_view value);

// "# HELP", "# TYPE" and, if there is a unit, "# UNIT".
void append_family(std::string& out, std::string_view name, std::string_view help, std::string_view type,
                   std::string_view unit = {});

}  // namespace zt::ztunnel
