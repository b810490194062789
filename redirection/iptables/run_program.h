#pragma once
#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace zt::redirection {

struct ProgramOutput {
  int status = 0;  // exit code; 128 + the signal's number if one ended it
  std::string out, err;
};

// Runs a program to its end in the calling thread's namespaces, with `input` as its standard input. It is looked for where
// administrators' programs are, whatever PATH says, and sees no environment but LC_ALL=C and `environment`.
// kNotFound: there is no such program. kIo: it did not end within the limit (it is killed), or said more than 4 MiB.
Result<ProgramOutput> run_program(const std::vector<std::string>& words, std::string_view input,
                                  const std::vector<std::string>& environment = {},
                                  std::chrono::milliseconds limit = std::chrono::milliseconds(15'000));

}  // namespace zt::redirection
