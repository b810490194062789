#pragma once
#include <string>

namespace zt::ztunnel {

struct CommandResult {
  int exit_code = 0;
  std::string out;     // for standard output
  std::string errors;  // for standard error
};

// `ztunnel explain …`: argv[1] is the word. Exit code 0: answered, whatever the answer; 1: no answer.
[[nodiscard]] CommandResult run_explain(int argc, const char* const* argv);
// `ztunnel check-config …`: 0: no mistakes; 1: mistakes, or the file cannot be read.
[[nodiscard]] CommandResult run_check_config(int argc, const char* const* argv);

}  // namespace zt::ztunnel
