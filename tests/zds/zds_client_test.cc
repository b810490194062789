#include "zds/zds_client.h"

#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "tests/zds/zds_wire.h"

using namespace zt;
using namespace zt::zds;
using namespace zt::testing;
using namespace std::chrono_literals;

namespace {

class Pods final : public PodManager {
 public:
  void start(const std::string& uid, const PodName&, std::shared_ptr<const Netns>, StartDone done) override {
    calls.push_back("start " + uid);
    if (hold) {
      held.push_back(std::move(done));
    } else {
      done({});
    }
  }
  void stop(const std::string& uid) override { calls.push_back("stop " + uid); }
  void drain_all() override { calls.push_back("drain"); }
  bool hold = false;
  std::vector<StartDone> held;
  std::vector<std::string> calls;
};

// The test plays the agent.
struct Fixture {
  TempDir dir;
  std::string path = dir / "ztunnel.sock";
  EventLoop loop;
  Pods pods;
  UniqueFd listener;
  ZdsClient client{loop, pods, {.path = path}};
  Netns netns = make_netns();

  Fixture() {
    listen();
    REQUIRE(client.start());
  }
  void listen() {
    auto made = listen_zds(path);
    INFO(error_text(made));
    REQUIRE(made);
    listener = std::move(*made);
  }
  Wire accept() {
    UniqueFd socket;
    REQUIRE(loop.run_until(
        [&] {
          socket.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
          loop.run_once(1ms);
          return static_cast<bool>(socket);
        },
        5s));
    return {loop, std::move(socket)};
  }
  Wire accept_after_hello() {
    Wire wire = accept();
    CHECK(wire.receive().bytes == unhex("0801"));
    return wire;
  }
  static std::string answer(Wire& wire) {
    const auto packet = wire.receive();
    REQUIRE_FALSE(packet.end_of_stream());
    const auto ack = decode_ack(packet.bytes);
    REQUIRE(ack);
    return ack->error;
  }
  void add(Wire& wire, const std::string& uid) {
    wire.send(encode(WorkloadRequest(AddWorkload{uid, PodName{"n", "ns", "sa"}})), netns.fd());
  }
  static void snapshot_sent(Wire& wire) { wire.send(encode(WorkloadRequest(SnapshotSent{}))); }
};

}  // namespace

TEST_CASE_METHOD(Fixture, "the client says hello first and answers each request once, in order") {
  Wire agent = accept_after_hello();
  CHECK(agent.silent());
  // All at once: a client that answered the second before the first would be caught by the held start.
  pods.hold = true;
  add(agent, "a");
  agent.send(encode(WorkloadRequest(KeepWorkload{"b"})));
  snapshot_sent(agent);
  CHECK(agent.silent());
  REQUIRE(pods.held.size() == 1);
  pods.held[0]({});
  CHECK(answer(agent).empty());
  CHECK(answer(agent).empty());
  CHECK(answer(agent).empty());
  CHECK(agent.silent());
  CHECK(client.ready());
}

TEST_CASE_METHOD(Fixture, "a start that takes too long is answered within the agent's limit") {
  Wire agent = accept_after_hello();
  pods.hold = true;
  const auto start = Clock::now();
  add(agent, "a");
  CHECK_THAT(answer(agent), Catch::Contains("not started within 4000 ms"));
  CHECK(Clock::now() - start < 4900ms);
}

