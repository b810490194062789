#include "ztunnel/dns/names.h"

#include <algorithm>
#include <array>

#include "base/text.h"

namespace zt::ztunnel::dns {

namespace {

// The last label of `name`, taken off it.
std::string_view take_last_label(std::string_view& name) {
  const size_t dot = name.rfind('.');
  const auto label = dot == std::string_view::npos ? name : name.substr(dot + 1);
  name = dot == std::string_view::npos ? std::string_view{} : name.substr(0, dot);
  return label;
}

bool take_suffix(std::string_view& name, std::string_view suffix) {
  if (!name.ends_with(suffix)) return false;
  name.remove_suffix(suffix.size());
  return true;
}

}  // namespace

NameRules NameRules::of_pod(std::string_view ns, std::string_view cluster_domain) {
  NameRules rules{.ns = std::string(ns), .cluster_domain = std::string(cluster_domain), .search = {}};
  rules.search = {rules.ns + ".svc." + rules.cluster_domain, "svc." + rules.cluster_domain, rules.cluster_domain};
  return rules;
}

size_t label_count(std::string_view name) { return name.empty() ? 0 : static_cast<size_t>(std::ranges::count(name, '.')) + 1; }

std::string_view without_first_label(std::string_view name) {
  const size_t dot = name.find('.');
  return dot == std::string_view::npos ? std::string_view{} : name.substr(dot + 1);
}

std::optional<IpAddress> reverse_address(std::string_view name) {
  if (take_suffix(name, ".in-addr.arpa")) {
    std::array<uint8_t, 4> bytes{};
    for (uint8_t& byte : bytes) {
      const auto label = take_last_label(name);
      if (label.size() > 1 && label.front() == '0') return std::nullopt;
      const auto number = whole_number<uint8_t>(label);
      if (!number) return std::nullopt;
      byte = *number;
    }
    return name.empty() ? std::optional(IpAddress::v4(bytes)) : std::nullopt;
  }
  if (!take_suffix(name, ".ip6.arpa")) return std::nullopt;
  std::array<uint8_t, 16> bytes{};
  for (size_t digit = 0; digit < 2 * bytes.size(); ++digit) {
    const auto label = take_last_label(name);
    const auto value = whole_number<uint8_t>(label, 16);
    if (label.size() != 1 || !value) return std::nullopt;
    bytes[digit / 2] = static_cast<uint8_t>(bytes[digit / 2] << 4 | *value);
  }
  return name.empty() ? std::optional(IpAddress::v6(bytes)) : std::nullopt;
}

std::string dashed(const IpAddress& ip) {
  std::string text = ip.to_string();
  std::ranges::replace(text, ip.is_v4() ? '.' : ':', '-');
  return text;
}

std::optional<IpAddress> parse_dashed(std::string_view label) {
  // Longer than any address, or a name.
  if (label.size() < 2 || label.size() > 39 || label.find_first_not_of("0123456789abcdef-") != std::string_view::npos) {
    return std::nullopt;
  }
  for (const char separator : {'.', ':'}) {
    std::string text(label);
    std::ranges::replace(text, '-', separator);
    if (const auto ip = IpAddress::parse(text)) return ip;
  }
  return std::nullopt;
}

}  // namespace zt::ztunnel::dns
