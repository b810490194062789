#include "handover/protocol.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <map>
#include <set>

#include "mesh/reason.h"
#include "tests/handover/units.h"

using namespace zt;
using namespace zt::handover;
using namespace zt::handover::testing;
using namespace std::chrono_literals;

namespace {

Hello hello() {
  return {.lowest_format = kLowestFormat,
          .highest_format = kHighestFormat,
          .build = "test",
          .network = "n",
          .trust_domain = "cluster.local",
          .node = "node1",
          .pods = {"pod"},
          .descriptors_free = 1000};
}

std::pair<UniqueFd, UniqueFd> unix_pair() {
  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}
UniqueFd some_descriptor() {
  UniqueFd fd(::dup(STDERR_FILENO));
  REQUIRE(fd);
  return fd;
}

// Who runs a unit. At no time more than one.
struct World {
  std::set<std::string> at_old, at_new;
  std::map<std::string, int> moved;
  void check() const {
    for (const auto& unit : at_old) REQUIRE_FALSE(at_new.contains(unit));
  }
};

struct Source final : UnitSource {
  World& world;
  std::deque<std::string> waiting;
  std::string offered;
  std::vector<UniqueFd> descriptors;
  std::vector<std::string> stayed;
  explicit Source(World& in, int count) : world(in) {
    for (int i = 0; i < count; ++i) {
      waiting.push_back("unit" + std::to_string(i));
      world.at_old.insert(waiting.back());
    }
  }
  std::optional<Frozen> next() noexcept override {
    if (waiting.empty()) return std::nullopt;
    offered = waiting.front();
    waiting.pop_front();
    world.at_old.erase(offered);
    PairUnit unit = some_pair();
    unit.pod = offered;
    Frozen frozen{.bytes = encode(unit), .descriptors = {}};
    descriptors.clear();
    for (size_t i = 0; i < zt::handover::descriptors(unit); ++i) {
      descriptors.push_back(some_descriptor());
      frozen.descriptors.push_back(descriptors.back().get());
    }
    return frozen;
  }
  void gone() noexcept override {
    descriptors.clear();
    offered.clear();
  }
  void stays(const Error& why) noexcept override {
    world.at_old.insert(std::exchange(offered, ""));
    world.check();
    stayed.push_back(why.text);
  }
};

struct Sink final : UnitSink {
  World& world;
  std::string prepared;
  std::optional<Error> refuses;
  size_t got = 0;
  explicit Sink(World& in) : world(in) {}
  Result<> prepare(Unit unit, std::vector<UniqueFd> fds) noexcept override {
    if (refuses) return std::unexpected(*refuses);
    for (const auto& fd : fds) REQUIRE(fcntl(fd.get(), F_GETFD) == FD_CLOEXEC);
    got += fds.size();
    prepared = std::get<PairUnit>(unit).pod;
    return {};
  }
  void run() noexcept override {
    world.at_new.insert(std::exchange(prepared, ""));
    world.check();
  }
  void drop() noexcept override { prepared.clear(); }
};

// Both processes in one loop, which stands for whatever order the kernel may let them run in.
struct Pair {
  EventLoop loop;
  World world;
  Source source;
  Sink sink{world};
  std::unique_ptr<Leaving> leaving;
  std::unique_ptr<Arriving> arriving;
  std::optional<Error> left, came;
  std::optional<Hello> greeted;

  explicit Pair(int units, Hello old_hello = hello(), Hello new_hello = hello()) : source(world, units) {
    auto [a, b] = unix_pair();
    leaving = std::make_unique<Leaving>(
        loop, std::move(a), std::move(old_hello), source, [this](const Hello& theirs) { greeted = theirs; },
        [this](const Error& why) { left = why; });
    arriving =
        std::make_unique<Arriving>(loop, std::move(b), std::move(new_hello), sink, [this](const Error& why) { came = why; });
    REQUIRE(arriving->start());
    REQUIRE(leaving->start());
  }
  bool run(const std::function<bool()>& done) { return loop.run_until(done, 10s); }
  [[nodiscard]] size_t somewhere() const { return world.at_old.size() + world.at_new.size(); }
};

// The other side of a Leaving or Arriving, by hand.
struct ByHand final : Channel::User {
  EventLoop& loop;
  Channel channel;
  std::deque<Received> got;
  bool ended = false;
  ByHand(EventLoop& in, UniqueFd socket) : loop(in), channel(in, std::move(socket), kMaxUnitBytes, *this) {
    REQUIRE(channel.start());
  }
  void on_message(Received message) noexcept override { got.push_back(std::move(message)); }
  void on_end(const Error&, bool) noexcept override { ended = true; }
  Received await(Message message) {
    REQUIRE(loop.run_until([&] { return !got.empty(); }, 10s));
    Received next = std::move(got.front());
    got.pop_front();
    REQUIRE(next.message == message);
    return next;
  }
};

}  // namespace

