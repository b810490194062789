#include "ztunnel/config/environment.h"

#include <fmt/format.h>
#include <sched.h>

#include <cerrno>
#include <thread>

#include "base/file.h"

extern char** environ;

namespace zt::ztunnel {
namespace {

unsigned count_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return static_cast<unsigned>(CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

Result<std::optional<std::string>> read_real_file(const std::string& path) {
  auto text = zt::read_file(path, Environment::kMaxFileBytes);
  if (text) return std::move(*text);
  if (text.error().reason == Fault::kNotFound) return std::nullopt;
  return std::unexpected(std::move(text).error());
}

}  // namespace

std::optional<std::string_view> Environment::find(std::string_view name) const {
  const auto found = variables.find(name);
  if (found == variables.end()) return std::nullopt;
  return found->second;
}

Environment Environment::of_process(int argc, char** argv) {
  Environment environment;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view pair(*entry);
    const auto equals = pair.find('=');
    if (equals == std::string_view::npos) continue;
    environment.variables.emplace(pair.substr(0, equals), pair.substr(equals + 1));
  }
  for (int i = 1; i < argc; ++i) {
    if (i > 1) environment.arguments += ' ';
    environment.arguments += argv[i];
  }
  environment.logical_cores = count_cores();
  environment.read_file = read_real_file;
  return environment;
}

}  // namespace zt::ztunnel
