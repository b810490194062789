#include "tests/support/failing_calls/failing_calls.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdarg>
#include <cstring>
#include <filesystem>
#include <iterator>

namespace zt::testing {

namespace {

constexpr auto kCalls = static_cast<size_t>(Call::kCount_);
constexpr std::array<const char*, kCalls> kNames{"socket",     "bind",       "listen",    "connect",      "accept",
                                                 "setsockopt", "getsockopt", "epoll_ctl", "epoll_wait",   "send",
                                                 "sendmsg",    "recv",       "recvmsg",   "read",         "readv",
                                                 "write",      "writev",     "splice",    "pipe2",        "open",
                                                 "fcntl",      "ioctl",      "poll",      "fstat",        "fstatfs",
                                                 "rename",     "unlink",     "fchmod",    "inotify_init", "inotify_add_watch"};

// 0: the call is not one of those that shall fail.
std::array<std::atomic<int>, kCalls> errors;
std::atomic<size_t> until_failure{0};  // 0: none lives, or it has come
std::atomic<int> failed_call{-1};
std::atomic<bool> held{false};
thread_local int own_calls = 0;

// The error that this call shall end with; 0: none.
int next_error(Call call) {
  if (own_calls > 0 || held || until_failure.load(std::memory_order_relaxed) == 0) return 0;
  const int error = errors[static_cast<size_t>(call)].load();
  if (error == 0) return 0;
  for (size_t left = until_failure.load(); left > 0;) {
    if (!until_failure.compare_exchange_weak(left, left - 1)) continue;
    if (left > 1) return 0;
    failed_call = static_cast<int>(call);
    return error;
  }
  return 0;
}

}  // namespace

const char* call_name(Call call) { return kNames[static_cast<size_t>(call)]; }

FailingCalls every_call() {
  return {{Call::kSocket, EMFILE},
          {Call::kBind, EADDRINUSE},
          {Call::kListen, EADDRINUSE},
          {Call::kConnect, EADDRNOTAVAIL},
          {Call::kAccept, EMFILE},
          {Call::kSetsockopt, ENOBUFS},
          {Call::kGetsockopt, ENOBUFS},
          {Call::kEpollCtl, ENOSPC},
          {Call::kSend, EPIPE},
          {Call::kSendmsg, ECONNRESET},
          {Call::kRecv, ECONNRESET},
          {Call::kRecvmsg, ENOMEM},
          {Call::kRead, EIO},
          {Call::kReadv, ECONNRESET},
          {Call::kWrite, ENOSPC},
          {Call::kWritev, EPIPE},
          {Call::kSplice, ECONNRESET},
          {Call::kPipe2, EMFILE},
          {Call::kOpen, EMFILE},
          {Call::kFcntl, EPERM},
          {Call::kIoctl, EINVAL},
          {Call::kPoll, ENOMEM},
          {Call::kFstat, ENOMEM},
          {Call::kFstatfs, ENOMEM},
          {Call::kRename, ENOSPC},
          {Call::kUnlink, EROFS},
          {Call::kFchmod, EPERM},
          {Call::kInotifyInit, EMFILE},
          {Call::kInotifyAddWatch, ENOSPC}};
}

FailingCalls interrupted_calls() {
  FailingCalls calls;
  for (const Call call : {Call::kAccept, Call::kEpollWait, Call::kSend, Call::kSendmsg, Call::kRecv, Call::kRecvmsg, Call::kRead,
                          Call::kReadv, Call::kWrite, Call::kWritev, Call::kSplice, Call::kPoll}) {
    calls.push_back({call, EINTR});
  }
  return calls;
}

FailingCalls without(FailingCalls calls, std::initializer_list<Call> excepted) {
  std::erase_if(calls, [&](const FailingCall& each) { return std::ranges::find(excepted, each.call) != excepted.end(); });
  return calls;
}

FailNth::FailNth(const FailingCalls& calls, size_t nth) : nth_(nth) {
  failed_call = -1;
  for (auto& error : errors) error = 0;
  for (const auto& each : calls) errors[static_cast<size_t>(each.call)] = each.error;
  until_failure = nth;
}

FailNth::~FailNth() {
  until_failure = 0;
  held = false;
}

void FailNth::hold() { held = true; }
void FailNth::release() { held = false; }

std::string FailNth::failed() const {
  const int call = failed_call;
  if (call < 0) return {};
  const auto index = static_cast<size_t>(call);
  return std::string(kNames[index]) + " (call #" + std::to_string(nth_) + "): " + std::strerror(errors[index]);
}

OwnCalls::OwnCalls() { ++own_calls; }
OwnCalls::~OwnCalls() { --own_calls; }

size_t count_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

}  // namespace zt::testing

// The linker leads the calls here and the real ones to __real_….
#define ZT_WRAP(call, name, result, parameters, ...)                                      \
  extern "C" result __real_##name parameters;                                             \
  extern "C" result __wrap_##name parameters;                                             \
  extern "C" result __wrap_##name parameters {                                            \
    if (const int error = zt::testing::next_error(zt::testing::Call::call); error != 0) { \
      errno = error;                                                                      \
      return -1;                                                                          \
    }                                                                                     \
    return __real_##name(__VA_ARGS__);                                                    \
  }

