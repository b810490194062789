#include "ztunnel/explain/command.h"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <sstream>

#include "base/file.h"
#include "base/log.h"
#include "ztunnel/explain/admin_client.h"
#include "ztunnel/explain/check.h"
#include "ztunnel/explain/explain.h"

namespace zt::ztunnel {

namespace {

constexpr size_t kMostDumpBytes = size_t{1} << 30;

struct Options {
  std::string source, destination;
  std::string file, dump, admin = "localhost:15000";
  std::string network, domain = "cluster.local", format = "text";
};

Result<KnownState> read_state(const Options& options) {
  if (!options.file.empty()) return state_of_file(options.file);
  if (!options.dump.empty()) {
    ZT_ASSIGN(const std::string text, read_file(options.dump, kMostDumpBytes));
    return state_of_dump(text, options.dump);
  }
  ZT_ASSIGN(const std::string text, fetch_config_dump(options.admin));
  return state_of_dump(text, options.admin);
}

CommandResult failed(const Error& why) { return {.exit_code = 1, .out = {}, .errors = fmt::format("ztunnel: {}\n", why.text)}; }

// Nothing: the options are good.
std::optional<CommandResult> parse(CLI::App& app, int argc, const char* const* argv) {
  (void)log::set_filter("off");  // what is found is said in the answer
  try {
    app.parse(argc - 1, argv + 1);
  } catch (const CLI::ParseError& error) {
    std::ostringstream out, errors;
    const int code = app.exit(error, out, errors);
    return CommandResult{.exit_code = code == 0 ? 0 : 1, .out = out.str(), .errors = errors.str()};
  }
  return std::nullopt;
}

void add_format(CLI::App& app, std::string& format) {
  app.add_option("-o,--output", format, "text or json")->check(CLI::IsMember({"text", "json"}))->capture_default_str();
}

}  // namespace

CommandResult run_explain(int argc, const char* const* argv) {
  Options options;
  CLI::App app("Which route a connection takes, which policy decides, and why not the others.", "ztunnel explain");
  app.add_option("source", options.source, "who connects: namespace/pod, a workload's uid, or its address")->required();
  app.add_option("destination", options.destination, "whereto: address:port, host:port, or namespace/pod:port")->required();
  auto* file = app.add_option("-f,--file", options.file, "ask a local configuration file")->type_name("FILE");
  auto* dump =
      app.add_option("-d,--dump", options.dump, "ask a config_dump that was saved, ours or istio/ztunnel's")->type_name("FILE");
  auto* admin = app.add_option("-a,--admin", options.admin, "ask the running proxy with this admin server")
                    ->type_name("HOST:PORT")
                    ->capture_default_str();
  file->excludes(dump)->excludes(admin);
  dump->excludes(admin);
  auto* network = app.add_option("--network", options.network, "NETWORK of the proxy, where a dump does not say it");
  app.add_option("--domain", options.domain, "the cluster's domain, for short names")->capture_default_str();
  add_format(app, options.format);
  if (auto ended = parse(app, argc, argv)) return std::move(*ended);

  auto state = read_state(options);
  if (!state) return failed(state.error());
  if (network->count() > 0) state->network = options.network;
  CommandResult result;
  for (const std::string& ignored : state->ignored) result.errors += fmt::format("ztunnel: left out: {}\n", ignored);
  const auto question = make_question(*state, options.source, options.destination, options.domain);
  if (!question) {
    result.errors += failed(question.error()).errors;
    result.exit_code = 1;
    return result;
  }
  const Explanation explanation = explain(*state, *question);
  const auto print = options.format == "json" ? explanation_json : explanation_text;
  result.out = print(*state, *question, explanation);
  return result;
}

CommandResult run_check_config(int argc, const char* const* argv) {
  std::string path, format = "text";
  CLI::App app(
      "Reads a local configuration file, or a pods file of the agent: says every mistake, and warns of what can never match.",
      "ztunnel check-config");
  app.add_option("file", path, "the file")->required()->type_name("FILE");
  add_format(app, format);
  if (auto ended = parse(app, argc, argv)) return std::move(*ended);
  const auto checked = check_file(path);
  if (!checked) return failed(checked.error());
  return {.exit_code = checked->mistakes() == 0 ? 0 : 1,
          .out = format == "json" ? checked_json(path, *checked) : checked_text(path, *checked),
          .errors = {}};
}

}  // namespace zt::ztunnel
