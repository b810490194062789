#include "zds/zds_server.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/zds/zds_wire.h"
#include "zds/zds_client.h"

using namespace zt;
using namespace zt::zds;
using namespace zt::testing;
using namespace std::chrono_literals;
using Requests = std::vector<std::string>;

namespace {

struct Fixture {
  TempDir dir;
  std::string path = dir / "ztunnel.sock";
  EventLoop loop;
  std::vector<std::pair<std::string, std::string>> answers;
  std::vector<size_t> proxies;
  ZdsServer server{loop,
                   {.path = path,
                    .on_answer = [this](const std::string& uid, const std::string& error) { answers.emplace_back(uid, error); },
                    .on_proxies = [this](size_t count) { proxies.push_back(count); }}};

  Fixture() {
    const auto started = server.start();
    INFO(error_text(started));
    REQUIRE(started);
  }
  std::shared_ptr<const Netns> set(const std::string& uid, std::shared_ptr<const Netns> netns = nullptr,
                                   const std::string& account = "sa") {
    if (!netns) netns = std::make_shared<const Netns>(make_netns());
    REQUIRE(server.set_pod({uid, PodName{uid + "-name", "ns", account}, netns}));
    return netns;
  }
  Wire connect() { return Wire::to_agent(loop, path); }
};

}  // namespace

TEST_CASE_METHOD(Fixture, "a proxy gets the pods with their namespaces, then snapshot_sent, one request at a time") {
  const auto a = set("a");
  REQUIRE(server.set_pod({"b", PodName{"b", "ns", "sa"}, nullptr}));
  Wire proxy = connect();
  CHECK(proxy.silent());  // nothing before its hello
  proxy.hello();
  CHECK(proxy.request() == "add a");
  CHECK(proxy.last_info == PodName{"a-name", "ns", "sa"});
  CHECK(Netns::from_fd(std::move(proxy.last_fd))->id() == a->id());
  CHECK(proxy.silent());  // nothing before its answer
  CHECK_FALSE(server.is_served("a"));
  proxy.ack();
  CHECK(proxy.request() == "keep b");
  proxy.ack();
  CHECK(proxy.request() == "snapshot_sent");
  proxy.ack();
  CHECK(proxy.silent());
  CHECK(server.is_served("a"));
  CHECK(answers == std::vector<std::pair<std::string, std::string>>{{"a", ""}});
  CHECK(server.proxies() == 1);
}

TEST_CASE_METHOD(Fixture, "pods that come and go later are told") {
  Wire proxy = connect();
  CHECK(proxy.take_snapshot() == Requests{"snapshot_sent"});
  set("a");
  CHECK(proxy.request() == "add a");
  proxy.ack();
  server.remove_pod("a");
  CHECK(proxy.request() == "del a");
  proxy.ack();
  server.remove_pod("never there");
  CHECK(proxy.silent());
}

TEST_CASE_METHOD(Fixture, "what changes while an answer is awaited is told afterwards") {
  Wire proxy = connect();
  proxy.take_snapshot();
  const auto netns = set("a");
  CHECK(proxy.request() == "add a");

  SECTION("the pod goes") {
    server.remove_pod("a");
    proxy.ack();
    CHECK(proxy.request() == "del a");
    proxy.ack();
  }
  SECTION("the pod goes and comes back: nothing to tell") {
    server.remove_pod("a");
    set("a", netns);
    proxy.ack();
  }
  SECTION("the pod moves to another namespace") {
    const auto other = set("a");
    proxy.ack();
    CHECK(proxy.request() == "add a");
    CHECK(Netns::from_fd(std::move(proxy.last_fd))->id() == other->id());
    proxy.ack();
  }
  SECTION("the pod comes and goes unseen") {
    set("b");
    server.remove_pod("b");
    proxy.ack();
  }
  CHECK(proxy.silent());
}

TEST_CASE_METHOD(Fixture, "a pod with a new identity is deleted first, since a proxy takes a repeated add for the same pod") {
  const auto netns = set("a");
  Wire proxy = connect();
  proxy.take_snapshot();
  set("a", netns);
  CHECK(proxy.silent());
  set("a", netns, "other");
  CHECK(proxy.request() == "del a");
  proxy.ack();
  CHECK(proxy.request() == "add a");
  CHECK(proxy.last_info.service_account == "other");
  proxy.ack();
  CHECK(proxy.silent());
}