TEST_CASE("units go over one after the other, each with its descriptors") {
  Pair pair(50);
  REQUIRE(pair.run([&] { return pair.world.at_new.size() == 50; }));
  CHECK(pair.sink.got == 50 * 4);
  CHECK(pair.world.at_old.empty());
  CHECK(pair.greeted->pods == std::vector<std::string>{"pod"});
  pair.leaving->finish();
  REQUIRE(pair.run([&] { return pair.left && pair.came; }));
  CHECK(pair.left->reason == Reason::kOk);
}

TEST_CASE("a unit that is refused stays, with the reason, and the next one goes on") {
  Pair pair(2);
  pair.sink.refuses = Error{Reason::kResourceLimit, "no room"};
  REQUIRE(pair.run([&] { return pair.source.stayed.size() == 1; }));
  pair.sink.refuses.reset();
  CHECK(pair.source.stayed[0] == "no room");
  REQUIRE(pair.run([&] { return pair.world.at_new.size() == 1; }));
  CHECK(pair.world.at_old == std::set<std::string>{"unit0"});
}

TEST_CASE("nothing moves between two that are not of one mesh and node, or know no common format") {
  Hello other = hello();
  std::string named;
  SECTION("network") { other.network = named = "elsewhere"; }
  SECTION("trust domain") { other.trust_domain = named = "other.domain"; }
  SECTION("node") { other.node = named = "node2"; }
  SECTION("format") {
    other.lowest_format = other.highest_format = kHighestFormat + 1;
    named = "no format";
  }
  Pair pair(1, hello(), other);
  REQUIRE(pair.run([&] { return pair.left.has_value(); }));
  CHECK_THAT(pair.left->text, Catch::Contains(named));
  CHECK(pair.world.at_old.size() == 1);
  CHECK_FALSE(pair.greeted);
}

TEST_CASE("two whose formats overlap speak the highest that both know") {
  Hello older = hello(), newer = hello();
  older.lowest_format = 1;
  older.highest_format = 4;
  newer.lowest_format = 3;
  newer.highest_format = 5;
  CHECK(*agree(older, newer) == 4);
  CHECK(*agree(newer, older) == 4);
}

TEST_CASE("what a later release says behind what is known of a hello is passed over, and what is no hello is refused") {
  auto bytes = encode(hello());
  bytes.insert(bytes.end(), {1, 2, 3});
  REQUIRE(decode_hello(bytes));
  CHECK(decode_hello(bytes)->node == "node1");
  bytes.resize(10);
  CHECK_FALSE(decode_hello(bytes));
  bytes[0] = 0;
  CHECK_THAT(decode_hello(bytes).error().text, Catch::Contains("does not speak"));
}

// ---- Whoever dies, whenever

TEST_CASE("a successor that dies at any step of a hand-over costs nothing but what it was given") {
  const int step = GENERATE(range(0, 40));
  Pair pair(3);
  for (int i = 0; i < step; ++i) pair.loop.run_once(0ms);
  // What it has is its own to lose: it is dead.
  const auto had = pair.world.at_new;
  pair.arriving.reset();
  REQUIRE(pair.run([&] { return pair.left.has_value(); }));
  CHECK(pair.world.at_new == had);
  // COMMIT may have been said and not read: that one was given.
  CHECK(pair.somewhere() >= 2);
  CHECK(pair.source.offered.empty());
  pair.world.check();
}

TEST_CASE("one who leaves and dies at any step of a hand-over leaves each whole unit with the next, and none with two") {
  const int step = GENERATE(range(0, 40));
  World world;
  EventLoop loop;
  auto [a, b] = unix_pair();
  Sink sink(world);
  std::optional<Error> came;
  Arriving arriving(loop, std::move(b), hello(), sink, [&](const Error& why) { came = why; });
  REQUIRE(arriving.start());
  auto source = std::make_unique<Source>(world, 3);
  {
    // A process that dies says nothing: a copy of its socket is closed with all of its memory gone.
    const UniqueFd same(::dup(a.get()));
    auto leaving = std::make_unique<Leaving>(loop, std::move(a), hello(), *source, [](const Hello&) {}, [](const Error&) {});
    REQUIRE(leaving->start());
    for (int i = 0; i < step; ++i) loop.run_once(0ms);
    ::shutdown(same.get(), SHUT_RDWR);
    // Whatever it does from here on did not happen.
    const auto left = world.at_old;
    leaving.reset();
    world.at_old = left;
  }
  REQUIRE(loop.run_until([&] { return came.has_value(); }, 10s));
  world.check();
  CHECK(sink.prepared.empty());
  CHECK(world.at_old.size() + world.at_new.size() >= 2);
}

