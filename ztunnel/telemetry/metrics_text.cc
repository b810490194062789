#include "ztunnel/telemetry/metrics_text.h"

#include "base/utf8.h"

namespace zt::ztunnel {

void append_label_value(std::string& out, std::string_view value) {
  const size_t limit = out.size() + kMaxLabelBytes;
  while (!value.empty() && out.size() < limit) {
    const char c = value.front();
    const size_t length = utf8_length(value);
    if (c == '\\' || c == '"') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (length > 0) {
      out.append(value.substr(0, length));
    } else {
      out += "\ufffd";
    }
    value.remove_prefix(length > 0 ? length : 1);
  }
}

void append_label(std::string& out, std::string_view name, std::string_view value) {
  if (!out.ends_with('{')) out += ',';
  out.append(name).append("=\"");
  append_label_value(out, value);
  out += '"';
}

void append_family(std::string& out, std::string_view name, std::string_view help, std::string_view type, std::string_view unit) {
  out.append("# HELP ").append(name).append(" ").append(help).append("\n");
  out.append("# TYPE ").append(name).append(" ").append(type).append("\n");
  if (!unit.empty()) out.append("# UNIT ").append(name).append(" ").append(unit).append("\n");
}

}  // namespace zt::ztunnel
