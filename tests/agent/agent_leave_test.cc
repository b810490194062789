#include "agent/leave_pods.h"

#include <catch2/catch.hpp>
#include <string>

#include "tests/agent/agent_fixture.h"

using namespace zt;
using namespace zt::agent;
using namespace zt::testing;
using namespace std::chrono_literals;
using Catch::Contains;

TEST_CASE_METHOD(AgentFixture,
                 "a pod that is taken out stops capturing, waits for its connections, leaves the proxies, "
                 "then the rules go") {
  make("a");
  make("b");
  write(pod("u1", "a") + pod("u2", "b"));
  start();
  Wire wire = proxy();
  wire.take_snapshot();
  redirector.take();
  redirector.carried["a"] = 2;
  write(pod("u2", "b"));
  REQUIRE(until([&] { return agent->counts().leaving == 1 && !redirector.calls.empty(); }));
  CHECK(redirector.take() == Calls{"stop a"});
  CHECK_FALSE(wire.try_receive(2 * Agent::kLeavePoll));
  CHECK(redirector.take().empty());

  SECTION("they end") {
    redirector.carried["a"] = 0;
    CHECK(wire.request() == "del u1");
    CHECK(redirector.take().empty());
    wire.ack();
    REQUIRE(until([&] { return agent->counts().leaving == 0; }));
    CHECK(redirector.take() == Calls{"unenroll a"});
    CHECK(agent->counts().failed_removals == 0);
  }
  SECTION("the pod is put back") {
    write(pod("u1", "a") + pod("u2", "b"));
    REQUIRE(until([&] { return agent->counts().enrolled == 2; }));
    CHECK(redirector.take() == Calls{"enroll a"});
    CHECK(wire.silent());
  }
  SECTION("another pod takes over its namespace") {
    write(pod("u3", "a") + pod("u2", "b"));
    REQUIRE(until([&] { return agent->counts().enrolled == 2; }));
    CHECK(redirector.take() == Calls{"enroll a"});
    CHECK(agent->counts().leaving == 0);
    CHECK(wire.request() == "del u1");
    wire.ack();
    CHECK(wire.request() == "add u3");
    wire.ack();
    CHECK_FALSE(wire.try_receive(2 * Agent::kLeavePoll));
    CHECK(redirector.take().empty());
  }
}

TEST_CASE_METHOD(AgentFixture, "connections that do not end are cut at the limit") {
  make("a");
  options.leave_limit = 100ms;
  write(pod("u1", "a"));
  start();
  redirector.carried["a"] = 1;
  redirector.take();
  write_raw("pods: []\n");
  REQUIRE(until([&] { return agent->counts().leaving == 1; }));
  REQUIRE(until([&] { return agent->counts().leaving == 0; }));
  CHECK(redirector.take() == Calls{"stop a", "unenroll a"});
}

TEST_CASE_METHOD(AgentFixture, "a pod whose options change is enrolled anew, one whose path does not change is left alone") {
  make("a");
  write(pod("u1", "a"));
  start();
  redirector.take();
  write(pod("u1", "a", ", ingress: true"));
  REQUIRE(until([&] { return redirector.options["a"].ingress; }));
  CHECK(redirector.take() == Calls{"enroll a"});
  write("# only a comment\n" + pod("u1", "a", ", ingress: true"));
  loop.run_until([] { return false; }, 3 * FileWatch::kSettle);
  CHECK(redirector.take().empty());
}

TEST_CASE_METHOD(AgentFixture, "a pod that moves to another namespace is enrolled there and leaves the former one") {
  make("a");
  make("b");
  write(pod("u1", "a"));
  start();
  Wire wire = proxy();
  wire.take_snapshot();
  redirector.take();
  write(pod("u1", "b"));
  CHECK(wire.request() == "add u1");
  CHECK(Netns::from_fd(std::move(wire.last_fd))->id() == namespaces.at("b").id());
  wire.ack();
  CHECK(until([&] { return agent->counts().leaving == 0; }));
  CHECK(redirector.take() == Calls{"enroll b", "unenroll a"});
}

TEST_CASE_METHOD(AgentFixture, "a namespace that goes from one pod to another stays captured throughout") {
  make("a");
  make("b");
  write(pod("u1", "a") + pod("u2", "b"));
  start();
  Wire wire = proxy();
  wire.take_snapshot();
  redirector.take();
  SECTION("a pod gets another uid") {
    write(pod("u3", "a") + pod("u2", "b"));
    CHECK(wire.request() == "del u1");
    wire.ack();
    CHECK(wire.request() == "add u3");
    wire.ack();
    CHECK(redirector.take() == Calls{"enroll a"});
  }
  SECTION("two pods change places") {
    write(pod("u1", "b") + pod("u2", "a"));
    CHECK(wire.request() == "add u1");
    CHECK(Netns::from_fd(std::move(wire.last_fd))->id() == namespaces.at("b").id());
    wire.ack();
    CHECK(wire.request() == "add u2");
    CHECK(Netns::from_fd(std::move(wire.last_fd))->id() == namespaces.at("a").id());
    wire.ack();
    CHECK(redirector.take() == Calls{"enroll b", "enroll a"});
  }
  CHECK(wire.silent());
}

