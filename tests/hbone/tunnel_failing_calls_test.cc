// A pair of tunnels while the system calls of either end fail, one at a time.
#include <catch2/catch.hpp>
#include <optional>

#include "tests/hbone/tunnel_pair.h"
#include "tests/support/failing_calls/failing_calls.h"

using namespace zt;
using namespace zt::hbone;
using namespace zt::hbone::testing;
using namespace zt::testing;

namespace {

// An exchange over one stream, each side more than a batch. Whatever fails, each side sees its end in time: an orderly one only
// with all bytes.
struct Exchange {
  static constexpr size_t kUp = 3'000'000, kDown = 2'000'000;
  EventLoop loop;
  MemoryLimit memory{64 << 20};
  WorkerIo io{loop, memory};
  TunnelConfig config;
  ServerEnd server;
  ClientEnd client;
  MemoryUser user;
  std::pair<UniqueFd, UniqueFd> sockets = tcp_pair();

  // True: all went well.
  bool run() {
    auto near =
        Tunnel::start(io, io.budget, Tunnel::Role::kClient, std::move(sockets.first), established(false), {}, config, client);
    auto far =
        Tunnel::start(io, io.budget, Tunnel::Role::kServer, std::move(sockets.second), established(true), {}, config, server);
    if (near) client.tunnel = std::move(*near);
    if (far) server.tunnel = std::move(*far);
    if (!near || !far) return false;
    server.on_new = [](MemoryUser& other) { other.send(std::string(kDown, 'd'), true); };
    auto stream = client.tunnel->open(kConnect, user);
    if (!stream) return false;
    user.stream = *stream;
    constexpr auto kInTime = std::chrono::seconds(20);
    REQUIRE(loop.run_until([&] { return user.response || user.closed; }, kInTime));
    if (user.response) user.send(std::string(kUp, 'u'), true);
    REQUIRE(loop.run_until(
        [&] {
          const bool far_over = server.users.empty() ? server.closed.has_value() : server.users[0]->closed.has_value();
          return user.closed && far_over;
        },
        kInTime));
    if (user.ended) CHECK(user.received.size() == kDown);
    if (!server.users.empty() && server.users[0]->ended) CHECK(server.users[0]->received.size() == kUp);
    return user.ended && server.users[0]->ended;
  }
};

bool exchange() {
  std::optional<Exchange> each;
  {
    const OwnCalls own;
    each.emplace();
  }
  const bool all_well = each->run();
  const OwnCalls own;
  each.reset();
  return all_well;
}

}  // namespace

TEST_CASE("whatever call of a tunnel fails, both ends see it in time and no descriptor is lost") {
  const size_t calls = fail_each(every_call(), [](const FailNth& fail) {
    const bool all_well = exchange();
    if (fail.failed().empty()) CHECK(all_well);
  });
  CHECK(calls > 20);
}

TEST_CASE("signals that interrupt a tunnel's calls change nothing") {
  const size_t calls = fail_each(interrupted_calls(), [](const FailNth&) { CHECK(exchange()); });
  CHECK(calls > 20);
}
