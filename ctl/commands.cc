#include "ctl/commands.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <ctime>

#include "base/file.h"
#include "ctl/check.h"
#include "ctl/live.h"
#include "ctl/status.h"
#include "mesh/reason.h"
#include "ztunnel/explain/admin_client.h"

namespace zt::ctl {

namespace {

bool level_like(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](unsigned char c) {
    return std::isalnum(c) != 0 || std::string_view("_:=.-,").contains(static_cast<char>(c));
  });
}

}  // namespace

Result<std::string> show_status(const Options& options) {
  ZT_ASSIGN(const Dump dump, read_dump(options.source));
  json::object found = status(dump, ::time(nullptr));
  // What the other two servers say, where they are reached too.
  Answers answers;
  if (options.source.file.empty()) {
    check_readiness(options.readiness, answers);
    check_metrics(options.stats, dump, answers);
    check_local_file(dump, answers);
  }
  for (const Answer& answer : answers)
    if (answer.verdict == Answer::Verdict::kWrong || answer.verdict == Answer::Verdict::kDoubtful)
      found.at("warnings").get_array().emplace_back(fmt::format("{}: {}; {}", answer.question, answer.text, answer.remedy));
  return options.json ? pretty(found) : status_text(found);
}

Result<std::string> log_levels(const Options& options) {
  if (!options.source.file.empty())
    return fail(Reason::kInvalidInput,
                "a dump has no log levels to show or change: leave --dump out, and --admin says which proxy");
  std::string query, levels;
  for (const std::string& level : options.levels) {
    if (!level_like(level))
      return fail(Reason::kInvalidInput, fmt::format("\"{}\" is not LEVEL or SCOPE=LEVEL, such as access=debug", level));
    levels += (levels.empty() ? "" : ",") + level;
  }
  if (!levels.empty()) query = "?level=" + levels;
  if (options.reset) query += query.empty() ? "?reset" : "&reset";
  ZT_ASSIGN(const ztunnel::AdminAnswer answer, ztunnel::ask_admin(options.source.admin, "POST", "/logging" + query));
  // The help of the endpoint is for people with curl.
  const std::string first = answer.body.substr(0, answer.body.find('\n'));
  if (answer.status != 200)
    return fail(Reason::kInvalidInput,
                fmt::format("{}: {}. Levels: off, error, warn, info, debug, trace", options.source.admin, first));
  constexpr std::string_view kBefore = "current log level is ";
  const std::string filter = first.starts_with(kBefore) ? first.substr(kBefore.size()) : first;
  return options.json ? pretty(json::object{{"filter", filter}}) : filter + "\n";
}

Result<std::string> save_dump(const Options& options) {
  ZT_ASSIGN(const Dump dump, read_dump(options.source));
  if (options.to.empty()) return dump.text.ends_with('\n') ? dump.text : dump.text + "\n";
  ZT_TRY(replace_file(options.to, dump.text, 0600));
  return fmt::format("{} of the config_dump of {} are in {}\n", bytes_text(dump.text.size()), dump.origin, options.to);
}

Result<std::string> show_version(const Options& options) {
  json::object versions{{"ztunnelctl", ZT_VERSION}};
  const auto dump = read_dump(options.source);
  if (dump) versions["ztunnel"] = dump->object("version");
  if (options.json) return pretty(versions);
  std::string out = fmt::format("ztunnelctl  {}\n", ZT_VERSION);
  if (!dump) return out + fmt::format("ztunnel     not known: {}\n", dump.error().text);
  return out + fmt::format("ztunnel     {} ({})\n", text_in(dump->object("version"), "version"), dump->origin);
}

Result<std::string> show_recent(const Options& options) {
  if (!options.source.file.empty())
    return fail(Reason::kInvalidInput, "a dump does not say what ended: leave --dump out, and --admin says which proxy");
  ZT_ASSIGN(const Dump dump, read_dump(options.source));
  ZT_ASSIGN(const Look now, look(options.source.admin));
  const Listing listing = recent(now, options.filter, Names(dump), options.failed);
  return options.json ? json_of(listing) : table_of(listing) + advice(listing);
}

ztunnel::CommandResult check_node(const Options& options) {
  const Answers answers =
      check({.source = options.source, .stats = options.stats, .readiness = options.readiness, .pid = options.pid});
  return {.exit_code = all_right(answers) ? 0 : 1,
          .out = options.json ? pretty(answers_json(answers)) : answers_text(answers),
          .errors = {}};
}

ztunnel::CommandResult explain(const Options& options) {
  std::vector<std::string> words{"ztunnelctl", "explain", options.from, options.whereto};
  const auto add = [&](const char* name, const std::string& value) {
    if (value.empty()) return;
    words.emplace_back(name);
    words.push_back(value);
  };
  add("--file", options.local);
  add("--dump", options.source.file);
  if (options.local.empty() && options.source.file.empty()) add("--admin", options.source.admin);
  add("--network", options.network);
  add("--domain", options.domain);
  if (options.json) add("--output", "json");
  std::vector<const char*> argv;
  for (const auto& word : words) argv.push_back(word.c_str());
  return ztunnel::run_explain(static_cast<int>(argv.size()), argv.data());
}

}  // namespace zt::ctl
