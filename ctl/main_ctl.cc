#include <cstdio>

#include "ctl/command_line.h"

int main(int argc, char** argv) {
  zt::ctl::CommandLine line;
  const auto result = line.run(argc, argv);
  std::fputs(result.out.c_str(), stdout);
  std::fputs(result.errors.c_str(), stderr);
  return result.exit_code;
}