TEST_CASE("a unit that was READY when the other died runs, and one that was taken back does not") {
  EventLoop loop;
  World world;
  Sink sink(world);
  auto [a, b] = unix_pair();
  std::optional<Error> came;
  Arriving arriving(loop, std::move(b), hello(), sink, [&](const Error& why) { came = why; });
  REQUIRE(arriving.start());
  auto other = std::make_unique<ByHand>(loop, std::move(a));
  other->channel.send(Message::kHello, encode(hello()), {});
  other->await(Message::kHello);
  PairUnit unit = some_pair();
  unit.pod = "it";
  std::vector<UniqueFd> keep;
  std::vector<int> fds;
  for (int i = 0; i < 4; ++i) {
    keep.push_back(some_descriptor());
    fds.push_back(keep.back().get());
  }
  other->channel.send(Message::kUnit, encode(unit), fds);
  SECTION("dead before it read READY") {
    REQUIRE(loop.run_until([&] { return sink.prepared == "it"; }, 10s));
    other.reset();
    REQUIRE(loop.run_until([&] { return came.has_value(); }, 10s));
    CHECK(world.at_new.contains("it"));
  }
  SECTION("dead after it read READY") {
    other->await(Message::kReady);
    other.reset();
    REQUIRE(loop.run_until([&] { return came.has_value(); }, 10s));
    CHECK(world.at_new.contains("it"));
  }
  SECTION("ABORT, and then dead") {
    other->await(Message::kReady);
    REQUIRE(other->channel.say(Message::kAbort) == Channel::Said::kYes);
    other.reset();
    REQUIRE(loop.run_until([&] { return came.has_value(); }, 10s));
    CHECK(world.at_new.empty());
    CHECK(sink.prepared.empty());
  }
  SECTION("ABORT before READY was read, and then another unit") {
    REQUIRE(other->channel.say(Message::kAbort) == Channel::Said::kYes);
    other->await(Message::kReady);
    REQUIRE(loop.run_until([&] { return sink.prepared.empty(); }, 10s));
    other->channel.send(Message::kUnit, encode(unit), fds);
    other->await(Message::kReady);
    REQUIRE(other->channel.say(Message::kCommit) == Channel::Said::kYes);
    REQUIRE(loop.run_until([&] { return world.at_new.contains("it"); }, 10s));
  }
  SECTION("out of turn") {
    other->await(Message::kReady);
    other->channel.send(Message::kUnit, encode(unit), fds);
    REQUIRE(loop.run_until([&] { return came.has_value(); }, 10s));
    CHECK(world.at_new.empty());
    CHECK_THAT(came->text, Catch::Contains("out of turn"));
  }
}

TEST_CASE("a unit that is not answered in time is taken back, and a late answer changes nothing") {
  EventLoop loop;
  World world;
  Source source(world, 2);
  auto [a, b] = unix_pair();
  std::optional<Error> left;
  Leaving leaving(loop, std::move(a), hello(), source, [](const Hello&) {}, [&](const Error& why) { left = why; });
  REQUIRE(leaving.start());
  ByHand other(loop, std::move(b));
  other.await(Message::kHello);
  other.channel.send(Message::kHello, encode(hello()), {});
  other.await(Message::kUnit);
  // Nothing is said for kReadyLimit.
  other.await(Message::kAbort);
  CHECK(source.stayed.size() == 1);
  CHECK_THAT(source.stayed[0], Catch::Contains("not ready in time"));
  CHECK(world.at_old.contains("unit0"));
  // Its answer was on its way: no unit is given before it has come.
  for (int i = 0; i < 20; ++i) loop.run_once(1ms);
  CHECK(other.got.empty());
  REQUIRE(other.channel.say(Message::kReady) == Channel::Said::kYes);
  leaving.go_on();
  other.await(Message::kUnit);
  REQUIRE(other.channel.say(Message::kReady) == Channel::Said::kYes);
  other.await(Message::kCommit);
  CHECK(world.at_old == std::set<std::string>{"unit0"});
}

TEST_CASE("one that gives up in the middle shuts the other off before it goes on, or leaves the unit to it") {
  EventLoop loop;
  World world;
  Source source(world, 1);
  auto [a, b] = unix_pair();
  auto leaving = std::make_unique<Leaving>(loop, std::move(a), hello(), source, [](const Hello&) {}, [](const Error&) {});
  REQUIRE(leaving->start());
  ByHand other(loop, std::move(b));
  other.await(Message::kHello);
  other.channel.send(Message::kHello, encode(hello()), {});
  other.await(Message::kUnit);
  REQUIRE(other.channel.say(Message::kReady) == Channel::Said::kYes);
  // READY is in its socket, and has not been looked at.
  leaving.reset();
  REQUIRE(loop.run_until([&] { return other.ended; }, 10s));
  const bool aborted = !other.got.empty() && other.got[0].message == Message::kAbort;
  CHECK(aborted);
  CHECK(world.at_old.contains("unit0"));
}