TEST_CASE_METHOD(AgentFixture, "a pod that was made anew behind its path is followed") {
  make("a");
  make("a2");
  options.verify_interval = 20ms;
  write(pod("u1", "a"));
  start();
  Wire wire = proxy();
  wire.take_snapshot();
  redirector.take();
  point("a", namespaces.at("a2"));
  CHECK(wire.request() == "add u1");
  CHECK(Netns::from_fd(std::move(wire.last_fd))->id() == namespaces.at("a2").id());
  wire.ack();
  CHECK(until([&] { return agent->counts().leaving == 0; }));
  CHECK(redirector.take() == Calls{"enroll a2", "unenroll a"});
  // A path that leads nowhere, to the agent's own or to another pod's namespace is not followed.
  std::filesystem::remove(dir / "a");
  const int before = redirector.verified["a2"];
  CHECK(until([&] { return redirector.verified["a2"] > before + 2; }));
  point("a", *Netns::current());
  CHECK(wire.silent());
  CHECK(redirector.take().empty());
}

TEST_CASE_METHOD(AgentFixture, "the real state of every pod is verified again and again, and repaired") {
  make("a");
  make("b");
  options.verify_interval = 20ms;
  write(pod("u1", "a") + pod("u2", "b"));
  start();
  CHECK(until([&] { return redirector.verified["a"] > 3 && redirector.verified["b"] > 3; }));
  CHECK(agent->counts().repairs == 0);
  redirector.take();
  redirector.deviations["b"] = {"missing nftables table istio-ambient-nat"};
  CHECK(until([&] { return agent->counts().repairs == 1; }));
  CHECK(redirector.take() == Calls{"enroll b"});
  CHECK(redirector.deviations["b"].empty());
}

TEST_CASE_METHOD(AgentFixture, "a pod that cannot be enrolled holds up no other and is tried again") {
  make("a");
  make("b");
  redirector.failing = {"a"};
  write(pod("u1", "a") + pod("u2", "b"));
  start();
  CHECK(agent->counts().failed == 1);
  CHECK(agent->counts().enrolled == 1);
  redirector.failing.clear();
  CHECK(until([&] { return agent->counts().enrolled == 2; }));
}

TEST_CASE_METHOD(AgentFixture, "a pod whose rules cannot be removed is not forgotten, it is tried again until they are gone") {
  make("a");
  make("b");
  options.verify_interval = 20ms;
  write(pod("u1", "a") + pod("u2", "b"));
  start();
  Wire wire = proxy();
  wire.take_snapshot();
  redirector.take();
  redirector.failing_removals["a"] = 2;
  const auto failed_once = [&](const std::string& uid) {
    REQUIRE(until([&] { return agent->counts().failed_removals >= 1; }));
    CHECK(agent->counts().leaving == 1);
    CHECK_THAT(agent->failures()[uid], Contains("Device or resource busy"));
  };
  SECTION("as it leaves") {
    write(pod("u2", "b"));
    CHECK(wire.request() == "del u1");
    wire.ack();
    failed_once("u1");
    REQUIRE(until([&] { return agent->counts().leaving == 0; }));
    CHECK(redirector.take() == Calls{"stop a", "unenroll a", "unenroll a", "unenroll a"});
    CHECK(agent->counts().failed_removals == 2);
    CHECK(agent->failures().empty());
  }
  SECTION("where it was before it moved") {
    make("c");
    write(pod("u1", "c") + pod("u2", "b"));
    CHECK(wire.request() == "add u1");
    wire.ack();
    failed_once("u1");
    REQUIRE(until([&] { return agent->counts().leaving == 0; }));
    CHECK(redirector.take() == Calls{"enroll c", "unenroll a", "unenroll a", "unenroll a"});
    CHECK(agent->counts().enrolled == 2);
  }
  SECTION("nor by the next agent") {
    redirector.failing_removals["a"] = 1000;
    write(pod("u2", "b"));
    failed_once("u1");
    agent.reset();
    redirector.failing_removals["a"] = 0;
    redirector.take();
    start();
    REQUIRE(until([&] { return agent->counts().leaving == 0; }));
    CHECK(redirector.take() == Calls{"stop a", "enroll b", "unenroll a"});
  }
  SECTION("unless the pod comes back") {
    redirector.failing_removals["a"] = 1000;
    write(pod("u2", "b"));
    failed_once("u1");
    write(pod("u1", "a") + pod("u2", "b"));
    REQUIRE(until([&] { return agent->counts().enrolled == 2; }));
    CHECK(agent->counts().leaving == 0);
    CHECK(redirector.calls.back() == "enroll a");
  }
}

