#include "ctl/command_line.h"

#include <fmt/format.h>

#include <cstdlib>
#include <ctime>
#include <sstream>

#include "base/log.h"
#include "ctl/bugreport.h"
#include "ctl/commands.h"
#include "ctl/watch.h"
#include "ctl/words.h"

namespace zt::ctl {

using ztunnel::CommandResult;

namespace {

constexpr int kExitNotDone = 1, kExitNotUnderstood = 2;

CommandResult failed(const Error& why) {
  return {.exit_code = kExitNotDone, .out = {}, .errors = fmt::format("ztunnelctl: {}\n", why.text)};
}

CommandResult listed(const Options& options, const Listing& listing) {
  return {.exit_code = 0, .out = options.json ? json_of(listing) : table_of(listing), .errors = {}};
}

// A list of what the dump says.
template <class List>
auto of_dump(List list) {
  return [list](const Options& options) -> CommandResult {
    const auto dump = read_dump(options.source);
    if (!dump) return failed(dump.error());
    return listed(options, list(*dump, options));
  };
}

std::function<CommandResult(const Options&)> done(Result<std::string> (*what)(const Options&)) {
  return [what](const Options& options) -> CommandResult {
    auto text = what(options);
    if (!text) return failed(text.error());
    return {.exit_code = 0, .out = std::move(*text), .errors = {}};
  };
}

}  // namespace

CommandLine::CommandLine()
    : app_("Looks at a ztunnel, the node proxy of an ambient mesh: what it knows, carries and refuses.", "ztunnelctl") {
  // Not as CLI11's own variable of the option, which would then count as given and exclude --dump.
  if (const char* admin = std::getenv("ZTUNNELCTL_ADMIN"); admin != nullptr && *admin != '\0') options_.source.admin = admin;
  app_.require_subcommand(1);
  app_.fallthrough();
  auto* admin = app_.add_option("-a,--admin", options_.source.admin,
                                "the admin server of the proxy to ask; ZTUNNELCTL_ADMIN in the environment says it too")
                    ->type_name("HOST:PORT")
                    ->capture_default_str();
  app_.add_option("-d,--dump", options_.source.file, "look at a config_dump that was saved, ours or istio/ztunnel's, instead")
      ->type_name("FILE")
      ->excludes(admin);
  app_.add_option("-o,--output", format_, "table for people, json for programs")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  app_.add_option("-n,--namespace", options_.filter.ns, "only what is of this namespace")->type_name("NAMESPACE");
  app_.add_option("--node", options_.filter.node, "only what is on this node")->type_name("NODE");
  app_.add_option("--pod", options_.filter.pod, "only what is of this pod: its name, or namespace/name")->type_name("POD");
  add_lists();
  add_live();
  add_others();
}

CLI::App& CommandLine::command(const char* name, const char* description, Do what) {
  CLI::App* made = app_.add_subcommand(name, description);
  made->fallthrough();
  made->footer("Options for all commands: ztunnelctl --help");
  does_.emplace(made, std::move(what));
  return *made;
}

void CommandLine::add_lists() {
  command("status", "the node at a glance, and what of it is not as it should be", done(show_status));
  command("pods", "the pods of this node that are in the mesh",
          of_dump([](const Dump& dump, const Options& options) { return pods(dump, options.filter); }));
  command("workloads", "all workloads that the proxy knows",
          of_dump([](const Dump& dump, const Options& options) { return workloads(dump, options.filter); }));
  command("services", "services, with how many of their endpoints are healthy; --node and --pod: that have an endpoint there",
          of_dump([](const Dump& dump, const Options& options) { return services(dump, options.filter); }));
  command("policies", "authorization policies, and whom they are about; --node and --pod: that count for a workload there",
          of_dump([](const Dump& dump, const Options& options) { return policies(dump, options.filter); }));
  CLI::App& held = command("certificates", "the certificates of this node's identities, and how long they last",
                           of_dump([](const Dump& dump, const Options& options) {
                             return certificates(dump, options.filter, ::time(nullptr), options.chain);
                           }));
  held.add_flag("--chain", options_.chain, "their intermediates and roots too");
  CLI::App& open =
      command("connections", "the open connections of this node's pods: who, how long, how much, and which policy lets them in",
              of_dump([](const Dump& dump, const Options& options) {
                ConnectionsAsked asked = options.connections;
                asked.filter = options.filter;
                return connections(dump, asked);
              }));
  std::vector<std::string> orders(std::begin(kConnectionOrders), std::end(kConnectionOrders));
  open.add_option("--sort", options_.connections.sort, "by what; the largest or oldest first")->check(CLI::IsMember(orders));
  open.add_option("--direction", options_.connections.direction, "only these")->check(CLI::IsMember({"inbound", "outbound"}));
}

void CommandLine::add_live() {
  CLI::App& last = command("recent", "the last connections that ended on this node, and why: what failed without anybody looking",
                           done(show_recent));
  last.add_flag("--failed", options_.failed, "only those that failed or were refused");
  const auto repeated = [this](CLI::App& app) {
    app.add_option("--every", options_.every, "seconds between two looks")->check(CLI::Range(0.1, 3600.0))->capture_default_str();
    app.add_option("--times", options_.times, "how often; 0: until q or Ctrl-C")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
  };
  repeated(command("top", "live rates of each pod: connections and bytes a second", run_top));
  repeated(command("tap", "connections as they open and end, with the reason: ztunnelctl tap --pod shop/web", run_tap));
}

void CommandLine::add_others() {
  CLI::App& explained =
      command("explain", "which route a connection takes, which policy decides, and why not the others", explain);
  explained.add_option("source", options_.from, "who connects: namespace/pod, a workload's uid, or its address")->required();
  explained.add_option("destination", options_.whereto, "whereto: address:port, host:port, or namespace/pod:port")->required();
  explained.add_option("-f,--file", options_.local, "ask a local configuration file")->type_name("FILE");
  explained.add_option("--network", options_.network, "NETWORK of the proxy, where a dump does not say it")->type_name("NETWORK");
  explained.add_option("--domain", options_.domain, "the cluster's domain, for short names")->type_name("DOMAIN");
  CLI::App& levels = command(
      "log", "shows the log levels of a running proxy, or changes them: ztunnelctl log access=debug dns=trace", done(log_levels));
  levels.add_option("level", options_.levels, "LEVEL for all, or SCOPE=LEVEL: off, error, warn, info, debug, trace")
      ->type_name("LEVEL");
  levels.add_flag("--reset", options_.reset, "first back to what it was started with");
  CLI::App& saved = command("dump", "saves the whole config_dump, which every command here takes with --dump", done(save_dump));
  saved.add_option("--to", options_.to, "into this file instead of standard output")->type_name("FILE");
  CLI::App& asked = command(
      "check", "is this node set up right? What is wrong is told with its remedy; exit status 1 if something is", check_node);
  asked.add_option("--stats", options_.stats, "the metrics server of the proxy")->type_name("HOST:PORT")->capture_default_str();
  asked.add_option("--readiness", options_.readiness, "its readiness server")->type_name("HOST:PORT")->capture_default_str();
  asked.add_option("--pid", options_.pid, "its process, where it is not named ztunnel or not in this network namespace")
      ->type_name("PID");
  CLI::App& reported =
      command("bugreport", "one archive with what a person who was not there needs, without secrets", done(bugreport));
  reported.add_option("--to", options_.to, "its name; ztunnel-bugreport-TIME.tar.gz by default")->type_name("FILE");
  reported.add_option("--log", options_.log, "the proxy's log, of which the last 8 MiB go in")->type_name("FILE");
  reported.add_option("--stats", options_.stats, "the metrics server of the proxy")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  reported.add_option("--readiness", options_.readiness, "its readiness server")->type_name("HOST:PORT")->capture_default_str();
  command("version", "of this program, and of the proxy if one answers", done(show_version));
  CLI::App& words = command("completion", "prints what makes a shell complete these words: source <(ztunnelctl completion bash)",
                            [this](const Options& options) -> CommandResult {
                              return {.exit_code = 0, .out = completion(app_, options.shell), .errors = {}};
                            });
  words.add_option("shell", options_.shell, "bash, zsh or fish")->required()->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command("man", "prints the manual page: ztunnelctl man | man -l -",
          [this](const Options&) -> CommandResult { return {.exit_code = 0, .out = manual_page(app_), .errors = {}}; });
}

CommandResult CommandLine::run(int argc, const char* const* argv) {
  (void)log::set_filter("off");  // what is found is said in the answer
  try {
    app_.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::ostringstream out, errors;
    const int code = app_.exit(error, out, errors);
    return {.exit_code = code == 0 ? 0 : kExitNotUnderstood, .out = out.str(), .errors = errors.str()};
  }
  options_.json = format_ == "json";
  return does_.at(app_.get_subcommands().front())(options_);
}

}  // namespace zt::ctl
