// bulk: as many bytes as the path takes in a given time. stall: bytes for receivers that never read.
#include <poll.h>
#include <cerrno>

#include <algorithm>

#include "bench/load.h"

namespace load {
namespace {

struct Stream {
  int fd = -1;
  bool open = true;
  uint64_t bytes = 0;      // down: received; up: as the server counted
  size_t count_bytes = 0;  // of the server's 8-byte answer
};

// Connects all, then sends the hello on each: nothing is measured before every connection stands.
std::vector<Stream> open_streams(Targets& targets, size_t count, const Hello& hello) {
  std::vector<Stream> streams(count);
  for (Stream& stream : streams) {
    stream.fd = connect_start(targets);
    pollfd ready{.fd = stream.fd, .events = POLLOUT, .revents = 0};
    if (::poll(&ready, 1, 10'000) != 1) die_text("connect timed out after 10 s");
    connect_finish(stream.fd);
  }
  for (Stream& stream : streams) send_all(stream.fd, &hello, sizeof(hello));
  return streams;
}

void read_count(Stream& stream) {
  const ssize_t got = ::recv(stream.fd, reinterpret_cast<char*>(&stream.bytes) + stream.count_bytes,
                             sizeof(stream.bytes) - stream.count_bytes, 0);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) die_text("a stream ended before its byte count came back");
  stream.count_bytes += static_cast<size_t>(got);
  stream.open = stream.count_bytes < sizeof(stream.bytes);
}

}  // namespace

int bulk(Options& options) {
  Targets targets(options.text("to"));
  const auto conns = static_cast<size_t>(options.number("conns", 1));
  const int64_t seconds = options.number("seconds", 4);
  const bool up = options.flag("up");
  options.finish();

  std::vector<char> buffer(kChunk);
  auto streams = open_streams(targets, conns, {.mode = up ? Mode::kSink : Mode::kSend});
  const int64_t start = now_ns();
  const int64_t end = start + seconds * 1'000'000'000;
  Epoll epoll;
  for (Stream& stream : streams) epoll.add(stream.fd, up ? EPOLLOUT : EPOLLIN, &stream);
  while (now_ns() < end) {
    for (const epoll_event& event : epoll.wait(end)) {
      auto& stream = *static_cast<Stream*>(event.data.ptr);
      const ssize_t moved =
          up ? ::send(stream.fd, buffer.data(), buffer.size(), MSG_NOSIGNAL) : ::recv(stream.fd, buffer.data(), buffer.size(), 0);
      if (moved > 0 && !up) stream.bytes += static_cast<uint64_t>(moved);
      if (moved == 0 || (moved < 0 && errno != EAGAIN)) die_text("a stream ended early");
    }
  }
  if (up) {  // the server tells what arrived; what is still under way counts when it is there
    for (Stream& stream : streams) {
      ::shutdown(stream.fd, SHUT_WR);
      epoll.change(stream.fd, EPOLLIN, &stream);
    }
    size_t left = streams.size();
    while (left > 0) {
      const auto& events = epoll.wait(now_ns() + 30'000'000'000);
      if (events.empty()) die_text("no byte count from the server within 30 s");
      for (const epoll_event& event : events) {
        auto& stream = *static_cast<Stream*>(event.data.ptr);
        if (!stream.open) continue;
        read_count(stream);
        if (!stream.open) {
          epoll.change(stream.fd, 0, &stream);
          --left;
        }
      }
    }
  }
  const double took = static_cast<double>(now_ns() - start) / 1e9;
  uint64_t total = 0;
  for (const Stream& stream : streams) total += stream.bytes;
  const auto [least, most] =
      std::minmax_element(streams.begin(), streams.end(), [](const Stream& a, const Stream& b) { return a.bytes < b.bytes; });
  std::printf(R"({"bytes":%llu,"seconds":%.3f,"gbit_per_s":%.3f,"least_stream":%llu,"most_stream":%llu})"
              "\n",
              static_cast<unsigned long long>(total), took, static_cast<double>(total) * 8 / 1e9 / took,
              static_cast<unsigned long long>(least->bytes), static_cast<unsigned long long>(most->bytes));
  return 0;
}

int stall(Options& options) {
  Targets targets(options.text("to"));
  const auto conns = static_cast<size_t>(options.number("conns", 4));
  options.finish();

  std::vector<char> buffer(kChunk);
  auto streams = open_streams(targets, conns, {.mode = Mode::kHold});
  Epoll epoll;
  for (Stream& stream : streams) epoll.add(stream.fd, EPOLLOUT, &stream);
  epoll.add(STDIN_FILENO, EPOLLIN, nullptr);
  uint64_t total = 0;
  size_t cut = 0;  // by a proxy that would rather lose a stalled stream than hold its bytes
  bool reported = false;
  for (;;) {
    // All have stalled when half a second passes in which none takes a byte.
    const auto& events = epoll.wait(reported ? -1 : now_ns() + 500'000'000);
    if (events.empty() && !reported) {
      reported = true;
      std::printf(R"({"stalled":%zu,"cut":%zu,"swallowed_bytes":%llu})"
                  "\n",
                  streams.size(), cut, static_cast<unsigned long long>(total));
      std::fflush(stdout);
    }
    for (const epoll_event& event : events) {
      if (event.data.ptr == nullptr) return 0;  // stdin ended
      auto& stream = *static_cast<Stream*>(event.data.ptr);
      if (!stream.open) continue;
      const ssize_t sent = ::send(stream.fd, buffer.data(), buffer.size(), MSG_NOSIGNAL);
      if (sent < 0 && errno != EAGAIN) {
        stream.open = false;
        ::close(stream.fd);
        ++cut;
      }
      if (sent > 0) total += static_cast<uint64_t>(sent);
    }
  }
}

}  // namespace load
