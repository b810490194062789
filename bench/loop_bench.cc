// What a wait costs: base/event_loop.h beside Boost.Asio, the reason why the workers do not run on Asio
// (ARCHITECTURE.md). Pairs of Unix sockets play ping-pong in one thread, every hop being what a relay does
// for a small request: wait until it is readable, one recv, one send. Counted per hop: CPU time, epoll_ctl is
// visible with `strace -c`; and the heap that 10 000 sockets take that only wait. The figures are medians of
// five turns, the variants taking turns.
#include <malloc.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "base/event_loop.h"

namespace {

namespace asio = boost::asio;
using AsioSocket = asio::local::stream_protocol::socket;

constexpr size_t kPairs = 64;
constexpr size_t kHops = 2'000'000;
constexpr size_t kIdleSockets = 10'000;
constexpr int kTurns = 5;

struct Pair {
  zt::UniqueFd a, b;
  Pair() {
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0) {
      std::perror("socketpair");
      std::exit(1);
    }
    a.reset(fds[0]);
    b.reset(fds[1]);
  }
};

double cpu_seconds() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

size_t heap_bytes() { return mallinfo2().uordblks; }

// One hop: false when there was nothing to read.
bool pass_on(int fd) {
  char bytes[1024];
  const ssize_t n = recv(fd, bytes, sizeof bytes, 0);
  return n > 0 && send(fd, bytes, static_cast<size_t>(n), MSG_NOSIGNAL) == n;
}

struct Ours {
  struct Echo final : zt::Watcher {
    Ours& owner;
    int fd;
    Echo(Ours& o, int f) : owner(o), fd(f) {}
    void on_ready(uint32_t events) noexcept override {
      if ((events & EPOLLIN) != 0 && pass_on(fd) && ++owner.hops == kHops) owner.loop.stop();
    }
  };
  zt::EventLoop loop;
  std::vector<std::unique_ptr<Echo>> ends;
  size_t hops = 0;
  void add(zt::UniqueFd& fd) {
    ends.push_back(std::make_unique<Echo>(*this, fd.get()));
    if (!loop.watch(fd.get(), *ends.back())) std::exit(1);
  }
  void run() { loop.run(); }
  ~Ours() {
    for (auto& end : ends) loop.unwatch(end->fd, *end);
  }
};

// One io_context a thread, as the design had it: async_wait for readiness, then our own recv into a lent
// buffer.
struct AsioWait {
  asio::io_context loop{1};
  std::vector<std::unique_ptr<AsioSocket>> ends;
  size_t hops = 0;
  void add(zt::UniqueFd& fd) {
    ends.push_back(std::make_unique<AsioSocket>(loop, asio::local::stream_protocol(), fd.release()));
    wait(*ends.back());
  }
  void wait(AsioSocket& socket) {
    socket.async_wait(AsioSocket::wait_read, [this, &socket](boost::system::error_code error) {
      if (error) return;
      if (pass_on(socket.native_handle()) && ++hops == kHops) return loop.stop();
      wait(socket);
    });
  }
  void run() { loop.run(); }
};

template <class Loop>
double microseconds_per_hop() {
  std::vector<Pair> pairs(kPairs);
  Loop loop;
  for (Pair& pair : pairs) {
    const char request[1024] = {};
    if (send(pair.a.get(), request, sizeof request, 0) != sizeof request) std::exit(1);
    loop.add(pair.a);
    loop.add(pair.b);
  }
  const double before = cpu_seconds();
  loop.run();
  return (cpu_seconds() - before) * 1e6 / kHops;
}

template <class Loop>
size_t bytes_per_idle_socket() {
  std::vector<Pair> pairs(kIdleSockets / 2);
  Loop loop;
  loop.ends.reserve(kIdleSockets);
  const size_t before = heap_bytes();
  for (Pair& pair : pairs) {
    loop.add(pair.a);
    loop.add(pair.b);
  }
  return (heap_bytes() - before) / kIdleSockets;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

}  // namespace

int main() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  std::vector<double> ours, theirs;
  for (int turn = 0; turn < kTurns; ++turn) {
    ours.push_back(microseconds_per_hop<Ours>());
    theirs.push_back(microseconds_per_hop<AsioWait>());
  }
  std::printf("%-28s %12s %12s\n", "", "event loop", "async_wait");
  std::printf("%-28s %12.3f %12.3f\n", "CPU us per hop", median(ours), median(theirs));
  std::printf("%-28s %12zu %12zu\n", "heap bytes per idle socket", bytes_per_idle_socket<Ours>(),
              bytes_per_idle_socket<AsioWait>());
}
