#include "hbone/tunnel_pool.h"

#include <catch2/catch.hpp>
#include <map>
#include <set>

#include "mesh/reason.h"
#include "tests/hbone/tunnel_pair.h"

using namespace zt;
using namespace zt::hbone;
using namespace zt::hbone::testing;
using namespace std::chrono_literals;

namespace {

// A pool whose dials end at servers in this process, after as long as the test wants.
struct Fixture {
  EventLoop loop;
  MemoryLimit memory{64 << 20};
  WorkerIo io{loop, memory};
  TunnelConfig config;
  TunnelPoolConfig pool_config;
  std::vector<std::unique_ptr<ServerEnd>> servers;
  std::optional<Error> dial_error;
  Clock::duration dial_time{0};
  std::map<uint16_t, int> dials;  // by destination port
  Event gate;                     // with hold: dials wait for it
  bool hold = false;
  std::unique_ptr<TunnelPool> pool;
  TaskScope tasks{loop};

  Fixture() { make(); }
  void make() {
    pool = std::make_unique<TunnelPool>(loop, pool_config,
                                        [this](const TunnelKey& key, TunnelOwner& owner) { return dial(key, owner); });
  }
  Task<Result<std::unique_ptr<Tunnel>>> dial(TunnelKey key, TunnelOwner& owner) {
    ++dials[key.destination.port];
    if (hold) co_await gate.wait(loop, 30s);
    if (dial_error) co_return std::unexpected(*dial_error);
    auto [a, b] = tcp_pair();
    auto& server = *servers.emplace_back(std::make_unique<ServerEnd>());
    auto started = Tunnel::start(io, io.budget, Tunnel::Role::kServer, std::move(b), established(true), {}, config, server);
    REQUIRE(started);
    server.tunnel = std::move(*started);
    co_return Tunnel::start(io, io.budget, Tunnel::Role::kClient, std::move(a), established(false), {}, config, owner);
  }
  static TunnelKey key(uint16_t port, std::string account = "a") {
    return {.source = {"cluster.local", "ns", std::move(account)},
            .expected = {{"cluster.local", "ns", "b"}},
            .destination = {IpAddress::v4(0x0a000001), port},
            .source_ip = IpAddress::v4(0x0a000002)};
  }
  struct Request {
    MemoryUser user;
    std::optional<Error> error;
    bool done = false;
  };
  std::unique_ptr<Request> open(TunnelKey wanted) {
    auto request = std::make_unique<Request>();
    tasks.spawn([](TunnelPool& from, TunnelKey by, Request& into) -> Task<void> {
      auto stream = co_await from.open(by, kConnect, into.user);
      if (stream) {
        into.user.stream = *stream;
      } else {
        into.error = stream.error();
      }
      into.done = true;
    }(*pool, std::move(wanted), *request));
    return request;
  }
  bool run(const std::function<bool()>& until) { return loop.run_until(until, 20s); }
};

}  // namespace

TEST_CASE("connections with equal keys share a tunnel, others do not") {
  Fixture f;
  auto a = f.open(f.key(1)), b = f.open(f.key(1)), other_port = f.open(f.key(2)), other_account = f.open(f.key(1, "z"));
  REQUIRE(
      f.run([&] { return a->user.response && b->user.response && other_port->user.response && other_account->user.response; }));
  CHECK(&a->user.stream->tunnel() == &b->user.stream->tunnel());
  CHECK(f.dials[1] == 2);  // one per account
  CHECK(f.dials[2] == 1);
  CHECK(f.pool->tunnels() == 3);
}

TEST_CASE("a storm on one key makes one dial, and waiters of other keys never wait for it") {
  Fixture f;
  f.hold = true;
  std::vector<std::unique_ptr<Fixture::Request>> storm;
  for (int i = 0; i < 50; ++i) storm.push_back(f.open(f.key(1)));
  CHECK(f.dials[1] == 1);
  f.hold = false;
  auto other = f.open(f.key(2));
  REQUIRE(f.run([&] { return other->user.response.has_value(); }));
  CHECK_FALSE(storm[0]->done);
  f.gate.set();
  REQUIRE(f.run(
      [&] { return std::all_of(storm.begin(), storm.end(), [](auto& request) { return request->user.response.has_value(); }); }));
  CHECK(f.dials[1] == 1);
}

