#include "hbone/tunnel.h"

#include <catch2/catch.hpp>
#include <random>

#include "mesh/reason.h"
#include "tests/hbone/tunnel_pair.h"

using namespace zt;
using namespace zt::hbone;
using namespace zt::hbone::testing;

namespace {
std::string pattern(size_t size, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::string bytes(size, '\0');
  for (auto& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}
}  // namespace

TEST_CASE("a CONNECT is answered and bytes go both ways") {
  Pair pair;
  auto user = pair.open_answered();
  CHECK(pair.server.requests.at(0) == kConnect);
  user->send("ping");
  REQUIRE(pair.run([&] { return pair.server.users[0]->received == "ping"; }));
  pair.server.users[0]->send("pong");
  REQUIRE(pair.run([&] { return user->received == "pong"; }));
}

TEST_CASE("bulk data arrives whole, in order, for every size around record and frame limits") {
  const size_t size = GENERATE(1u, 16374u, 16375u, 16376u, 16384u, 32759u, 65536u, 131072u, 131073u, 1u << 20, 9u << 20);
  Pair pair;
  auto user = pair.open_answered();
  const std::string sent = pattern(size);
  user->send(sent, true);
  REQUIRE(pair.run([&] { return pair.server.users[0]->ended; }));
  CHECK(pair.server.users[0]->received == sent);
  CHECK_FALSE(user->closed);
  pair.server.users[0]->send("", true);
  REQUIRE(pair.run([&] { return user->closed.has_value(); }));
  CHECK(*user->closed == Reason::kOk);
  CHECK(user->ended);
}

TEST_CASE("a source that gives odd pieces loses no byte") {
  Pair pair;
  auto user = pair.open_answered();
  user->chunk = GENERATE(1u, 7u, 16375u, 50000u);
  const std::string sent = pattern(user->chunk < 10 ? 5000 : 1000000);
  user->send(sent, true);
  REQUIRE(pair.run([&] { return pair.server.users[0]->ended; }));
  CHECK(pair.server.users[0]->received == sent);
}

TEST_CASE("towards a peer with 16 KiB frames each record holds one frame") {
  TunnelConfig config;
  config.max_frame_bytes = 16384;
  Pair pair(config);
  auto user = pair.open_answered();
  const std::string sent = pattern(3'000'000);
  user->send(sent, true);
  REQUIRE(pair.run([&] { return pair.server.users[0]->ended; }));
  CHECK(pair.server.users[0]->received == sent);
}

TEST_CASE("half-close passes on while the other direction goes on") {
  Pair pair;
  auto user = pair.open_answered();
  user->send("last words", true);
  REQUIRE(pair.run([&] { return pair.server.users[0]->ended; }));
  pair.server.users[0]->send("still here");
  REQUIRE(pair.run([&] { return user->received == "still here"; }));
  CHECK_FALSE(user->closed);
}

TEST_CASE("a reset source becomes RST_STREAM(CONNECT_ERROR) at the other end") {
  Pair pair;
  auto user = pair.open_answered();
  user->reset_after = true;
  user->stream->readable();
  REQUIRE(pair.run([&] { return pair.server.users[0]->closed.has_value(); }));
  CHECK(*pair.server.users[0]->closed == Reason::kStreamReset);
  CHECK(pair.server.users[0]->code == H2Error::kConnectError);
}

TEST_CASE("an abandoned stream is reset and the rest of the tunnel goes on") {
  Pair pair;
  auto first = pair.open_answered();
  auto second = pair.open_answered();
  first->abandon(H2Error::kCancel);
  REQUIRE(pair.run([&] { return pair.server.users[0]->closed.has_value(); }));
  CHECK(pair.server.users[0]->code == H2Error::kCancel);
  second->send("on");
  REQUIRE(pair.run([&] { return pair.server.users[1]->received == "on"; }));
  CHECK(pair.run([&] { return pair.client.tunnel->streams() == 1 && pair.server.tunnel->streams() == 1; }));
}

TEST_CASE("bytes that the sink does not take wait within the window, and no others do") {
  Pair pair;
  pair.server.on_new = [](MemoryUser& user) { user.take_limit = 1000; };
  auto user = pair.open_answered();
  const std::string sent = pattern(2'000'000);
  user->send(sent, true);
  REQUIRE(pair.run(
      [&] { return user->to_send.size() <= sent.size() - pair.config.stream_window_initial && pair.io.budget.used() > 0; }));
  // Nothing moves beyond the window however long one waits.
  for (int i = 0; i < 20; ++i) pair.loop.run_once(std::chrono::milliseconds(1));
  CHECK(sent.size() - user->to_send.size() == pair.config.stream_window_initial);
  CHECK(pair.io.budget.used() <= pair.config.stream_window_initial);
  pair.server.users[0]->take_limit = SIZE_MAX;
  pair.server.users[0]->stream->resume_delivery();
  REQUIRE(pair.run([&] { return pair.server.users[0]->ended; }));
  CHECK(pair.server.users[0]->received == sent);
  CHECK(pair.io.budget.used() == 0);
}

TEST_CASE("stalled streams do not hold up another one") {
  const size_t stalled = GENERATE(4u, 90u);
  Pair pair;
  pair.server.on_new = [&](MemoryUser& user) {
    if (pair.server.users.size() <= stalled) user.take_limit = 0;
  };
  std::vector<std::unique_ptr<MemoryUser>> users;
  for (size_t i = 0; i < stalled; ++i) {
    users.push_back(pair.open_answered());
    users.back()->send(std::string(8 << 20, 'x'));
  }
  auto healthy = pair.open_answered();
  const std::string sent = pattern(40 << 20);  // more than the connection's window
  healthy->send(sent, true);
  REQUIRE(pair.run([&] { return pair.server.users[stalled]->ended; }, std::chrono::seconds(60)));
  CHECK(pair.server.users[stalled]->received == sent);
  CHECK(pair.io.budget.used() <= stalled * pair.config.stream_window_initial);
}

TEST_CASE("over the memory budget the receivers that moved least recently lose their streams") {
  Pair pair;
  const size_t window = pair.config.stream_window_initial;
  pair.memory.set(3 * window);
  pair.server.on_new = [](MemoryUser& user) { user.take_limit = 0; };
  std::vector<std::unique_ptr<MemoryUser>> users;
  const auto stall_another = [&] {
    const size_t before = users.size();
    users.push_back(pair.open_answered());
    users.back()->send(std::string(1 << 20, 'x'));
    REQUIRE(pair.run([&] { return users[before]->to_send.size() == (1 << 20) - window; }));
  };
  for (int i = 0; i < 3; ++i) stall_another();
  REQUIRE(pair.run([&] { return pair.io.budget.used() == 3 * window; }));
  // The first takes a little: it is slow, the second is dead.
  pair.server.users[0]->take_limit = 1000;
  pair.server.users[0]->stream->resume_delivery();
  stall_another();
  REQUIRE(pair.run([&] { return users[1]->closed.has_value(); }));
  CHECK(users[1]->code == H2Error::kEnhanceYourCalm);
  CHECK(pair.server.users[1]->closed == Reason::kResourceLimit);
  for (const size_t alive : {0u, 2u, 3u}) CHECK_FALSE(users[alive]->closed);
  CHECK(pair.io.budget.used() <= 3 * window);
}

TEST_CASE("a window grows for a sink that keeps taking, not for one that stops when its buffers are full") {
  Pair pair;
  const size_t initial = pair.config.stream_window_initial;
  pair.server.on_new = [&](MemoryUser& user) { user.take_limit = pair.server.users.size() == 1 ? 4 * initial : SIZE_MAX; };
  auto stalls = pair.open_answered();
  stalls->send(std::string(8 << 20, 'x'));
  auto goes_on = pair.open_answered();
  goes_on->send(std::string(16 << 20, 'x'), true);
  REQUIRE(pair.run([&] { return pair.server.users[1]->ended; }, std::chrono::seconds(60)));
  CHECK((8 << 20) - stalls->to_send.size() == 5 * initial);
  CHECK(pair.io.budget.used() == initial);
  CHECK(pair.server.users[1]->largest_offer > 2 * initial);
}

TEST_CASE("streams share a tunnel in small turns") {
  Pair pair;
  auto bulk = pair.open_answered();
  auto small = pair.open_answered();
  bulk->send(std::string(64 << 20, 'b'));
  REQUIRE(pair.run([&] { return pair.server.users[0]->received.size() > (4u << 20); }));
  small->send("quick");
  const size_t before = pair.server.users[0]->received.size();
  REQUIRE(pair.run([&] { return pair.server.users[1]->received == "quick"; }));
  // What went ahead of it: what was in the sockets, and a few turns.
  CHECK(pair.server.users[0]->received.size() - before < (12u << 20));
}

TEST_CASE("draining lets streams finish and then closes the connection") {
  Pair pair;
  auto user = pair.open_answered();
  pair.server.tunnel->drain();
  REQUIRE(pair.run([&] { return pair.client.tunnel->free_streams() == 0; }));
  user->send("late", true);
  REQUIRE(pair.run([&] { return pair.server.users[0]->ended; }));
  CHECK(pair.server.users[0]->received == "late");
  pair.server.users[0]->send("answer", true);
  REQUIRE(pair.run([&] { return user->closed && pair.client.closed && pair.server.closed; }));
  CHECK(user->received == "answer");
  CHECK(*user->closed == Reason::kOk);
}

TEST_CASE("when the connection dies its streams hear of it") {
  Pair pair;
  auto user = pair.open_answered();
  pair.server.tunnel->close(Reason::kDrained);
  REQUIRE(pair.run([&] { return user->closed && pair.client.closed; }));
  CHECK(*user->closed != Reason::kOk);
}

TEST_CASE("a peer that does not answer PING is given up") {
  TunnelConfig config;
  config.ping_interval = std::chrono::milliseconds(40);
  config.ping_timeout = std::chrono::milliseconds(80);
  EventLoop loop;
  MemoryLimit memory(1 << 20);
  WorkerIo io(loop, memory);
  ClientEnd client;
  auto [a, b] = tcp_pair();
  auto started = Tunnel::start(io, io.budget, Tunnel::Role::kClient, std::move(a), established(false), {}, config, client);
  REQUIRE(started);
  client.tunnel = std::move(*started);
  REQUIRE(loop.run_until([&] { return client.closed.has_value(); }, std::chrono::seconds(10)));
  CHECK(client.closed->reason == Reason::kPeerLost);
}

TEST_CASE("a healthy idle tunnel survives many PING intervals and holds no buffer") {
  TunnelConfig config;
  config.ping_interval = std::chrono::milliseconds(20);
  config.ping_timeout = std::chrono::milliseconds(2000);
  Pair pair(config);
  auto user = pair.open_answered();
  const auto until = Clock::now() + std::chrono::milliseconds(300);
  pair.run([&] { return Clock::now() > until; });
  CHECK_FALSE(pair.client.closed);
  CHECK(pair.io.buffers.lent() == 0);
}

TEST_CASE("a reset beside a stream of several frames harms nobody, with 16 KiB frames") {
  TunnelConfig config;
  config.max_frame_bytes = 16384;
  Pair pair(config);
  auto first = pair.open_answered(), second = pair.open_answered();
  const std::string sent = pattern(60'000);
  first->reset_after = true;
  first->stream->readable();  // its pull queues RST_STREAM in the session
  second->send(sent, true);   // several frames in one pull of the same turn
  REQUIRE(pair.run([&] { return pair.server.users[1]->ended || pair.server.closed || pair.client.closed; }));
  CHECK_FALSE(pair.server.closed);
  CHECK(pair.server.users[1]->received == sent);
  REQUIRE(pair.run([&] { return pair.server.users[0]->closed.has_value(); }));
  CHECK(pair.server.users[0]->code == H2Error::kConnectError);
}
