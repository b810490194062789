#include "ztunnel/config/config_resolver.h"

#include <algorithm>

#include "base/text.h"

namespace zt::ztunnel {
namespace {

constexpr uint16_t kDnsPort = 53;
constexpr std::string_view kBlanks = " \t\r";

// Takes the next word off `text`; empty at the end.
std::string_view next_word(std::string_view& text) {
  text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
  const auto word = text.substr(0, text.find_first_of(kBlanks));
  text.remove_prefix(word.size());
  return word;
}

void parse_option(std::string_view option, ResolverConfig& config) {
  const auto number_of = [&](std::string_view name, uint32_t low, uint32_t high, uint32_t& out) {
    if (!option.starts_with(name)) return;
    if (const auto value = whole_number<uint32_t>(option.substr(name.size()))) out = std::clamp(*value, low, high);
  };
  number_of("ndots:", 0, 15, config.ndots);
  number_of("timeout:", 1, 30, config.timeout_seconds);
  number_of("attempts:", 1, 5, config.attempts);
}

}  // namespace

ResolverConfig parse_resolv_conf(std::string_view text) {
  ResolverConfig config;
  while (!text.empty()) {
    auto line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (line.starts_with('#') || line.starts_with(';')) continue;
    const auto keyword = next_word(line);
    if (keyword == "nameserver") {
      const auto address = IpAddress::parse(next_word(line));
      if (address && config.name_servers.size() < ResolverConfig::kMaxNameServers) {
        config.name_servers.push_back({*address, kDnsPort});
      }
    } else if (keyword == "search" || keyword == "domain") {
      config.search.clear();  // the last one counts
      for (auto word = next_word(line); !word.empty(); word = next_word(line)) {
        while (word.ends_with('.')) word.remove_suffix(1);
        if (!word.empty() && config.search.size() < ResolverConfig::kMaxSearchDomains) config.search.emplace_back(word);
      }
    } else if (keyword == "options") {
      for (auto word = next_word(line); !word.empty(); word = next_word(line)) parse_option(word, config);
    }
  }
  return config;
}

}  // namespace zt::ztunnel