TEST_CASE_METHOD(Fixture, "a refused pod is offered again after 5 s, others are not held up") {
  set("a");
  Wire proxy = connect();
  proxy.hello();
  CHECK(proxy.request() == "add a");
  proxy.ack("port 15008 is taken");
  CHECK(proxy.request() == "snapshot_sent");
  proxy.ack();
  set("b");
  CHECK(proxy.request() == "add b");
  proxy.ack();
  CHECK(proxy.silent());
  CHECK_FALSE(server.is_served("a"));
  CHECK(server.is_served("b"));
  CHECK(answers.front() == std::pair<std::string, std::string>{"a", "port 15008 is taken"});
  const auto again = proxy.try_receive(ZdsPeer::kRetryInterval + 1s);
  REQUIRE(again);
  CHECK(std::get<AddWorkload>(*decode_request(again->bytes)).uid == "a");
  proxy.ack();
  CHECK(proxy.silent());
  CHECK(server.is_served("a"));
}

TEST_CASE_METHOD(Fixture, "of two proxies the newer gets new pods, both learn of removals, the older inherits") {
  set("a");
  Wire older = connect();
  CHECK(older.take_snapshot() == Requests{"add a", "snapshot_sent"});
  Wire newer = connect();
  CHECK(newer.take_snapshot() == Requests{"add a", "snapshot_sent"});
  CHECK(server.proxies() == 2);

  set("b");
  CHECK(newer.request() == "add b");
  newer.ack();
  CHECK(older.silent());

  server.remove_pod("a");
  CHECK(newer.request() == "del a");
  newer.ack();
  CHECK(older.request() == "del a");
  older.ack();

  SECTION("the newer dies: the older is told what it missed") {
    newer.close();
    CHECK(older.request() == "add b");
    older.ack();
    CHECK(loop.run_until([&] { return server.is_served("b"); }, 5s));
  }
  SECTION("the older dies: nothing changes for the newer") {
    older.close();
    set("c");
    CHECK(newer.request() == "add c");
    newer.ack();
  }
  CHECK(server.proxies() == 1);
}

TEST_CASE_METHOD(Fixture, "three proxies may end in any of their six orders, and the newest that is left has all pods") {
  std::vector<size_t> order{0, 1, 2};
  for (int turns = GENERATE(0, 1, 2, 3, 4, 5); turns > 0; --turns) std::next_permutation(order.begin(), order.end());
  CAPTURE(order);
  set("a");
  std::vector<std::unique_ptr<Wire>> wires;
  std::vector<std::set<std::string>> has(3, {"a"});
  for (int i = 0; i < 3; ++i) {
    wires.push_back(std::unique_ptr<Wire>(new Wire(connect())));
    CHECK(wires.back()->take_snapshot() == Requests{"add a", "snapshot_sent"});
  }
  std::set<std::string> pods{"a"};
  const auto newest = [&] { return static_cast<size_t>(wires[2] ? 2 : wires[1] ? 1 : 0); };
  const auto tell_newest = [&] {
    for (const auto& uid : pods) {
      if (!has[newest()].insert(uid).second) continue;
      CHECK(wires[newest()]->request() == "add " + uid);
      wires[newest()]->ack();
    }
  };
  for (const size_t leaving : order) {
    const std::string uid = "p" + std::to_string(leaving);
    set(uid);
    pods.insert(uid);
    tell_newest();
    wires[leaving]->close();
    wires[leaving].reset();
    if (wires[0] || wires[1] || wires[2]) {
      tell_newest();
      CHECK(wires[newest()]->silent());
    }
  }
  CHECK(loop.run_until([&] { return server.proxies() == 0; }, 5s));
}

TEST_CASE_METHOD(Fixture, "a connection without hello takes nothing away from a working proxy") {
  Wire proxy = connect();
  proxy.take_snapshot();
  Wire silent = connect();
  CHECK(silent.silent());
  set("a");
  CHECK(proxy.request() == "add a");
  proxy.ack();
  CHECK(server.proxies() == 1);
}

