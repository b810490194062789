// connections: connect, one byte each way, close, again. idle: connections that did some work and now do
// nothing.
#include <cerrno>

#include <algorithm>

#include "bench/load.h"

namespace load {
namespace {

struct Slot {
  int fd = -1;
  int64_t start = 0;
  bool connected = false;
};

struct Holder {
  int fd = -1;
  bool connected = false;
  uint64_t left = 0;
};

}  // namespace

int connections(Options& options) {
  Targets targets(options.text("to"));
  const auto parallel = static_cast<size_t>(options.number("parallel", 1));
  const int64_t seconds = options.number("seconds", 4);
  const auto count = static_cast<size_t>(options.number("count", 0));  // 0: as many as the time allows
  options.finish();

  std::vector<Slot> slots(parallel);
  std::vector<int64_t> samples;
  Epoll epoll;
  const int64_t start = now_ns();
  const int64_t end = start + (count > 0 ? 600 : seconds) * 1'000'000'000;
  size_t begun = 0;
  size_t open = 0;
  const auto begin = [&](Slot& slot) {
    if (now_ns() >= end || (count > 0 && begun >= count)) return;
    slot = {.fd = connect_start(targets), .start = now_ns()};
    epoll.add(slot.fd, EPOLLOUT, &slot);
    ++begun;
    ++open;
  };
  for (Slot& slot : slots) begin(slot);
  while (open > 0) {
    const auto& events = epoll.wait(now_ns() + 20'000'000'000);
    if (events.empty()) die_text("a connection gave no answer within 20 s");
    for (const epoll_event& event : events) {
      Slot& slot = *static_cast<Slot*>(event.data.ptr);
      if (!slot.connected) {
        connect_finish(slot.fd);
        slot.connected = true;
        struct {
          Hello hello{.mode = Mode::kEcho, .request = 1, .amount = 1};
          char byte = 'x';
        } first;
        send_all(slot.fd, &first, sizeof(Hello) + 1);
        epoll.change(slot.fd, EPOLLIN, &slot);
        continue;
      }
      char byte = 0;
      const ssize_t got = ::recv(slot.fd, &byte, 1, 0);
      if (got < 0 && errno == EAGAIN) continue;
      if (got != 1) die_text("a connection was closed before its answer");
      samples.push_back(now_ns() - slot.start);
      ::close(slot.fd);
      --open;
      begin(slot);
    }
  }
  const double took = static_cast<double>(now_ns() - start) / 1e9;
  const double per_second = static_cast<double>(samples.size()) / took;
  std::printf(R"({"connections":%zu,"seconds":%.3f,"per_second":%.1f,"latency":%s})"
              "\n",
              samples.size(), took, per_second, percentiles(samples).c_str());
  return 0;
}

int idle(Options& options) {
  Targets targets(options.text("to"));
  const auto conns = static_cast<size_t>(options.number("conns", 100));
  const auto bytes = static_cast<uint64_t>(options.number("bytes", 0));
  const auto parallel = static_cast<size_t>(options.number("parallel", 32));
  options.finish();

  // Without bytes to move, one byte still goes each way: the connection must stand on both sides of the
  // proxies.
  const Hello hello =
      bytes > 0 ? Hello{.mode = Mode::kSend, .keep = 1, .amount = bytes} : Hello{.mode = Mode::kEcho, .request = 1, .amount = 1};
  std::vector<char> buffer(kChunk);
  std::vector<Holder> holders(conns);
  Epoll epoll;
  size_t begun = 0;
  size_t done = 0;
  const auto begin = [&] {
    if (begun == conns) return;
    Holder& holder = holders[begun++];
    holder = {.fd = connect_start(targets), .left = bytes > 0 ? bytes : 1};
    epoll.add(holder.fd, EPOLLOUT, &holder);
  };
  for (size_t i = 0; i < std::min(parallel, conns); ++i) begin();
  while (done < conns) {
    const auto& events = epoll.wait(now_ns() + 30'000'000'000);
    if (events.empty()) die_text("nothing moved for 30 s");
    for (const epoll_event& event : events) {
      Holder& holder = *static_cast<Holder*>(event.data.ptr);
      if (!holder.connected) {
        connect_finish(holder.fd);
        holder.connected = true;
        send_all(holder.fd, &hello, sizeof(hello));
        if (bytes == 0) send_all(holder.fd, "x", 1);
        epoll.change(holder.fd, EPOLLIN, &holder);
        continue;
      }
      const ssize_t got = ::recv(holder.fd, buffer.data(), buffer.size(), 0);
      if (got < 0 && errno == EAGAIN) continue;
      if (got <= 0) die_text("a connection ended early");
      holder.left -= std::min(holder.left, static_cast<uint64_t>(got));
      if (holder.left > 0) continue;
      epoll.change(holder.fd, 0, &holder);
      ++done;
      begin();
    }
  }
  std::printf(R"({"idle":%zu,"bytes_each":%llu})"
              "\n",
              conns, static_cast<unsigned long long>(bytes));
  std::fflush(stdout);
  while (::read(STDIN_FILENO, buffer.data(), buffer.size()) > 0) {
  }
  return 0;
}

}  // namespace load
