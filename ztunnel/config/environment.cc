#include "ztunnel/config/environment.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "base/unique_fd.h"
#include "mesh/reason.h"

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
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    if (errno == ENOENT || errno == ENOTDIR) return std::nullopt;
    return fail_errno(Reason::kInvalidInput, path);
  }
  std::string text;
  char buffer[16384];
  for (;;) {
    const ssize_t length = ::read(fd.get(), buffer, sizeof buffer);
    if (length < 0 && errno == EINTR) continue;
    if (length < 0) return fail_errno(Reason::kInvalidInput, path);
    if (length == 0) return text;
    text.append(buffer, static_cast<size_t>(length));
    if (text.size() > Environment::kMaxFileBytes) {
      return fail(Reason::kInvalidInput, fmt::format("{}: larger than {} bytes", path, Environment::kMaxFileBytes));
    }
  }
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