TEST_CASE_METHOD(Fixture, "hostile and broken agents are refused, disconnected and come to no harm of the pods") {
  std::string expected;
  bool drops = true;
  {
    Wire agent = accept_after_hello();
    add(agent, "a");
    CHECK(answer(agent).empty());
    SECTION("garbage") {
      agent.send("\xff\xff");
      expected = "malformed ZDS message";
    }
    SECTION("a request without payload") {
      agent.send(unhex("2200"));
      expected = "without payload";
    }
    SECTION("add without info") {
      agent.send(unhex("0a030a0175"), netns.fd());
      expected = "without workload_info";
    }
    SECTION("add without descriptor") {
      agent.send(encode(WorkloadRequest(AddWorkload{"b", PodName{}})));
      expected = "add without the network namespace's descriptor";
    }
    SECTION("del with descriptor") {
      agent.send(encode(WorkloadRequest(DelWorkload{"a"})), netns.fd());
      expected = "del with the network namespace's descriptor";
    }
    SECTION("second snapshot_sent") {
      agent.send(encode(WorkloadRequest(KeepWorkload{"a"})));
      CHECK(answer(agent).empty());
      snapshot_sent(agent);
      CHECK(answer(agent).empty());
      CHECK(client.ready());
      snapshot_sent(agent);
      expected = "second snapshot_sent";
    }
    SECTION("a file for a namespace") {
      const UniqueFd file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
      agent.send(encode(WorkloadRequest(AddWorkload{"b", PodName{}})), file.get());
      expected = "not a namespace";
      drops = false;
    }
    CHECK_THAT(answer(agent), Catch::Contains(expected));
    if (drops) {
      CHECK(agent.closed());
      CHECK_FALSE(client.ready());
    } else {
      CHECK(agent.silent());
    }
  }
  Wire again = accept_after_hello();
  CHECK(pods.calls == std::vector<std::string>{"start a"});
  again.send(encode(WorkloadRequest(KeepWorkload{"a"})));
  CHECK(answer(again).empty());
  snapshot_sent(again);
  CHECK(answer(again).empty());
  CHECK(client.ready());
}

TEST_CASE_METHOD(Fixture, "an agent that goes in the middle of a start does not stop it") {
  pods.hold = true;
  {
    Wire agent = accept_after_hello();
    add(agent, "a");
    REQUIRE(loop.run_until([&] { return !pods.held.empty(); }, 5s));
  }
  pods.held[0]({});
  Wire again = accept_after_hello();
  add(again, "a");
  CHECK(answer(again).empty());
  CHECK(pods.calls == std::vector<std::string>{"start a"});
}

TEST_CASE_METHOD(Fixture, "the client comes back when the agent does, however long it was away") {
  {
    Wire agent = accept_after_hello();
    snapshot_sent(agent);
    CHECK(answer(agent).empty());
  }
  listener.reset();
  loop.run_until([&] { return !client.connected(); }, 5s);
  listen();
  Wire again = accept_after_hello();
  snapshot_sent(again);
  CHECK(answer(again).empty());
}

TEST_CASE_METHOD(Fixture, "shutting down closes the connection and drains the pods") {
  Wire agent = accept_after_hello();
  add(agent, "a");
  CHECK(answer(agent).empty());
  client.shutdown();
  CHECK(agent.closed());
  CHECK(pods.calls == std::vector<std::string>{"start a", "drain"});
}

TEST_CASE("waits between connection attempts double from 20 ms to 15 s, less up to a fifth") {
  Backoff delay(kReconnectFirst, kReconnectMost, kReconnectSpread, Backoff::any_random());
  auto most = 20ms;
  for (int i = 0; i < 20; ++i) {
    const auto wait = delay.next();
    CHECK(wait <= most);
    CHECK(wait >= most - most / 5);
    most = std::min(2 * most, 15000ms);
  }
  delay.reset();
  CHECK(delay.next() <= 20ms);
}

TEST_CASE("two proxies of one node do not knock in step") {
  Backoff a(kReconnectFirst, kReconnectMost, kReconnectSpread, Backoff::any_random());
  Backoff b(kReconnectFirst, kReconnectMost, kReconnectSpread, Backoff::any_random());
  int different = 0;
  for (int i = 0; i < 12; ++i) different += a.next() != b.next() ? 1 : 0;
  CHECK(different >= 6);
}

TEST_CASE("a socket path that cannot be is refused at start") {
  EventLoop loop;
  Pods pods;
  ZdsClient client(loop, pods, {.path = std::string(200, 'x')});
  const auto started = client.start();
  REQUIRE_FALSE(started);
  CHECK_THAT(started.error().text, Catch::Contains("must have 1 to 107 bytes"));
}
