#include "base/acceptor.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <vector>

using namespace zt;
using namespace std::chrono_literals;

namespace {

UniqueFd tcp_socket() {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(fd);
  return fd;
}

struct Fixture {
  EventLoop loop;
  sockaddr_in address{};
  std::vector<UniqueFd> accepted, clients;
  std::function<void()> then = [] {};
  std::unique_ptr<Acceptor> acceptor;

  Fixture() {
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    REQUIRE(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::listen(listener.get(), 16) == 0);
    socklen_t size = sizeof address;
    REQUIRE(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
    acceptor = std::make_unique<Acceptor>(
        loop, std::move(listener),
        [this](UniqueFd fd, const SocketAddress&) {
          accepted.push_back(std::move(fd));
          then();
        },
        [](int) {});
    REQUIRE(acceptor->start());
  }
  void connect(int times) {
    for (int i = 0; i < times; ++i) {
      clients.push_back(tcp_socket());
      REQUIRE(::connect(clients.back().get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    }
  }
  bool accepts(size_t count) {
    return loop.run_until([&] { return accepted.size() == count; }, 5s);
  }
};

}  // namespace

TEST_CASE_METHOD(Fixture, "an acceptor that rests leaves who comes in the queue, and takes them afterwards") {
  Clock::time_point since;
  then = [&] {
    if (accepted.size() != 2) return;
    since = Clock::now();
    acceptor->rest(50ms);
  };
  connect(2);
  REQUIRE(accepts(2));
  connect(3);
  REQUIRE(accepts(5));
  CHECK(Clock::now() - since >= 50ms);
}

TEST_CASE_METHOD(Fixture, "what waits in the queue of one that rests can be had at once") {
  acceptor->rest(1h);
  connect(3);
  loop.run_once(10ms);
  CHECK(accepted.empty());
  then = [this] { acceptor->rest(1h); };
  CHECK_FALSE(acceptor->accept_some());
  CHECK(accepted.size() == 3);
}
