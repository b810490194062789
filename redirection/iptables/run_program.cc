#include "redirection/iptables/run_program.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>

#include "base/unique_fd.h"
#include "mesh/reason.h"

namespace zt::redirection {

namespace {

constexpr size_t kMostOutput = size_t{4} << 20;
constexpr std::array<const char*, 4> kFolders{"/usr/sbin/", "/sbin/", "/usr/bin/", "/usr/local/sbin/"};

std::string find_program(const std::string& name) {
  for (const char* folder : kFolders) {
    if (const std::string path = folder + name; ::access(path.c_str(), X_OK) == 0) return path;
  }
  return {};
}

// A file in memory that holds the text, to be read from its beginning.
Result<UniqueFd> as_file(std::string_view text) {
  UniqueFd file(::memfd_create("input", MFD_CLOEXEC));
  if (!file) return fail_errno(Reason::kIo, "memfd_create");
  while (!text.empty()) {
    const ssize_t written = ::write(file.get(), text.data(), text.size());
    if (written < 0) return fail_errno(Reason::kIo, "cannot write a program's input");
    text.remove_prefix(static_cast<size_t>(written));
  }
  if (::lseek(file.get(), 0, SEEK_SET) != 0) return fail_errno(Reason::kIo, "cannot rewind a program's input");
  return file;
}

struct Pipe {
  UniqueFd read, write;
  static Result<Pipe> make() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno(Reason::kIo, "pipe2");
    return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
  }
};

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> out;
  for (auto& word : words) out.push_back(word.data());
  out.push_back(nullptr);
  return out;
}

Result<pid_t> spawn(const std::string& path, std::vector<std::string> words, std::vector<std::string> environment, int in,
                    int out, int err) {
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, err, STDERR_FILENO);
  // The caller blocks the signals that it waits for; the program must not inherit that.
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  sigset_t none;
  ::sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  pid_t pid = -1;
  const auto arguments = pointers(words), variables = pointers(environment);
  const int failed = ::posix_spawn(&pid, path.c_str(), &actions, &attributes, arguments.data(), variables.data());
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (failed != 0) return fail(Reason::kIo, fmt::format("cannot start {}: {}", path, errno_text(failed)));
  return pid;
}

// Reads both until they end. False: not within the limit, or too much.
bool collect(const UniqueFd& out, const UniqueFd& err, ProgramOutput& output, std::chrono::steady_clock::time_point deadline) {
  std::array<pollfd, 2> open{{{out.get(), POLLIN, 0}, {err.get(), POLLIN, 0}}};
  const std::array<std::string*, 2> texts{&output.out, &output.err};
  while (open[0].fd >= 0 || open[1].fd >= 0) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    if (left <= 0) return false;
    if (::poll(open.data(), open.size(), static_cast<int>(left)) < 0 && errno != EINTR) return false;
    for (size_t i = 0; i < open.size(); ++i) {
      if (open[i].fd < 0 || open[i].revents == 0) continue;
      std::array<char, 16384> buffer;
      const ssize_t n = ::read(open[i].fd, buffer.data(), buffer.size());
      if (n > 0) texts[i]->append(buffer.data(), static_cast<size_t>(n));
      if (n == 0 || (n < 0 && errno != EINTR)) open[i].fd = -1;
      if (texts[i]->size() > kMostOutput) return false;
    }
  }
  return true;
}

bool ends_by(pid_t pid, std::chrono::steady_clock::time_point deadline) {
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process) return true;  // the wait that follows is without a limit
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
  pollfd wait{process.get(), POLLIN, 0};
  return ::poll(&wait, 1, static_cast<int>(left > 0 ? left : 0)) == 1;
}

}  // namespace

Result<ProgramOutput> run_program(const std::vector<std::string>& words, std::string_view input,
                                  const std::vector<std::string>& environment, std::chrono::milliseconds limit) {
  const std::string path = find_program(words.front());
  if (path.empty()) return fail(Reason::kNotFound, fmt::format("{} is not installed", words.front()));
  ZT_ASSIGN(const UniqueFd in, as_file(input));
  ZT_ASSIGN(Pipe out, Pipe::make());
  ZT_ASSIGN(Pipe err, Pipe::make());
  std::vector<std::string> variables{"LC_ALL=C"};
  variables.insert(variables.end(), environment.begin(), environment.end());
  ZT_ASSIGN(const pid_t pid, spawn(path, words, std::move(variables), in.get(), out.write.get(), err.write.get()));
  out.write.reset();
  err.write.reset();
  const auto deadline = std::chrono::steady_clock::now() + limit;
  ProgramOutput output;
  const bool good = collect(out.read, err.read, output, deadline) && ends_by(pid, deadline);
  if (!good) ::kill(pid, SIGKILL);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!good) return fail(Reason::kIo, fmt::format("{} did not end within {} ms, or said too much", path, limit.count()));
  output.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return output;
}

}  // namespace zt::redirection