TEST_CASE("what could be said before the shutdown counts, and after it nothing can be said") {
  EventLoop loop;
  auto [a, b] = unix_pair();
  ByHand ours(loop, std::move(a));
  ByHand theirs(loop, std::move(b));
  const bool before = GENERATE(true, false);
  if (before) REQUIRE(theirs.channel.say(Message::kReady) == Channel::Said::kYes);
  CHECK(ours.channel.close_and_ask_for(Message::kReady) == before);
  CHECK(theirs.channel.say(Message::kReady) == Channel::Said::kOtherClosed);
}

// ---- The socket

TEST_CASE("messages of any size and number of descriptors arrive as they were sent") {
  EventLoop loop;
  auto [a, b] = unix_pair();
  const int small = 4096;
  REQUIRE(setsockopt(a.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof small) == 0);
  ByHand from(loop, std::move(a));
  ByHand to(loop, std::move(b));
  std::vector<UniqueFd> keep;
  std::vector<int> fds;
  for (int i = 0; i < 450; ++i) {
    keep.push_back(some_descriptor());
    fds.push_back(keep.back().get());
  }
  for (const auto& [size, count] : {std::pair{0u, 0u}, {1u, 1u}, {10'000'000u, 450u}, {5u, 200u}, {0u, 3u}, {70'000u, 0u}}) {
    SecretBytes bytes(size);
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>(i * 31 + count);
    from.channel.send(Message::kUnit, bytes, {fds.begin(), fds.begin() + count});
    from.channel.send(Message::kReady, {}, {});
    const Received got = to.await(Message::kUnit);
    CHECK(got.bytes == bytes);
    CHECK(got.descriptors.size() == count);
    CHECK_FALSE(got.descriptors_lost);
    CHECK(to.await(Message::kReady).descriptors.empty());
  }
}

TEST_CASE("a unit whose descriptors the kernel does not let in is refused by name, and the connection goes on") {
  EventLoop loop;
  World world;
  Sink sink(world);
  auto [a, b] = unix_pair();
  Arriving arriving(loop, std::move(b), hello(), sink, [](const Error&) {});
  REQUIRE(arriving.start());
  ByHand other(loop, std::move(a));
  other.channel.send(Message::kHello, encode(hello()), {});
  other.await(Message::kHello);
  std::vector<UniqueFd> keep;
  std::vector<int> fds;
  for (int i = 0; i < 4; ++i) {
    keep.push_back(some_descriptor());
    fds.push_back(keep.back().get());
  }
  // As RLIMIT_NOFILE does it, which is also how a security module's refusal looks: MSG_CTRUNC.
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
  other.channel.send(Message::kUnit, encode(some_pair()), fds);
  const rlimit none{.rlim_cur = 3, .rlim_max = before.rlim_max};
  REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
  loop.run_until([&] { return !other.got.empty(); }, 10s);
  REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0);
  const Received refused = other.await(Message::kRefuse);
  CHECK_THAT(std::string(refused.bytes.begin(), refused.bytes.end()), Catch::Contains("descriptors were lost"));
  other.channel.send(Message::kUnit, encode(some_pair()), fds);
  other.await(Message::kReady);
}

TEST_CASE("a unit with more or fewer descriptors than it names, or that is none, is refused") {
  EventLoop loop;
  World world;
  Sink sink(world);
  auto [a, b] = unix_pair();
  Arriving arriving(loop, std::move(b), hello(), sink, [](const Error&) {});
  REQUIRE(arriving.start());
  ByHand other(loop, std::move(a));
  other.channel.send(Message::kHello, encode(hello()), {});
  other.await(Message::kHello);
  const auto fd = some_descriptor();
  for (const size_t count : {0u, 3u, 5u}) {
    other.channel.send(Message::kUnit, encode(some_pair()), std::vector<int>(count, fd.get()));
    const Received refused = other.await(Message::kRefuse);
    CHECK_THAT(std::string(refused.bytes.begin(), refused.bytes.end()), Catch::Contains("descriptors that names 4"));
  }
  other.channel.send(Message::kUnit, SecretBytes(100, 'x'), {});
  other.await(Message::kRefuse);
  CHECK(sink.got == 0);
}

TEST_CASE("a message that claims to be too long ends the connection and takes no memory") {
  EventLoop loop;
  auto [a, b] = unix_pair();
  ByHand to(loop, std::move(b));
  const uint32_t header[3] = {2, 0xffffffff, 0};
  REQUIRE(::send(a.get(), header, sizeof header, 0) == sizeof header);
  REQUIRE(loop.run_until([&] { return to.ended; }, 10s));
}