TEST_CASE_METHOD(Fixture, "hostile and broken proxies lose their connection and cost nothing else") {
  set("a");
  Wire good = connect();
  good.take_snapshot();
  const size_t before = open_descriptors();
  {
    Wire bad = connect();
    SECTION("another version") { bad.send(unhex("0802")); }
    SECTION("no hello but an ack") { bad.ack(); }
    SECTION("garbage") { bad.send("\xff\xff\xff"); }
    SECTION("a packet too long") {
      // Not by send_packet, which refuses it: by hand.
      auto socket = connect_zds(path);
      REQUIRE(socket);
      const std::string bytes(2000, 'x');
      REQUIRE(::send(socket->get(), bytes.data(), bytes.size(), 0) == 2000);
      Wire longer(loop, std::move(*socket));
      CHECK(longer.closed());
      bad.close();
    }
    SECTION("a descriptor with the hello") {
      const UniqueFd file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
      bad.send(encode(ZdsHello{}), file.get());
    }
    SECTION("an ack too many") {
      bad.take_snapshot();
      CHECK(bad.silent());
      bad.ack();
    }
    SECTION("two acks for one request") {
      bad.hello();
      CHECK(bad.request() == "add a");
      bad.ack();
      bad.ack();
      bad.ack();
      while (bad.request() != "closed") {
      }
      bad.close();
    }
    SECTION("a response that is none") {
      bad.hello();
      CHECK(bad.request() == "add a");
      bad.send(unhex("1200"));
    }
    SECTION("gone in the middle of a request") {
      bad.hello();
      CHECK(bad.request() == "add a");
      bad.close();
    }
    if (bad.open()) CHECK(bad.closed());
  }
  CHECK(loop.run_until([&] { return open_descriptors() == before; }, 2s));
  set("b");
  CHECK(good.request() == "add b");
  good.ack();
  CHECK(good.silent());
}

TEST_CASE_METHOD(Fixture, "a proxy that is silent for 5 s is disconnected, so that a late answer is not misread") {
  set("a");
  const auto start = Clock::now();
  Wire unanswering = connect(), helloless = connect();
  unanswering.hello();
  CHECK(unanswering.request() == "add a");
  for (Wire* proxy : {&unanswering, &helloless}) {
    const auto packet = proxy->try_receive(ZdsPeer::kAnswerLimit + 2s);
    REQUIRE(packet);
    CHECK(packet->end_of_stream());
    CHECK(Clock::now() - start > ZdsPeer::kAnswerLimit - 200ms);
  }
}

TEST_CASE_METHOD(Fixture, "connections are accepted at five a second at most") {
  std::vector<Wire> wires;
  const auto start = Clock::now();
  for (int i = 0; i < 6; ++i) {
    wires.push_back(connect());
    wires.back().hello();
  }
  REQUIRE(loop.run_until([&] { return server.proxies() == 6; }, 5s));
  CHECK(Clock::now() - start >= 5 * ZdsServer::kAcceptInterval - 20ms);
}

TEST_CASE_METHOD(Fixture, "a pod that would not fit in a message is refused") {
  const auto result = server.set_pod({std::string(1020, 'u'), PodName{"name", "ns", "sa"}, nullptr});
  REQUIRE_FALSE(result);
  CHECK_THAT(result.error().text, Catch::Contains("the limit is 1024"));
}

TEST_CASE("a second agent on the same socket is refused") {
  Fixture first;
  ZdsServer second(first.loop, {.path = first.path});
  const auto started = second.start();
  REQUIRE_FALSE(started);
  CHECK_THAT(started.error().text, Catch::Contains("another agent is running"));
}

namespace {
class PodList final : public PodManager {
 public:
  void start(const std::string& uid, const PodName&, std::shared_ptr<const Netns> netns, StartDone done) override {
    running[uid] = netns->id();
    done({});
  }
  void stop(const std::string& uid) override { running.erase(uid); }
  void drain_all() override { drained = true; }
  std::map<std::string, Netns::Id> running;
  bool drained = false;
};
}  // namespace

TEST_CASE("agent and proxy stay in step through restarts of either") {
  Fixture agent;
  PodList pods;
  const auto a = agent.set("a");
  std::vector<bool> readiness;
  auto client = std::make_unique<ZdsClient>(
      agent.loop, pods, ZdsClient::Options{.path = agent.path, .on_ready = [&](bool ready) { readiness.push_back(ready); }});
  REQUIRE(client->start());
  REQUIRE(agent.loop.run_until([&] { return client->ready(); }, 5s));
  CHECK(pods.running == std::map<std::string, Netns::Id>{{"a", a->id()}});

  const auto b = agent.set("b");
  CHECK(agent.loop.run_until([&] { return pods.running.contains("b"); }, 5s));
  const auto moved = agent.set("b");
  CHECK(agent.loop.run_until([&] { return pods.running["b"] == moved->id(); }, 5s));
  agent.server.remove_pod("a");
  CHECK(agent.loop.run_until([&] { return !pods.running.contains("a"); }, 5s));

  client->shutdown();
  CHECK(pods.drained);
  CHECK_FALSE(client->ready());
  CHECK(agent.loop.run_until([&] { return agent.server.proxies() == 0; }, 5s));
  CHECK(readiness == std::vector<bool>{true, false});
  client.reset();

  PodList next_pods;
  ZdsClient next(agent.loop, next_pods, {.path = agent.path});
  REQUIRE(next.start());
  CHECK(agent.loop.run_until([&] { return next.ready() && next_pods.running.size() == 1; }, 5s));
}
