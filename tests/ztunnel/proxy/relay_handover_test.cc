#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <random>

#include "handover/unit.h"
#include "hbone/socket_transport.h"
#include "mesh/reason.h"
#include "tests/hbone/tunnel_pair.h"
#include "ztunnel/proxy/relay.h"
#include "ztunnel/proxy/sockets.h"

using namespace zt;
using namespace zt::ztunnel;
using namespace std::chrono_literals;
using zt::hbone::testing::tcp_pair;

namespace {

char byte_at(unsigned direction, size_t place) {
  uint64_t x = direction * 0x9e3779b97f4a7c15u + (place >> 3) * 0xbf58476d1ce4e5b9u;
  x ^= x >> 31;
  return static_cast<char>(x >> 8 * (place & 7));
}

// An application: sends bytes that say where they belong, and checks those that it gets.
struct App {
  UniqueFd fd;
  unsigned sends, gets;
  size_t to_send = 0, sent = 0, received = 0;
  size_t takes = SIZE_MAX;  // bytes a step
  bool ends = false, said_end = false, ended = false, wrong = false;
  int error = 0;

  void step() {
    char buffer[32 * 1024];
    while (fd && sent < to_send) {
      const size_t part = std::min(sizeof buffer, to_send - sent);
      for (size_t i = 0; i < part; ++i) buffer[i] = byte_at(sends, sent + i);
      const ssize_t n = ::send(fd.get(), buffer, part, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0 && errno != EAGAIN) error = errno;
      if (n <= 0) break;
      sent += static_cast<size_t>(n);
    }
    if (fd && ends && sent == to_send && !std::exchange(said_end, true)) ::shutdown(fd.get(), SHUT_WR);
    for (size_t left = takes; fd && left > 0 && !ended && error == 0;) {
      const ssize_t n = ::recv(fd.get(), buffer, std::min(left, sizeof buffer), MSG_DONTWAIT);
      if (n == 0) ended = true;
      if (n < 0 && errno != EAGAIN) error = errno;
      if (n <= 0) break;
      for (size_t i = 0; i < static_cast<size_t>(n); ++i) wrong = wrong || buffer[i] != byte_at(gets, received + i);
      received += static_cast<size_t>(n);
      left -= static_cast<size_t>(n);
    }
  }
};

UniqueFd same(int fd) {
  UniqueFd other(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  REQUIRE(other);
  return other;
}

struct Ends {
  App client{.fd = {}, .sends = 1, .gets = 2}, server{.fd = {}, .sends = 2, .gets = 1};
  UniqueFd client_socket, server_socket;
  Ends() {
    auto [client_app, near] = tcp_pair();
    auto [far, server_app] = tcp_pair();
    client.fd = std::move(client_app);
    server.fd = std::move(server_app);
    client_socket = std::move(near);
    server_socket = std::move(far);
  }
  void check() const {
    CHECK_FALSE(client.wrong);
    CHECK_FALSE(server.wrong);
    CHECK(client.error == 0);
    CHECK(server.error == 0);
    CHECK(server.received == client.to_send);
    CHECK(client.received == server.to_send);
  }
};

// Two sockets, spliced. It moves to a relay of another process, which is in the same loop here.
struct MovingPair : Ends {
  EventLoop loop;
  MemoryLimit memory{64 << 20};
  hbone::WorkerIo io{loop, memory};
  std::unique_ptr<SpliceRelay> relay =
      std::make_unique<SpliceRelay>(io, std::shared_ptr<MemoryAccount>(std::shared_ptr<void>(), &io.budget));
  std::optional<RelayEnd> end;
  RelayBytes bytes;
  size_t with_pipes = 0;

  MovingPair() { REQUIRE(relay->start(std::move(client_socket), std::move(server_socket), done())); }
  Relay::Done done() {
    return [this](Relay& over) {
      end = over.end();
      bytes = over.bytes();
    };
  }
  handover::PairUnit freeze(std::vector<UniqueFd>& descriptors) {
    handover::PairUnit unit;
    std::vector<int> own;
    relay->freeze(unit, own);
    const Relay& counted = *relay;
    unit.connection.client_to_server = counted.bytes().client_to_server;
    unit.connection.server_to_client = counted.bytes().server_to_client;
    for (int fd : own) descriptors.push_back(same(fd));
    REQUIRE(descriptors.size() == handover::descriptors(unit));
    with_pipes += unit.flows[0].in_pipe > 0 || unit.flows[1].in_pipe > 0;
    return unit;
  }
  void move() {
    if (!relay->movable()) return;
    std::vector<UniqueFd> descriptors;
    const handover::PairUnit unit = freeze(descriptors);
    relay->discard();
    relay = std::make_unique<SpliceRelay>(io, std::shared_ptr<MemoryAccount>(std::shared_ptr<void>(), &io.budget));
    relay->resume(unit, std::move(descriptors), done());
    relay->thaw();
  }
  void turn() {
    client.step();
    server.step();
    loop.run_once(0ms);
  }
  bool finish() {
    client.takes = server.takes = SIZE_MAX;
    return loop.run_until(
        [&] {
          client.step();
          server.step();
          if (end) return client.ended && server.ended;
          loop.post([] {});
          return false;
        },
        20s);
  }
};

// client app — relay — tunnel — relay — server app. One side's tunnel moves with its relay.
struct MovingChain : Ends {
  hbone::testing::Pair pair;
  std::unique_ptr<StreamRelay> near, far;
  std::optional<RelayEnd> near_end, far_end;
  RelayBytes near_bytes, far_bytes;

  static Relay::Done done(std::optional<RelayEnd>& end, RelayBytes& bytes) {
    return [&end, &bytes](Relay& over) {
      end = over.end();
      bytes = over.bytes();
    };
  }
  MovingChain() {
    near = std::make_unique<StreamRelay>(pair.io, StreamRelay::Side::kSocketIsClient);
    auto opened = pair.client.tunnel->open(hbone::testing::kConnect, *near);
    REQUIRE(opened);
    near->attach(**opened);
    REQUIRE(pair.run([&] { return near->answered().is_set(); }));
    far = std::make_unique<StreamRelay>(pair.io, StreamRelay::Side::kSocketIsServer);
    hbone::Stream& stream = *std::exchange(pair.server.users[0]->stream, nullptr);
    far->attach(stream);
    stream.set_handler(far.get());
    REQUIRE(near->start(std::move(client_socket), done(near_end, near_bytes)));
    REQUIRE(far->start(std::move(server_socket), done(far_end, far_bytes)));
  }
  template <class Owner>
  bool move(Owner& owner, std::unique_ptr<StreamRelay>& relay, StreamRelay::Side side, Relay::Done over) {
    if (owner.tunnel == nullptr || !relay->movable()) return false;
    owner.tunnel->prepare_handover();
    owner.tunnel->settle();
    if (owner.tunnel->unmovable() || !relay->movable() || owner.tunnel->streams() == 0) return false;
    UniqueFd tunnel_socket = same(owner.tunnel->socket()), socket = same(relay->socket());
    const hbone::TunnelState state = owner.tunnel->freeze();
    const handover::StreamRelayState relay_state = relay->freeze();
    const RelayBytes bytes = relay->bytes();
    relay->discard();
    owner.tunnel->discard();
    relay = std::make_unique<StreamRelay>(pair.io, side);
    relay->resume(relay_state, bytes, std::move(socket), std::move(over));
    auto resumed = hbone::Tunnel::resume(pair.io, pair.io.budget,
                                         std::make_unique<hbone::SocketTransport>(pair.loop, std::move(tunnel_socket)), state,
                                         pair.config, owner, [&](hbone::Stream& stream, const hbone::StreamState&) {
                                           relay->attach(stream);
                                           return relay.get();
                                         });
    if (!resumed) {
      const hbone::StreamState& it = state.streams.at(0);
      FAIL(resumed.error().text << ": window " << it.window.bytes << " taken " << it.window.taken << " withheld "
                                << it.window.withheld << (it.window.stopped ? " stopped" : "") << " kept " << it.kept.size()
                                << " credit " << it.receive_credit);
    }
    owner.tunnel = std::move(*resumed);
    owner.tunnel->thaw();
    relay->thaw();
    return true;
  }
  bool move_near() { return move(pair.client, near, StreamRelay::Side::kSocketIsClient, done(near_end, near_bytes)); }
  bool move_far() { return move(pair.server, far, StreamRelay::Side::kSocketIsServer, done(far_end, far_bytes)); }
  // Once the peer has acknowledged what it must.
  bool move_far_soon() {
    return pair.run([&] {
      client.step();
      server.step();
      pair.loop.post([] {});
      return move_far();
    });
  }
  void turn() {
    client.step();
    server.step();
    pair.loop.run_once(0ms);
  }
  bool finish() {
    client.takes = server.takes = SIZE_MAX;
    return pair.run([&] {
      client.step();
      server.step();
      if (near_end && far_end) return client.ended && server.ended;
      pair.loop.post([] {});
      return false;
    });
  }
};

}  // namespace

TEST_CASE("a spliced pair that moves to another process in mid-transfer loses no byte, nor its pipes' bytes") {
  const unsigned seed = GENERATE(range(1u, 5u));
  CAPTURE(seed);
  std::mt19937 random(seed);
  MovingPair pair;
  pair.client.to_send = 6'000'000;
  pair.server.to_send = 3'000'000;
  for (int i = 0; i < 300; ++i) {
    pair.client.takes = random() % 100'000;
    pair.server.takes = random() % 100'000;
    pair.turn();
    if (random() % 3 == 0) pair.move();
    if (i == 200) pair.client.ends = true;  // half-closed from here on
  }
  CHECK(pair.with_pipes > 0);
  pair.server.ends = true;
  REQUIRE(pair.finish());
  pair.check();
  CHECK(pair.end->reason == Reason::kOk);
  CHECK(pair.bytes.client_to_server == pair.client.to_send);
  CHECK(pair.bytes.server_to_client == pair.server.to_send);
}

TEST_CASE("a stream and its socket that move to another process in mid-transfer lose no byte") {
  const unsigned seed = GENERATE(range(1u, 5u));
  CAPTURE(seed);
  std::mt19937 random(seed);
  MovingChain chain;
  size_t moves = 0;
  chain.client.to_send = 6'000'000;
  chain.server.to_send = 3'000'000;
  for (int i = 0; i < 300; ++i) {
    chain.client.takes = random() % 60'000;
    chain.server.takes = random() % 60'000;
    chain.turn();
    if (random() % 3 == 0) moves += random() % 2 == 0 ? chain.move_near() : chain.move_far();
    if (i == 200) chain.client.ends = true;
  }
  CHECK(moves > 20);
  chain.server.ends = true;
  REQUIRE(chain.finish());
  chain.check();
  CHECK(chain.near_end->reason == Reason::kOk);
  CHECK(chain.far_end->reason == Reason::kOk);
  for (const RelayBytes& bytes : {chain.near_bytes, chain.far_bytes}) {
    CHECK(bytes.client_to_server == chain.client.to_send);
    CHECK(bytes.server_to_client == chain.server.to_send);
  }
}

TEST_CASE("a receiver that has stopped and goes on after the move gets every byte") {
  MovingChain chain;
  chain.client.to_send = 8'000'000;
  // Fast at first, so that its stream is promised more than is kept here; then it stops.
  while (chain.client.sent < 6'000'000) chain.turn();
  chain.server.takes = 0;
  size_t before = 0;
  do {
    before = chain.client.sent;
    for (int i = 0; i < 50; ++i) chain.turn();
  } while (chain.client.sent > before);
  REQUIRE(chain.move_far_soon());
  for (int i = 0; i < 50; ++i) chain.turn();
  REQUIRE(chain.move_far_soon());
  chain.client.ends = chain.server.ends = true;
  REQUIRE(chain.finish());
  chain.check();
}

TEST_CASE("a reset that comes while a relay is frozen is passed on by the next process") {
  const bool tunnelled = GENERATE(false, true);
  if (tunnelled) {
    MovingChain chain;
    chain.client.to_send = 1000;
    REQUIRE(chain.pair.run([&] {
      chain.turn();
      return chain.server.received == 1000;
    }));
    REQUIRE(chain.move_far_soon());
    for (int i = 0; i < 10; ++i) chain.turn();
    reset_and_close(std::move(chain.server.fd));
    REQUIRE(chain.move_far());
    REQUIRE(chain.pair.run([&] {
      chain.client.step();
      return chain.client.error == ECONNRESET;
    }));
  } else {
    MovingPair pair;
    reset_and_close(std::move(pair.server.fd));
    pair.move();
    REQUIRE(pair.loop.run_until(
        [&] {
          pair.client.step();
          return pair.client.error == ECONNRESET;
        },
        10s));
    CHECK(pair.end->reason == Reason::kUpstreamReset);
  }
}

TEST_CASE("a frozen relay moves nothing, and one that is killed meanwhile ends when it thaws, and only then") {
  MovingPair pair;
  std::vector<UniqueFd> descriptors;
  (void)pair.freeze(descriptors);
  pair.client.to_send = 1000;
  for (int i = 0; i < 20; ++i) pair.turn();
  CHECK(pair.server.received == 0);
  const bool killed = GENERATE(false, true);
  if (killed) pair.relay->kill(Reason::kPolicyRevoked, "policy");
  for (int i = 0; i < 20; ++i) pair.turn();
  CHECK_FALSE(pair.end);
  CHECK(pair.client.error == 0);
  descriptors.clear();
  pair.relay->thaw();
  if (killed) {
    REQUIRE(pair.loop.run_until([&] { return pair.end.has_value(); }, 10s));
    CHECK(pair.end->reason == Reason::kPolicyRevoked);
  } else {
    REQUIRE(pair.loop.run_until(
        [&] {
          pair.server.step();
          return pair.server.received == 1000;
        },
        10s));
  }
}

TEST_CASE("a discarded relay says nothing to either application, and calls nobody") {
  MovingPair pair;
  std::vector<UniqueFd> descriptors;
  const handover::PairUnit unit = pair.freeze(descriptors);
  pair.relay->kill(Reason::kPolicyRevoked, "here it is nobody's any more");
  pair.relay->discard();
  pair.relay.reset();
  for (int i = 0; i < 20; ++i) pair.turn();
  CHECK_FALSE(pair.end);
  CHECK_FALSE(pair.client.ended);
  CHECK(pair.client.error == 0);
  pair.relay = std::make_unique<SpliceRelay>(pair.io, std::shared_ptr<MemoryAccount>(std::shared_ptr<void>(), &pair.io.budget));
  pair.relay->resume(unit, std::move(descriptors), pair.done());
  pair.relay->thaw();
  pair.client.to_send = 500;
  pair.client.ends = pair.server.ends = true;
  REQUIRE(pair.finish());
  pair.check();
}

TEST_CASE(
    "the server's side of a pair of one node ends though both were asked to end while they were frozen and the client's is "
    "gone") {
  MovingPair pair;
  const bool killed = GENERATE(false, true);
  auto shadow = std::make_unique<Shadow>(pair.io, nullptr, nullptr);
  std::optional<RelayEnd> server_end;
  REQUIRE(shadow->start([&](Relay& over) { server_end = over.end(); }));
  shadow->follow(*pair.relay);
  std::vector<UniqueFd> descriptors;
  (void)pair.freeze(descriptors);
  if (killed) shadow->kill(Reason::kPolicyRevoked, "policy");
  pair.relay.reset();  // its pod has ended
  for (int i = 0; i < 20; ++i) pair.turn();
  REQUIRE(server_end);
  CHECK(server_end->reason == (killed ? Reason::kPolicyRevoked : Reason::kDownstreamReset));
}
