#include "ctl/words.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <vector>

namespace zt::ctl {

namespace {

std::vector<const CLI::App*> commands(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

bool is_flag(const CLI::Option& option) { return option.get_items_expected_max() == 0; }

// "-n", "--namespace"
std::vector<std::string> names_of(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const auto& name : option.get_snames()) names.push_back("-" + name);
  for (const auto& name : option.get_lnames()) names.push_back("--" + name);
  return names;
}

std::vector<const CLI::Option*> options_of(const CLI::App& app) {
  std::vector<const CLI::Option*> found;
  for (const CLI::Option* option : app.get_options())
    if (!option->get_positional()) found.push_back(option);
  return found;
}

// The values that the option's check allows: "{a,b}" in what CLI11 calls its type.
std::vector<std::string> values_of(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  const auto begin = type.find('{'), end = type.find('}');
  std::vector<std::string> values;
  if (begin == std::string::npos || end == std::string::npos) return values;
  for (size_t at = begin + 1; at < end;) {
    const size_t comma = std::min(type.find(',', at), end);
    values.push_back(type.substr(at, comma - at));
    at = comma + 1;
  }
  return values;
}

std::string all_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : options_of(app))
    for (auto& name : names_of(*option)) names.push_back(std::move(name));
  return fmt::format("{}", fmt::join(names, " "));
}

// `case` lines for the values of options.
std::string value_cases(const CLI::App& app) {
  std::string out;
  for (const CLI::Option* option : options_of(app)) {
    if (is_flag(*option)) continue;
    const auto values = values_of(*option);
    const bool file = option->get_type_name() == "FILE";
    out += fmt::format("    {}) COMPREPLY=({}); return ;;\n", fmt::join(names_of(*option), "|"),
                       file             ? "$(compgen -f -- \"$word\")"
                       : values.empty() ? ""
                                        : fmt::format("$(compgen -W '{}' -- \"$word\")", fmt::join(values, " ")));
  }
  return out;
}

std::string bash(const CLI::App& app) {
  std::string out = "# bash completion of ztunnelctl: source <(ztunnelctl completion bash)\n_ztunnelctl() {\n";
  out += "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command= each\n";
  std::vector<std::string> names;
  for (const CLI::App* command : commands(app)) names.push_back(command->get_name());
  out += fmt::format(
      "  for each in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n    case $each in {}) command=$each; break ;; esac\n  done\n",
      fmt::join(names, "|"));
  out += "  case $before in\n" + value_cases(app);
  for (const CLI::App* command : commands(app)) out += value_cases(*command);
  out += "  esac\n  case $command in\n";
  out += fmt::format("    '') COMPREPLY=($(compgen -W '{} {}' -- \"$word\")) ;;\n", fmt::join(names, " "), all_names(app));
  for (const CLI::App* command : commands(app)) {
    std::vector<std::string> words;
    for (const CLI::Option* option : command->get_options())
      if (option->get_positional())
        for (auto& value : values_of(*option)) words.push_back(std::move(value));
    out += fmt::format("    {}) COMPREPLY=($(compgen -W '{} {} {}' -- \"$word\")) ;;\n", command->get_name(),
                       fmt::join(words, " "), all_names(*command), all_names(app));
  }
  return out + "  esac\n}\ncomplete -F _ztunnelctl ztunnelctl\n";
}

std::string quoted(std::string text) {
  std::string out;
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return "'" + out + "'";
}

void fish_options(const CLI::App& app, const std::string& when, std::string& out) {
  for (const CLI::Option* option : options_of(app)) {
    out += fmt::format("complete -c ztunnelctl -f{}", when);
    for (const auto& name : option->get_snames()) out += fmt::format(" -s {}", name);
    for (const auto& name : option->get_lnames()) out += fmt::format(" -l {}", name);
    if (!is_flag(*option)) out += " -r";
    if (option->get_type_name() == "FILE") out += " -F";
    if (const auto values = values_of(*option); !values.empty()) out += fmt::format(" -a '{}'", fmt::join(values, " "));
    out += fmt::format(" -d {}\n", quoted(option->get_description()));
  }
}

