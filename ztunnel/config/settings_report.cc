#include "ztunnel/config/settings_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "base/json_writer.h"
#include "ztunnel/config/config_proxy.h"
#include "ztunnel/config/config_settings.h"

namespace zt::ztunnel {
namespace {

constexpr std::string_view kHidden = "<hidden>";

struct Outcome {
  std::string value;
  std::string_view from;
};

// What came of a setting that is not in the environment and depends on other things; nothing: its default text says it.
class Derived {
 public:
  Derived(const Environment& environment, const Config& config, std::optional<uint64_t> memory_limit)
      : env_(environment), config_(config), memory_limit_(memory_limit) {
    // It was read when `config` was parsed: it is good.
    if (auto read = read_proxy_config(environment)) proxy_config_ = std::move(*read);
  }

  [[nodiscard]] std::optional<Outcome> of(std::string_view name) const {
    constexpr std::string_view kDefault = "default", kProxyConfig = "PROXY_CONFIG";
    const auto given = [&](std::string_view variable) { return env_.find(variable).has_value(); };
    if (name == "CLUSTER_ID") {
      return Outcome{config_.general.cluster_id, given("ISTIO_META_CLUSTER_ID") ? "ISTIO_META_CLUSTER_ID" : kDefault};
    }
    if (name == "XDS_ADDRESS") {
      return Outcome{config_.control.xds_address.value_or(""), proxy_config_.discovery_address ? kProxyConfig : kDefault};
    }
    if (name == "CA_ADDRESS") return Outcome{config_.control.ca_address.value_or(""), kDefault};
    if (name == "AUTH_TOKEN") {
      return Outcome{config_.control.token.source == Token::Source::kFile ? config_.control.token.value : "", kDefault};
    }
    if (name == "PACKET_MARK") return Outcome{fmt::to_string(config_.socket.mark.value_or(0)), kDefault};
    if (name == "ZT_MEMORY_BUDGET") return Outcome{fmt::to_string(memory_budget(config_.tunnel, memory_limit_)), kDefault};
    if (name == "CONNECTION_TERMINATION_DEADLINE") {
      constexpr std::string_view kGrace = "TERMINATION_GRACE_PERIOD_SECONDS";
      return Outcome{fmt::format("{}s", config_.general.drain_deadline.count()), given(kGrace) ? kGrace : kDefault};
    }
    if (name == "ZTUNNEL_WORKER_THREADS") {
      return Outcome{fmt::to_string(config_.general.worker_threads), proxy_config_.concurrency ? kProxyConfig : kDefault};
    }
    if (name == "ZTUNNEL_CPU_LIMIT") return Outcome{fmt::to_string(env_.logical_cores), kDefault};
    return std::nullopt;
  }

 private:
  const Environment& env_;
  const Config& config_;
  const std::optional<uint64_t> memory_limit_;
  ProxyConfig proxy_config_;
};

}  // namespace

std::vector<SettingReport> report_settings(const Environment& environment, const Config& config,
                                           std::optional<uint64_t> memory_limit) {
  const Derived derived(environment, config, memory_limit);
  std::vector<SettingReport> reports;
  const auto add = [&](const Setting& setting, std::string name, std::string value, std::string_view from) {
    if (setting.secret && from == "environment" && !value.empty()) value = kHidden;
    reports.push_back({.name = std::move(name),
                       .value = std::move(value),
                       .unit = std::string(setting.unit),
                       .from = std::string(from),
                       .default_text = std::string(setting.default_text),
                       .help = std::string(setting.help)});
  };
  for (const auto& setting : settings()) {
    if (setting.name.ends_with('*')) {
      const std::string_view prefix = setting.name.substr(0, setting.name.size() - 1);
      for (const auto& [name, value] : environment.variables) {
        if (name.starts_with(prefix)) add(setting, name, value, "environment");
      }
    } else if (const auto text = environment.find(setting.name)) {
      add(setting, std::string(setting.name), std::string(*text), "environment");
    } else if (auto outcome = derived.of(setting.name)) {
      add(setting, std::string(setting.name), std::move(outcome->value), outcome->from);
    } else {
      std::string_view value = setting.default_text;
      if (value.starts_with('(') && value.ends_with(')')) value = value.substr(1, value.size() - 2);
      add(setting, std::string(setting.name), std::string(value), "default");
    }
  }
  return reports;
}

std::string settings_table(const std::vector<SettingReport>& settings) {
  constexpr size_t kMostValue = 64;
  // One line, and not a whole certificate: `-o json` has all of it.
  const auto short_of = [kMostValue](const std::string& value) {
    const size_t end = std::min(value.find_first_of("\r\n"), kMostValue);
    return end < value.size() ? value.substr(0, end) + "..." : value;
  };
  std::array<size_t, 4> width{};
  const auto widen = [&](size_t column, size_t size) { width.at(column) = std::max(width.at(column), size); };
  for (const auto& each : settings) {
    widen(0, each.name.size());
    widen(1, short_of(each.value).size());
    widen(2, each.unit.size());
    widen(3, each.from.size());
  }
  std::string text;
  const auto line = [&](std::string_view name, std::string_view value, std::string_view unit, std::string_view from,
                        std::string_view default_text) {
    text += fmt::format("{:<{}}  {:<{}}  {:<{}}  {:<{}}  {}", name, width[0], value, width[1], unit, width[2], from, width[3],
                        default_text);
    text.erase(text.find_last_not_of(' ') + 1);
    text += '\n';
  };
  line("NAME", "VALUE", "UNIT", "FROM", "DEFAULT");
  for (const auto& each : settings) line(each.name, short_of(each.value), each.unit, each.from, each.default_text);
  return text;
}

std::string settings_json(const std::vector<SettingReport>& settings) {
  std::string text;
  JsonWriter json(text);
  json.begin_array();
  for (const auto& each : settings) {
    json.begin_object();
    json.member("name", each.name);
    json.member("value", each.value);
    json.member("unit", each.unit);
    json.member("from", each.from);
    json.member("default", each.default_text);
    json.member("help", each.help);
    json.end_object();
  }
  json.end_array();
  text += '\n';
  return text;
}

}  // namespace zt::ztunnel
