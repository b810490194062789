#include <unistd.h>

#include <cstdio>
#include <string_view>

#include "base/grpc/endpoint.h"
#include "base/linux/cgroup.h"
#include "base/log.h"
#include "ztunnel/app.h"
#include "ztunnel/config/environment.h"
#include "ztunnel/config/settings_report.h"
#include "ztunnel/explain/command.h"
#include "ztunnel/telemetry/version.h"

namespace {

using namespace zt;
using namespace zt::ztunnel;

constexpr int kExitUsage = 1;

int complain(std::string_view what) {
  log::stop();  // what was logged comes first
  std::fprintf(stderr, "ztunnel: %.*s\n", static_cast<int>(what.size()), what.data());
  return kExitUsage;
}

int run_proxy(int argc, char** argv) {
  rpc::use_system_resolver();
  auto config = parse_config(Environment::of_process(argc, argv));
  if (!config) return complain(config.error().text);
  if (const auto missing = unsupported(*config, kBuildFeatures); !missing.empty()) {
    for (const auto& sentence : missing) std::fprintf(stderr, "ztunnel: %s\n", sentence.c_str());
    return kExitUsage;
  }
  if (auto set = log::set_filter(config->telemetry.log_filter); !set) return complain(set.error().text);
  log::start(STDOUT_FILENO, config->telemetry.log_format);
  static log::Scope scope("app");
  log::write(scope, log::Level::kInfo, "version: " + version_line(build_info(config->telemetry.istio_version)));
  log::write(scope, log::Level::kInfo, "running with config: " + config_yaml(*config));
  for (const auto& warning : config->warnings) log::write(scope, log::Level::kWarn, warning);

  auto app = App::start(std::move(*config));
  if (!app) return complain(app.error().text);
  const auto outcome = (*app)->run();
  app->reset();
  if (!outcome) return complain(outcome.error().text);
  log::stop();
  return 0;
}

int show_settings(int argc, char** argv) {
  const std::string_view form = argc > 2 ? argv[2] : "";
  const std::string_view output = argc > 3 ? argv[3] : "";
  const bool json = argc == 4 && (form == "-o" || form == "--output") && output == "json";
  if (argc > 2 && !json) return complain("settings: expected nothing more, or -o json");
  const auto environment = Environment::of_process(0, argv);
  const auto config = parse_config(environment);
  if (!config) return complain(config.error().text);
  const auto settings = report_settings(environment, *config, CgroupMemory::find().limit());
  std::fputs((json ? settings_json(settings) : settings_table(settings)).c_str(), stdout);
  for (const auto& warning : config->warnings) std::fprintf(stderr, "ztunnel: %s\n", warning.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  // Contract §0.1: `proxy` or nothing runs; further words are ignored (the chart passes `proxy ztunnel`).
  const std::string_view command = argc > 1 ? argv[1] : "proxy";
  if (command == "proxy") return run_proxy(argc, argv);
  if (command == "explain" || command == "check-config") {
    const CommandResult result = command == "explain" ? run_explain(argc, argv) : run_check_config(argc, argv);
    std::fputs(result.out.c_str(), stdout);
    std::fputs(result.errors.c_str(), stderr);
    return result.exit_code;
  }
  if (command == "settings") return show_settings(argc, argv);
  if (command == "version") {
    const char* istio = std::getenv("ISTIO_META_ISTIO_VERSION");
    std::puts(version_line(build_info(istio != nullptr ? istio : "")).c_str());
    return 0;
  }
  if (command == "help" || command == "--help" || command == "-h") {
    std::fputs(
        "usage: ztunnel [proxy|version|help]\n"
        "       ztunnel settings [-o json]\n"
        "       ztunnel explain SOURCE DESTINATION [--file FILE|--dump FILE|--admin HOST:PORT] [-o json]\n"
        "       ztunnel check-config FILE [-o json]\n"
        "\nThe node proxy. It takes its configuration from these environment variables:\n\n",
        stdout);
    std::fputs(config_help().c_str(), stdout);
    return 0;
  }
  return complain("unknown command '" + std::string(command) +
                  "': expected proxy, explain, check-config, settings, version or help");
}