TEST_CASE("beyond the stream limit another tunnel is dialled, and a full one is used again when it has room") {
  Fixture f;
  f.pool_config.max_streams_per_tunnel = 2;
  f.make();
  std::vector<std::unique_ptr<Fixture::Request>> requests;
  for (int i = 0; i < 5; ++i) {
    requests.push_back(f.open(f.key(1)));
    REQUIRE(f.run([&] { return requests.back()->user.response.has_value(); }));
  }
  CHECK(f.dials[1] == 3);
  requests[0]->user.abandon(H2Error::kCancel);
  requests.push_back(f.open(f.key(1)));
  REQUIRE(f.run([&] { return requests.back()->user.response.has_value(); }));
  requests.push_back(f.open(f.key(1)));
  REQUIRE(f.run([&] { return requests.back()->user.response.has_value(); }));
  CHECK(f.dials[1] == 3);
}

TEST_CASE("a tunnel to a server that is for many gets neighbours as it fills, up to the limit") {
  Fixture f;
  f.pool_config.spread_streams = 4;
  f.make();
  auto waypoint = f.key(1);
  waypoint.spread = true;
  std::vector<std::unique_ptr<Fixture::Request>> requests;
  const auto open = [&](const TunnelKey& key) {
    requests.push_back(f.open(key));
    REQUIRE(f.run([&] { return requests.back()->user.response.has_value(); }));
  };
  for (int i = 0; i < 4; ++i) open(waypoint);
  CHECK(f.dials[1] == 1);
  for (int i = 0; i < 60; ++i) open(waypoint);
  CHECK(f.dials[1] == 4);
  std::multiset<size_t> loads;
  for (const auto& server : f.servers) loads.insert(server->tunnel->streams());
  CHECK(*loads.rbegin() - *loads.begin() <= 4);
  for (int i = 0; i < 64; ++i) open(f.key(2));
  CHECK(f.dials[2] == 1);
}

TEST_CASE("a stream limit above what is assumed of a peer holds once the peer has said what it allows") {
  Fixture f;
  f.pool_config.max_streams_per_tunnel = 150;
  f.make();
  std::vector<std::unique_ptr<Fixture::Request>> requests;
  for (int i = 0; i < 151; ++i) {
    requests.push_back(f.open(f.key(1)));
    REQUIRE(f.run([&] { return requests.back()->user.response.has_value(); }));
    if (i == 149) CHECK(f.dials[1] == 1);
  }
  CHECK(f.dials[1] == 2);
}

TEST_CASE("the peer's own stream limit counts too") {
  Fixture f;
  f.config.max_concurrent_streams = 1;
  auto first = f.open(f.key(1));
  REQUIRE(f.run([&] { return first->user.response.has_value(); }));
  auto second = f.open(f.key(1));
  REQUIRE(f.run([&] { return second->user.response.has_value(); }));
  CHECK(f.dials[1] == 2);
}

TEST_CASE("after GOAWAY new connections take a new tunnel, old ones go on") {
  Fixture f;
  auto old = f.open(f.key(1));
  REQUIRE(f.run([&] { return old->user.response.has_value(); }));
  f.servers[0]->tunnel->drain();
  Tunnel& tunnel = old->user.stream->tunnel();
  REQUIRE(f.run([&] { return tunnel.free_streams() == 0; }));
  auto next = f.open(f.key(1));
  REQUIRE(f.run([&] { return next->user.response.has_value(); }));
  CHECK(f.dials[1] == 2);
  old->user.send("still");
  REQUIRE(f.run([&] { return f.servers[0]->users[0]->received == "still"; }));
}

