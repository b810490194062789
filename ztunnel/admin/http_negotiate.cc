#include "ztunnel/admin/http_negotiate.h"

#include <algorithm>
#include <optional>

#include "base/text.h"

namespace zt::ztunnel {
namespace {

constexpr int kQualityOne = 1000;

// Takes what stands before the next `separator` off `text`.
std::string_view take_until(std::string_view& text, char separator) {
  const auto end = std::min(text.find(separator), text.size());
  const auto part = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return trim(part);
}

// Of "q=0.5": 500. What we cannot read counts as 1, as if it were not there.
int quality_of(std::string_view parameters) {
  while (!parameters.empty()) {
    const auto parameter = take_until(parameters, ';');
    if (!parameter.starts_with("q=") && !parameter.starts_with("Q=")) continue;
    const auto number = parameter.substr(2);
    if (number.empty() || number.front() != '0') return kQualityOne;
    int quality = 0, scale = 100;
    for (const char digit : number.substr(std::min<size_t>(2, number.size()))) {
      if (digit < '0' || digit > '9') return kQualityOne;
      quality += (digit - '0') * scale;
      scale /= 10;
    }
    return quality;
  }
  return kQualityOne;
}

// What the header's entry for `value` says, if it has one.
std::optional<int> entry_for(std::string_view header, std::string_view value) {
  while (!header.empty()) {
    auto entry = take_until(header, ',');
    const auto name = take_until(entry, ';');
    if (equals_ignoring_case(name, value)) return quality_of(entry);
  }
  return std::nullopt;
}

std::string percent_decode(std::string_view text) {
  const auto digit = [](char c) -> int {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && digit(text[i + 1]) >= 0 && digit(text[i + 2]) >= 0) {
      out += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
      i += 2;
    } else {
      out += text[i] == '+' ? ' ' : text[i];
    }
  }
  return out;
}

}  // namespace

bool header_names(std::string_view header, std::string_view value) { return entry_for(header, value).value_or(0) > 0; }

int header_quality(std::string_view header, std::string_view value) {
  if (const auto own = entry_for(header, value)) return *own;
  return entry_for(header, "*").value_or(0);
}

QueryValue query_value(std::string_view query, std::string_view name) {
  while (!query.empty()) {
    auto pair = take_until(query, '&');
    const auto equals = std::min(pair.find('='), pair.size());
    if (pair.substr(0, equals) == name) {
      return {true, percent_decode(pair.substr(std::min(equals + 1, pair.size())))};
    }
  }
  return {};
}

}  // namespace zt::ztunnel
