#include "base/linux/netns.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <system_error>
#include <thread>

namespace zt {

namespace {

// Of the calling thread, not of the process: workers are threads, and each enters and leaves for itself.
constexpr const char* kOwnNetns = "/proc/thread-self/ns/net";

// Nothing to check if the descriptor is one. Kernels before 4.11 cannot tell the type of an nsfs file; ours
// can.
Result<> check_is_netns(int fd) {
  struct statfs fs{};
  if (::fstatfs(fd, &fs) != 0) return fail_errno(Fault::kIo, "fstatfs");
  if (fs.f_type != NSFS_MAGIC) {
    return fail(Fault::kInvalidInput, fmt::format("not a namespace (file system type {:#x}, nsfs is {:#x})",
                                                  static_cast<unsigned long>(fs.f_type), NSFS_MAGIC));
  }
  const int type = ::ioctl(fd, NS_GET_NSTYPE);
  if (type < 0) return fail_errno(Fault::kIo, "ioctl(NS_GET_NSTYPE)");
  if (type != CLONE_NEWNET) {
    return fail(Fault::kInvalidInput,
                fmt::format("a namespace of another type ({:#x}), not a network namespace", static_cast<unsigned>(type)));
  }
  return {};
}

}  // namespace

Result<Netns> Netns::from_fd(UniqueFd fd) {
  ZT_TRY(check_is_netns(fd.get()));
  struct stat file{};
  if (::fstat(fd.get(), &file) != 0) return fail_errno(Fault::kIo, "fstat");
  return Netns(std::move(fd), Id{file.st_dev, file.st_ino});
}

Result<Netns> Netns::open(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd) {
    return fail_errno(errno == ENOENT ? Fault::kNotFound : Fault::kIo, fmt::format("network namespace {}", path));
  }
  auto netns = from_fd(std::move(fd));
  if (!netns) return fail(netns.error().reason, fmt::format("{}: {}", path, netns.error().text));
  return netns;
}

Result<Netns> Netns::current() { return open(kOwnNetns); }

std::string Netns::to_string() const { return fmt::format("net:[{}]", id_.inode); }

Result<> enter_for_good(const Netns& netns) {
  if (::setns(netns.fd(), CLONE_NEWNET) == 0) return {};
  return fail_errno(Fault::kIo, fmt::format("setns to {}", netns.to_string()));
}

Result<> detail::run_in_netns_thread(const Netns& netns, const std::function<void()>& work) {
  Result<> entered;
  try {
    std::thread([&] {
      entered = enter_for_good(netns);
      if (entered) work();
    }).join();
  } catch (const std::system_error& error) {
    return fail(Fault::kResourceLimit, fmt::format("cannot start a thread: {}", error.what()));
  }
  return entered;
}

Result<> ScopedNetns::enter(const Netns& netns) {
  // The way back is opened first: without it nobody goes in.
  UniqueFd home(::open(kOwnNetns, O_RDONLY | O_CLOEXEC));
  if (!home) return fail_errno(Fault::kIo, kOwnNetns);
  ZT_TRY(enter_for_good(netns));
  home_ = std::move(home);
  return {};
}

ScopedNetns::~ScopedNetns() {
  if (!home_ || ::setns(home_.get(), CLONE_NEWNET) == 0) return;
  std::fprintf(stderr, "fatal: a thread cannot return to its own network namespace: %s\n", errno_text(errno).c_str());
  std::abort();
}

Result<> check_netns_privileges(uint32_t mark) {
  ZT_ASSIGN(const Netns own, Netns::current());
  constexpr std::string_view kRemedy = "Run as root; in Kubernetes grant it in the container's securityContext.capabilities.add.";
  {
    ScopedNetns scope;
    if (auto entered = scope.enter(own); !entered) {
      return fail(Fault::kIo, fmt::format("cannot enter network namespaces ({}): CAP_SYS_ADMIN is missing. {}",
                                          entered.error().text, kRemedy));
    }
  }
  const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno(Fault::kIo, "cannot create a TCP socket");
  if (mark != 0 && ::setsockopt(socket.get(), SOL_SOCKET, SO_MARK, &mark, sizeof mark) != 0) {
    return fail(Fault::kIo, fmt::format("cannot mark sockets (SO_MARK {:#x}: {}): CAP_NET_RAW or CAP_NET_ADMIN is "
                                        "missing. {} Unmarked sockets would be captured again by the pod's rules.",
                                        mark, errno_text(errno), kRemedy));
  }
  return {};
}

}  // namespace zt