TEST_CASE("an unused tunnel is released after its time, one with a stream is not") {
  Fixture f;
  f.pool_config.idle_release = 30ms;
  f.make();
  auto used = f.open(f.key(1)), unused = f.open(f.key(2));
  REQUIRE(f.run([&] { return used->user.response && unused->user.response; }));
  unused->user.abandon(H2Error::kCancel);
  REQUIRE(f.run([&] { return f.pool->tunnels() == 1; }));
  CHECK_FALSE(used->user.closed);
  REQUIRE(f.run([&] { return f.servers[1]->closed.has_value(); }));
}

TEST_CASE("a stream on a tunnel that was unused for a while lives as long as it likes, and the time begins anew after it") {
  Fixture f;
  f.pool_config.idle_release = 300ms;
  f.make();
  auto first = f.open(f.key(1));
  REQUIRE(f.run([&] { return first->user.response.has_value(); }));
  Tunnel& tunnel = first->user.stream->tunnel();
  first->user.abandon(H2Error::kCancel);
  REQUIRE(f.run([&] { return tunnel.streams() == 0; }));
  auto second = f.open(f.key(1));
  REQUIRE(f.run([&] { return second->user.response.has_value(); }));
  REQUIRE_FALSE(f.loop.run_until([&] { return second->user.closed.has_value(); }, 450ms));
  CHECK(f.dials[1] == 1);
  const auto unused_since = Clock::now();
  second->user.abandon(H2Error::kCancel);
  REQUIRE(f.run([&] { return f.pool->tunnels() == 0; }));
  CHECK(Clock::now() - unused_since >= 300ms);
}

TEST_CASE("a failed dial is told to all who waited, and the next one tries again") {
  Fixture f;
  f.hold = true;
  f.dial_error = Error{Reason::kConnectFailed, "io error: Connection refused"};
  auto a = f.open(f.key(1)), b = f.open(f.key(1));
  f.gate.set();
  REQUIRE(f.run([&] { return a->done && b->done; }));
  CHECK(a->error->text == "io error: Connection refused");
  CHECK(b->error->reason == Reason::kConnectFailed);
  f.dial_error.reset();
  auto c = f.open(f.key(1));
  REQUIRE(f.run([&] { return c->user.response.has_value(); }));
  CHECK(f.dials[1] == 2);
}

TEST_CASE("a waiter gives up after its limit while the dial goes on for the next") {
  Fixture f;
  f.pool_config.acquire_timeout = 20ms;
  f.make();
  f.hold = true;
  auto a = f.open(f.key(1));
  REQUIRE(f.run([&] { return a->done; }));
  CHECK(a->error->reason == Reason::kConnectTimeout);
  f.gate.set();
  auto b = f.open(f.key(1));
  REQUIRE(f.run([&] { return b->user.response.has_value(); }));
  CHECK(f.dials[1] == 1);
}

TEST_CASE("tunnels whose destination is gone are drained, others stay") {
  Fixture f;
  auto a = f.open(f.key(1)), b = f.open(f.key(2));
  REQUIRE(f.run([&] { return a->user.response && b->user.response; }));
  a->user.abandon(H2Error::kCancel);
  f.pool->retire_some(true, [](const TunnelKey& key) { return key.destination.port == 1; });
  REQUIRE(f.run([&] { return f.pool->tunnels() == 1; }));
  CHECK_FALSE(b->user.closed);
}

