#pragma once
#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ctl/connections.h"
#include "ctl/dump.h"
#include "ztunnel/explain/command.h"

// The words of `ztunnelctl`: one tree of commands and options, from which the help, the completion of shells and the manual are made too.
namespace zt::ctl {

// What the words said; each command reads its own part.
struct Options {
  Source source;
  bool json = false;
  Filter filter;
  bool chain = false;            // certificates
  ConnectionsAsked connections;  // its filter is `filter`
  std::vector<std::string> levels;
  bool reset = false;
  std::string from, whereto, local, network, domain;  // explain
  std::string shell;                                  // completion
  std::string to;                                     // dump, bugreport
  std::string log;                                    // bugreport
  std::string stats = "localhost:15020", readiness = "localhost:15021";
  int pid = 0;
  double every = 1;  // top, tap: seconds
  int times = 0;     // 0: until it is stopped
  bool failed = false;
};

class CommandLine {
 public:
  CommandLine();
  CommandLine(const CommandLine&) = delete;

  // Reads the words and does what they ask. Exit code 0: done; 1: not, and `errors` says why and what to do; 2: not understood.
  [[nodiscard]] ztunnel::CommandResult run(int argc, const char* const* argv);

  [[nodiscard]] CLI::App& app() { return app_; }

 private:
  using Do = std::function<ztunnel::CommandResult(const Options&)>;
  CLI::App& command(const char* name, const char* description, Do what);
  void add_lists();
  void add_live();
  void add_others();

  CLI::App app_;
  Options options_;
  std::string format_ = "table";
  std::map<const CLI::App*, Do> does_;
};

}  // namespace zt::ctl
