#pragma once
#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "base/linux/netns.h"
#include "base/unique_fd.h"
#include "mesh/reason.h"
#include "zds/zds.h"

// First line of a test that needs root: without it, says what was left out and ends the test.
#define ZT_NEEDS_ROOT(what)                  \
  do {                                       \
    if (::geteuid() != 0) {                  \
      WARN("left out: " what " needs root"); \
      return;                                \
    }                                        \
  } while (0)

// What several tests of this folder need.
namespace zt::testing {

template <class T>
std::string error_text(const Result<T>& result) {
  return result ? "" : result.error().text;
}

inline std::string unhex(std::string_view hex) {
  std::string out;
  for (size_t i = 0; i < hex.size();) {
    if (hex[i] == ' ') {
      ++i;
      continue;
    }
    out.push_back(static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
    i += 2;
  }
  return out;
}

inline std::string hex(std::string_view bytes) {
  std::string out;
  for (const char byte : bytes) {
    std::array<char, 3> text{};
    std::snprintf(text.data(), text.size(), "%02x", static_cast<unsigned>(static_cast<unsigned char>(byte)));
    out += text.data();
  }
  return out;
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// A directory of its own, gone with the object.
class TempDir {
 public:
  TempDir() {
    std::string pattern = "/tmp/zt-redirection-XXXXXX";
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  [[nodiscard]] std::string operator/(std::string_view name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

inline std::pair<UniqueFd, UniqueFd> socket_pair() {
  std::array<int, 2> fds{};
  REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds.data()) == 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

inline UniqueFd duplicate(const Netns& netns) { return UniqueFd(::fcntl(netns.fd(), F_DUPFD_CLOEXEC, 0)); }

inline size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

// A new, empty network namespace that lives as long as its descriptor. Root makes it in a thread; others in a
// child process with a user namespace of its own.
inline Netns make_netns() {
  if (::geteuid() == 0) {
    Result<Netns> made = fail(Reason::kInternal, "");
    std::thread([&] {
      made = ::unshare(CLONE_NEWNET) == 0 ? Netns::current() : Result<Netns>(fail_errno(Reason::kIo, "unshare(CLONE_NEWNET)"));
    }).join();
    INFO(error_text(made));
    REQUIRE(made);
    return std::move(*made);
  }
  std::array<int, 2> ready{}, done{};
  REQUIRE(::pipe2(ready.data(), O_CLOEXEC) == 0);
  REQUIRE(::pipe2(done.data(), O_CLOEXEC) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  char byte = 0;
  if (child == 0) {
    ::close(done[1]);
    byte = ::unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0 ? 1 : 0;
    if (::write(ready[1], &byte, 1) != 1 || ::read(done[0], &byte, 1) < 0) ::_exit(1);
    ::_exit(0);
  }
  const UniqueFd ready_read(ready[0]), ready_write(ready[1]), done_read(done[0]);
  UniqueFd done_write(done[1]);
  REQUIRE(::read(ready_read.get(), &byte, 1) == 1);
  auto netns = Netns::open("/proc/" + std::to_string(child) + "/ns/net");
  done_write.reset();
  ::waitpid(child, nullptr, 0);
  REQUIRE(byte == 1);
  REQUIRE(netns);
  return std::move(*netns);
}

}  // namespace zt::testing