TEST_CASE("a pool goes through its tunnels in pieces, and through each of them once") {
  Fixture f;
  constexpr size_t kTunnels = 2 * TunnelPool::kPiece + 10;
  std::vector<std::unique_ptr<Fixture::Request>> requests;
  for (uint16_t i = 1; i <= kTunnels; ++i) requests.push_back(f.open(f.key(i)));
  REQUIRE(f.run([&] { return std::ranges::all_of(requests, [](const auto& each) { return each->user.response.has_value(); }); }));
  REQUIRE(f.pool->tunnels() == kTunnels);
  size_t seen = 0, pieces = 0;
  const bool close = GENERATE(false, true);
  const auto piece = [&](bool anew) {
    return close ? f.pool->close_some_if(
                       anew,
                       [&](const Tunnel&) {
                         ++seen;
                         return true;
                       },
                       Reason::kCertRevoked)
                 : f.pool->retire_some(anew, [&](const TunnelKey&) {
                     ++seen;
                     return true;
                   });
  };
  for (bool done = false; !done; ++pieces) {
    const size_t before = seen;
    done = piece(pieces == 0);
    CHECK(seen - before <= TunnelPool::kPiece);
    if (pieces == 0) {
      for (auto& each : requests) each->user.abandon(H2Error::kCancel);
    }
    f.loop.run_once(0ms);  // those that end meanwhile
  }
  CHECK(seen == kTunnels);
  CHECK(pieces == 3);
  CHECK(f.run([&] { return f.pool->tunnels() == 0; }));
}

TEST_CASE("destroying the pool ends dials and tells streams") {
  Fixture f;
  auto open = f.open(f.key(1));
  REQUIRE(f.run([&] { return open->user.response.has_value(); }));
  f.hold = true;
  auto waiting = f.open(f.key(9));
  f.tasks.~TaskScope();
  new (&f.tasks) TaskScope(f.loop);
  f.pool.reset();
  f.loop.run_once(1ms);
  SUCCEED();
}

TEST_CASE("a tunnel that comes from another process has been idle for as long as it was there") {
  Fixture f;
  f.pool_config.idle_release = 60s;
  f.make();
  const auto come = [&](std::chrono::milliseconds idle) {
    auto [a, b] = tcp_pair();
    auto& server = *f.servers.emplace_back(std::make_unique<ServerEnd>());
    auto far = Tunnel::start(f.io, f.io.budget, Tunnel::Role::kServer, std::move(b), established(true), {}, f.config, server);
    REQUIRE(far);
    server.tunnel = std::move(*far);
    auto near =
        Tunnel::start(f.io, f.io.budget, Tunnel::Role::kClient, std::move(a), established(false), {}, f.config, f.pool->owner());
    REQUIRE(near);
    f.pool->adopt(f.key(1), std::move(*near), idle);
  };
  come(10s);
  come(59'950ms);
  come(90s);  // configured to wait for longer there
  CHECK(f.pool->tunnels() == 3);
  REQUIRE(f.run([&] { return f.pool->tunnels() == 1; }));
  f.pool->begin_leaving();
  const auto left = f.pool->next_leaving();
  REQUIRE(left);
  CHECK(left->key == f.key(1));
  CHECK(left->idle >= 10s);
  CHECK(left->idle < 60s);
  CHECK_FALSE(f.pool->next_leaving());
  // Whoever needs the key shares it.
  auto request = f.open(f.key(1));
  REQUIRE(f.run([&] { return request->user.response.has_value(); }));
  CHECK(f.dials[1] == 0);
}

TEST_CASE("a tunnel that has left is not used, and whoever needs its key dials anew") {
  Fixture f;
  auto first = f.open(f.key(1));
  REQUIRE(f.run([&] { return first->user.response.has_value(); }));
  Tunnel& leaving = first->user.stream->tunnel();
  REQUIRE(f.pool->prepare_some_handover(true));
  REQUIRE(f.run([&] {
    leaving.settle();
    return !leaving.unmovable();
  }));
  (void)leaving.freeze();
  // Frozen, it takes nothing new.
  auto second = f.open(f.key(1));
  REQUIRE(f.run([&] { return second->user.response.has_value(); }));
  CHECK(&second->user.stream->tunnel() != &leaving);
  CHECK(f.dials[1] == 2);
  first->user.stream = nullptr;
  leaving.discard();
  f.pool->forget(leaving);
  CHECK(f.pool->tunnels() == 1);
}