ZT_WRAP(kSocket, socket, int, (int domain, int type, int protocol), domain, type, protocol)
ZT_WRAP(kBind, bind, int, (int fd, const sockaddr* address, socklen_t size), fd, address, size)
ZT_WRAP(kListen, listen, int, (int fd, int backlog), fd, backlog)
ZT_WRAP(kConnect, connect, int, (int fd, const sockaddr* address, socklen_t size), fd, address, size)
ZT_WRAP(kAccept, accept, int, (int fd, sockaddr* address, socklen_t* size), fd, address, size)
ZT_WRAP(kAccept, accept4, int, (int fd, sockaddr* address, socklen_t* size, int flags), fd, address, size, flags)
ZT_WRAP(kSetsockopt, setsockopt, int, (int fd, int level, int name, const void* value, socklen_t size), fd, level, name, value,
        size)
ZT_WRAP(kGetsockopt, getsockopt, int, (int fd, int level, int name, void* value, socklen_t* size), fd, level, name, value, size)
ZT_WRAP(kEpollWait, epoll_wait, int, (int fd, epoll_event* events, int most, int limit), fd, events, most, limit)
ZT_WRAP(kSend, send, ssize_t, (int fd, const void* data, size_t size, int flags), fd, data, size, flags)
ZT_WRAP(kSendmsg, sendmsg, ssize_t, (int fd, const msghdr* message, int flags), fd, message, flags)
ZT_WRAP(kRecv, recv, ssize_t, (int fd, void* data, size_t size, int flags), fd, data, size, flags)
ZT_WRAP(kRecvmsg, recvmsg, ssize_t, (int fd, msghdr* message, int flags), fd, message, flags)
ZT_WRAP(kRead, read, ssize_t, (int fd, void* data, size_t size), fd, data, size)
ZT_WRAP(kReadv, readv, ssize_t, (int fd, const iovec* parts, int count), fd, parts, count)
ZT_WRAP(kWrite, write, ssize_t, (int fd, const void* data, size_t size), fd, data, size)
ZT_WRAP(kWritev, writev, ssize_t, (int fd, const iovec* parts, int count), fd, parts, count)
ZT_WRAP(kSplice, splice, ssize_t, (int in, off64_t* in_offset, int out, off64_t* out_offset, size_t size, unsigned flags), in,
        in_offset, out, out_offset, size, flags)
ZT_WRAP(kPipe2, pipe2, int, (int* ends, int flags), ends, flags)
ZT_WRAP(kPoll, poll, int, (pollfd * fds, nfds_t count, int limit), fds, count, limit)
ZT_WRAP(kFstat, fstat, int, (int fd, struct stat* status), fd, status)
ZT_WRAP(kFstatfs, fstatfs, int, (int fd, struct statfs* status), fd, status)
ZT_WRAP(kRename, rename, int, (const char* from, const char* to), from, to)
ZT_WRAP(kUnlink, unlink, int, (const char* path), path)
ZT_WRAP(kFchmod, fchmod, int, (int fd, mode_t mode), fd, mode)
ZT_WRAP(kInotifyInit, inotify_init1, int, (int flags), flags)
ZT_WRAP(kInotifyAddWatch, inotify_add_watch, int, (int fd, const char* path, uint32_t mask), fd, path, mask)
// What _FORTIFY_SOURCE makes of them.
ZT_WRAP(kRecv, __recv_chk, ssize_t, (int fd, void* data, size_t size, size_t room, int flags), fd, data, size, room, flags)
ZT_WRAP(kRead, __read_chk, ssize_t, (int fd, void* data, size_t size, size_t room), fd, data, size, room)
ZT_WRAP(kPoll, __poll_chk, int, (pollfd * fds, nfds_t count, int limit, size_t room), fds, count, limit, room)
ZT_WRAP(kOpen, __open_2, int, (const char* path, int flags), path, flags)

// A descriptor is always forgotten: a failure of that has no meaning for the caller.
extern "C" int __real_epoll_ctl(int epoll, int operation, int fd, epoll_event* event);
extern "C" int __wrap_epoll_ctl(int epoll, int operation, int fd, epoll_event* event);
extern "C" int __wrap_epoll_ctl(int epoll, int operation, int fd, epoll_event* event) {
  const int error = operation == EPOLL_CTL_DEL ? 0 : zt::testing::next_error(zt::testing::Call::kEpollCtl);
  if (error == 0) return __real_epoll_ctl(epoll, operation, fd, event);
  errno = error;
  return -1;
}

// One argument of any kind behind those that are named: passed on as it came.
#define ZT_WRAP_VARIADIC(call, name, first, second, third)                                \
  extern "C" int __real_##name(first, second, ...);                                       \
  extern "C" int __wrap_##name(first, second, ...);                                       \
  extern "C" int __wrap_##name(first a, second b, ...) {                                  \
    if (const int error = zt::testing::next_error(zt::testing::Call::call); error != 0) { \
      errno = error;                                                                      \
      return -1;                                                                          \
    }                                                                                     \
    va_list rest;                                                                         \
    va_start(rest, b);                                                                    \
    const auto c = va_arg(rest, third);                                                   \
    va_end(rest);                                                                         \
    return __real_##name(a, b, c);                                                        \
  }
ZT_WRAP_VARIADIC(kOpen, open, const char*, int, unsigned)
ZT_WRAP_VARIADIC(kFcntl, fcntl, int, int, long)
ZT_WRAP_VARIADIC(kIoctl, ioctl, int, unsigned long, void*)
