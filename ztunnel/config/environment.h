#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace zt::ztunnel {

// What the process was started with, captured once, so that everything after it is a pure function of this
// value (and tests need neither setenv nor files).
struct Environment {
  static constexpr size_t kMaxFileBytes = 1u << 20;  // of a configuration file

  std::map<std::string, std::string, std::less<>> variables;
  std::string arguments;       // argv[1…], joined by spaces
  unsigned logical_cores = 1;  // that this process may run on
  // Content of a file, nothing if it does not exist. Errors name the file: unreadable, larger than
  // kMaxFileBytes.
  std::function<Result<std::optional<std::string>>(const std::string& path)> read_file;

  [[nodiscard]] std::optional<std::string_view> find(std::string_view name) const;

  // Reads environ and the CPU affinity; read_file reads real files.
  static Environment of_process(int argc, char** argv);
};

}  // namespace zt::ztunnel
