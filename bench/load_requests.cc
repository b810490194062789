// requests: a fixed number of requests a second over some connections, open loop. A request's time runs from
// the moment it was due, not from when it could be sent: a stall is charged to every request that it delayed.
// Rate 0 is a closed loop.
#include <poll.h>
#include <cerrno>

#include <algorithm>
#include <deque>

#include "bench/load.h"

namespace load {
namespace {

struct Client {
  int fd = -1;
  std::deque<int64_t> due;  // the request under way (front), and those that wait for it
  uint64_t awaited = 0;     // bytes of the reply still to come; 0: no request under way
};

}  // namespace

int requests(Options& options) {
  Targets targets(options.text("to"));
  const auto conns = static_cast<size_t>(options.number("conns", 16));
  const int64_t seconds = options.number("seconds", 5);
  const int64_t rate = options.number("rate", 1000);
  const auto request = static_cast<uint32_t>(options.number("request", 1024));
  const auto reply = static_cast<uint64_t>(options.number("reply", 1024));
  options.finish();
  if (conns == 0 || request == 0 || reply == 0) die_text("--conns, --request and --reply must not be 0");

  std::vector<char> buffer(std::max<size_t>(request, 64 * 1024));
  std::vector<Client> clients(conns);
  Epoll epoll;
  const Hello hello{.mode = Mode::kEcho, .request = request, .amount = reply};
  for (Client& client : clients) {
    client.fd = connect_start(targets);
    pollfd ready{.fd = client.fd, .events = POLLOUT, .revents = 0};
    if (::poll(&ready, 1, 10'000) != 1) die_text("connect timed out after 10 s");
    connect_finish(client.fd);
    send_all(client.fd, &hello, sizeof(hello));
    epoll.add(client.fd, EPOLLIN, &client);
  }

  std::vector<int64_t> samples;
  const auto send_front = [&](Client& client) {
    send_all(client.fd, buffer.data(), request);
    client.awaited = reply;
  };
  const auto give = [&](Client& client, int64_t due) {
    client.due.push_back(due);
    if (client.awaited == 0) send_front(client);
  };

  const int64_t start = now_ns();
  const int64_t end = start + seconds * 1'000'000'000;
  if (rate == 0) {
    for (Client& client : clients) give(client, start);
  }
  int64_t given = 0;
  const int64_t all = rate * seconds;
  size_t under_way = rate == 0 ? conns : 0;
  while (now_ns() < end || under_way > 0) {
    const int64_t now = now_ns();
    while (rate > 0 && given < all && start + given * 1'000'000'000 / rate <= now) {
      give(clients[static_cast<size_t>(given) % conns], start + given * 1'000'000'000 / rate);
      ++given;
      ++under_way;
    }
    if (now > end + 20'000'000'000) die_text("replies still missing 20 s after the end");
    const int64_t next =
        rate > 0 && given < all ? start + given * 1'000'000'000 / rate : (under_way > 0 ? now + 100'000'000 : end);
    for (const epoll_event& event : epoll.wait(next)) {
      Client& client = *static_cast<Client*>(event.data.ptr);
      const ssize_t got = ::recv(client.fd, buffer.data(), buffer.size(), 0);
      if (got < 0 && errno == EAGAIN) continue;
      if (got <= 0) die_text("a connection ended early");
      client.awaited -= std::min(client.awaited, static_cast<uint64_t>(got));
      if (client.awaited > 0) continue;
      const int64_t done = now_ns();
      samples.push_back(done - client.due.front());
      client.due.pop_front();
      --under_way;
      if (rate == 0 && done < end) {
        give(client, done);
        ++under_way;
      } else if (!client.due.empty()) {
        send_front(client);
      }
    }
  }
  const double took = static_cast<double>(now_ns() - start) / 1e9;
  const double per_second = static_cast<double>(samples.size()) / took;
  std::printf(R"({"requests":%zu,"seconds":%.3f,"per_second":%.1f,"latency":%s})"
              "\n",
              samples.size(), took, per_second, percentiles(samples).c_str());
  return 0;
}

}  // namespace load
