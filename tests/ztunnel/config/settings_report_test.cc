#include "ztunnel/config/settings_report.h"

#include <algorithm>
#include <catch2/catch.hpp>

#include "base/json_writer.h"
#include "ztunnel/config/config_settings.h"

using namespace zt;
using namespace zt::ztunnel;

namespace {

struct Reported {
  explicit Reported(std::map<std::string, std::string, std::less<>> variables, std::optional<uint64_t> memory_limit = {}) {
    Environment environment;
    environment.variables = std::move(variables);
    environment.logical_cores = 8;
    environment.read_file = [](const std::string&) -> Result<std::optional<std::string>> { return std::nullopt; };
    auto config = parse_config(environment);
    INFO((config ? "" : config.error().text));
    REQUIRE(config);
    settings = report_settings(environment, *config, memory_limit);
  }
  // "value, from"
  [[nodiscard]] std::string of(std::string_view name) const {
    const auto found = std::ranges::find(settings, name, &SettingReport::name);
    return found == settings.end() ? "absent" : found->value + ", " + found->from;
  }
  std::vector<SettingReport> settings;
};

}  // namespace

TEST_CASE("each setting says what counts and what gave it") {
  const Reported reported({{"KEEPALIVE_TIME", "30"},
                           {"ISTIO_META_CLUSTER_ID", "east"},
                           {"TERMINATION_GRACE_PERIOD_SECONDS", "40"},
                           {"PROXY_CONFIG", "discoveryAddress: istiod.example:15012\nconcurrency: 3\n"},
                           {"ISTIO_META_NOTE", "here"}},
                          64u << 20);
  struct Row {
    const char* name;
    const char* expected;
  };
  const auto row = GENERATE(values<Row>({
      {"KEEPALIVE_TIME", "30, environment"},
      {"KEEPALIVE_INTERVAL", "180s, default"},
      {"CLUSTER_ID", "east, ISTIO_META_CLUSTER_ID"},
      {"CONNECTION_TERMINATION_DEADLINE", "35s, TERMINATION_GRACE_PERIOD_SECONDS"},
      {"XDS_ADDRESS", "https://istiod.example:15012, PROXY_CONFIG"},
      {"CA_ADDRESS", "https://localhost:15012, default"},
      {"ZTUNNEL_WORKER_THREADS", "3, PROXY_CONFIG"},
      {"ZTUNNEL_CPU_LIMIT", "8, default"},
      {"ZT_MEMORY_BUDGET", "16777216, default"},
      {"PACKET_MARK", "1337, default"},
      {"ENABLE_ORIG_SRC", "as far as possible, default"},
      {"AUTH_TOKEN", ", default"},
      {"ISTIO_META_NOTE", "here, environment"},
      {"XDS_HEADER_*", "absent"},
  }));
  INFO(row.name);
  CHECK(reported.of(row.name) == row.expected);
}

TEST_CASE("settings show no secret and no more than a line of a value") {
  const Reported reported({{"AUTH_TOKEN", "eyJhbGciOi"},
                           {"XDS_HEADER_AUTHORIZATION", "Basic c2VjcmV0"},
                           {"LOCAL_XDS", "workloads: []\nservices: []\n"},
                           {"XDS_ADDRESS", ""}});
  CHECK(reported.of("AUTH_TOKEN") == "<hidden>, environment");
  CHECK(reported.of("XDS_HEADER_AUTHORIZATION") == "<hidden>, environment");
  for (const auto& text : {settings_table(reported.settings), settings_json(reported.settings)}) {
    CHECK_THAT(text, !Catch::Contains("eyJ") && !Catch::Contains("c2VjcmV0"));
  }
  CHECK_THAT(settings_table(reported.settings), Catch::Contains("workloads: []...") && !Catch::Contains("services"));
  CHECK_THAT(settings_json(reported.settings), Catch::Contains("services"));
}

TEST_CASE("settings are all there, as a table and as JSON, with their units") {
  const Reported reported({});
  const std::string table = settings_table(reported.settings), json = settings_json(reported.settings);
  CHECK(table.starts_with("NAME "));
  CHECK(validate_json(json));
  for (const auto& setting : settings()) {
    INFO(setting.name);
    if (setting.name.ends_with('*')) continue;
    CHECK_THAT("\n" + table, Catch::Contains("\n" + std::string(setting.name) + " "));
    CHECK_THAT(json, Catch::Contains("\"name\": \"" + std::string(setting.name) + "\""));
    // A number has a unit.
    const std::string_view first = setting.default_text.substr(0, 1);
    const bool number = !first.empty() && first[0] >= '0' && first[0] <= '9' && setting.name != "INSTANCE_IP";
    CHECK((!number || !setting.unit.empty()));
    CHECK((setting.default_text != "true" && setting.default_text != "false" ? true : setting.unit == "true or false"));
  }
}