TEST_CASE_METHOD(AgentFixture, "the pauses between attempts grow") {
  make("a");
  write(pod("u1", "a"));
  start();
  redirector.failing_removals["a"] = 1000;
  write_raw("pods: []\n");
  REQUIRE(until([&] { return agent->counts().failed_removals == 1; }));
  const auto first = Clock::now();
  REQUIRE(until([&] { return agent->counts().failed_removals == 4; }, 30s));
  CHECK(Clock::now() - first >= Agent::kFirstRetry * 7);  // 1 + 2 + 4
}

TEST_CASE_METHOD(AgentFixture, "a pod that cannot be told to stop capturing is served until it can") {
  make("a");
  make("b");
  write(pod("u1", "a") + pod("u2", "b"));
  start();
  Wire wire = proxy();
  wire.take_snapshot();
  redirector.take();
  redirector.failing_stops["a"] = 1;
  write(pod("u2", "b"));
  REQUIRE(until([&] { return !agent->failures().empty(); }));
  CHECK(agent->counts().leaving == 1);
  CHECK(redirector.calls == Calls{"stop a"});
  CHECK(wire.request() == "del u1");
  CHECK(redirector.calls == Calls{"stop a", "stop a"});
}

TEST_CASE_METHOD(AgentFixture, "all pods leave when asked, and then it is over") {
  make("a");
  make("b");
  write(pod("u1", "a") + pod("u2", "b"));
  start();
  redirector.take();
  redirector.carried["b"] = 1;
  bool left = false;
  agent->leave_all([&] { left = true; });
  REQUIRE(until([&] { return redirector.calls.size() == 3; }));
  CHECK(redirector.take() == Calls{"stop a", "stop b", "unenroll a"});
  CHECK_FALSE(left);
  redirector.carried["b"] = 0;
  CHECK(until([&] { return left; }));
  CHECK(redirector.take() == Calls{"unenroll b"});
}

TEST_CASE_METHOD(AgentFixture, "a pod that cannot be cleaned holds up the end of the agent for so long and no longer") {
  make("a");
  options.leave_limit = 0ms;
  write(pod("u1", "a"));
  start();
  redirector.failing_removals["a"] = 1000;
  bool left = false;
  agent->leave_all([&] { left = true; });
  CHECK(until([&] { return agent->counts().failed_removals > 1; }));
  CHECK_FALSE(left);
  CHECK(until([&] { return left; }, Agent::kLeaveMargin + 5s));
}

TEST_CASE_METHOD(AgentFixture, "pods stay when the agent ends, and the next one takes them up") {
  make("a");
  write(pod("u1", "a"));
  start();
  agent.reset();
  CHECK(redirector.take() == Calls{"enroll a"});
  start();
  CHECK(redirector.take() == Calls{"enroll a"});
}

TEST_CASE_METHOD(AgentFixture, "a pod that was taken out while no agent ran leaves when the next one comes") {
  make("a");
  make("b");
  make("gone");
  write(pod("u1", "a") + pod("u2", "b") + pod("u3", "gone"));
  start();
  agent.reset();
  redirector.take();
  redirector.carried["a"] = 1;
  std::filesystem::remove(dir / "gone");
  write(pod("u4", "b"));  // a's pod is out, b's has another uid, the third is gone
  start();
  CHECK(redirector.take() == Calls{"stop a", "enroll b"});
  Wire wire = proxy();
  CHECK(wire.take_snapshot() == Calls{"add u1", "add u4", "snapshot_sent"});

  // Even if this agent ends before the pod has left.
  agent.reset();
  start();
  CHECK(redirector.take() == Calls{"stop a", "enroll b"});
  redirector.carried["a"] = 0;
  REQUIRE(until([&] { return agent->counts().leaving == 0; }));
  CHECK(redirector.take() == Calls{"unenroll a"});
  agent.reset();
  start();
  CHECK(redirector.take() == Calls{"enroll b"});
}

TEST_CASE_METHOD(AgentFixture, "an unusable state file is no reason not to start") {
  make("a");
  write(pod("u1", "a"));
  REQUIRE(replace_file(options.zds_path + ".pods", "garbage", 0600));
  start();
  CHECK(agent->counts().enrolled == 1);
}

TEST_CASE_METHOD(AgentFixture, "leaving without an agent works in two phases as well") {
  make("a");
  make("b");
  const auto specs = parse_pods("pods:\n" + pod("u1", "a") + pod("u2", "none") + pod("u3", "b"), "p", {});
  REQUIRE(specs);
  redirector.carried["a"] = 1;
  const auto start = Clock::now();
  const auto left = leave_pods(redirector, specs->pods, 300ms);
  INFO(error_text(left));
  CHECK(left);
  CHECK(Clock::now() - start >= 300ms);
  CHECK(redirector.take() == Calls{"stop a", "stop b", "unenroll a", "unenroll b"});
}