std::string fish(const CLI::App& app) {
  std::string out = "# fish completion of ztunnelctl: ztunnelctl completion fish | source\n";
  fish_options(app, "", out);
  for (const CLI::App* command : commands(app)) {
    out += fmt::format("complete -c ztunnelctl -f -n __fish_use_subcommand -a {} -d {}\n", command->get_name(),
                       quoted(command->get_description()));
    const std::string when = fmt::format(" -n '__fish_seen_subcommand_from {}'", command->get_name());
    fish_options(*command, when, out);
    for (const CLI::Option* option : command->get_options())
      if (const auto values = values_of(*option); option->get_positional() && !values.empty())
        out += fmt::format("complete -c ztunnelctl -f{} -a '{}'\n", when, fmt::join(values, " "));
  }
  return out;
}

// ---- The manual

// A hyphen is to be one that can be copied, and a line must not begin with what troff takes for a request.
std::string roff(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\')
      out += "\\e";
    else if (c == '-')
      out += "\\-";
    else if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n'))
      out += fmt::format("\\&{}", c);
    else
      out += c;
  }
  return out;
}

void roff_options(const CLI::App& app, std::string& out) {
  for (const CLI::Option* option : app.get_options()) {
    const bool positional = option->get_positional();
    std::string name = positional ? option->get_name(true) : fmt::format("{}", fmt::join(names_of(*option), ", "));
    if (!positional && !is_flag(*option)) name += " " + option->get_type_name();
    out += fmt::format(".TP\n.B {}\n{}", roff(name), roff(option->get_description()));
    if (!option->get_default_str().empty()) out += roff(fmt::format(" (by default {})", option->get_default_str()));
    out += ".\n";
  }
}

}  // namespace

std::string completion(const CLI::App& app, std::string_view shell) {
  if (shell == "fish") return fish(app);
  // zsh reads what is written for bash.
  return shell == "zsh" ? "#compdef ztunnelctl\nautoload -U +X bashcompinit && bashcompinit\n" + bash(app) : bash(app);
}

std::string manual_page(const CLI::App& app) {
  std::string out = ".TH ZTUNNELCTL 1 \"\" \"ztunnel " ZT_VERSION "\" \"User commands\"\n";
  out += ".SH NAME\nztunnelctl \\- looks at a ztunnel\n.SH SYNOPSIS\n.B ztunnelctl\n.I COMMAND\n[OPTION]...\n.SH DESCRIPTION\n";
  out += roff(app.get_description()) + "\n.PP\n";
  out += roff(
      "It asks the proxy's admin server, which listens on the node's loopback: on the node itself, or through\n"
      "kubectl -n istio-system port-forward POD 15000. Or it looks at a config_dump that was saved (--dump).\n");
  out += ".SH OPTIONS FOR ALL COMMANDS\n";
  roff_options(app, out);
  out += ".SH COMMANDS\n";
  for (const CLI::App* command : commands(app)) {
    out += fmt::format(".SS {}\n{}.\n", roff(command->get_name()), roff(command->get_description()));
    std::string options;
    roff_options(*command, options);
    // Each command's own --help says nothing.
    if (const auto help = options.find(".TP\n.B \\-h, \\-\\-help"); help != std::string::npos) {
      const auto end = options.find(".TP", help + 3);
      options.erase(help, end == std::string::npos ? end : end - help);
    }
    out += options;
  }
  out +=
      ".SH EXIT STATUS\n0 if it was done, 1 if not (standard error says why and what to do), 2 if the words were not "
      "understood.\n";
  out += ".SH EXAMPLES\n.nf\n";
  out += roff(
      "ztunnelctl status\n"
      "ztunnelctl connections --sort bytes -n shop\n"
      "ztunnelctl explain shop/web payments.pay:80\n"
      "ztunnelctl log access=debug\n"
      "ztunnelctl dump --to node.json; ztunnelctl -d node.json policies -o json\n");
  return out + ".fi\n";
}

}  // namespace zt::ctl
