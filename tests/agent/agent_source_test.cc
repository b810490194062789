// The agent told of its pods one by one.
#include <catch2/catch.hpp>

#include "tests/agent/agent_fixture.h"

using namespace zt;
using namespace zt::agent;
using namespace zt::testing;
using Catch::Contains;
using Standing = Agent::Standing;

namespace {

struct Fixture : AgentFixture {
  std::vector<std::string> changed;

  Fixture() {
    options.pods_file.clear();
    options.on_change = [this](const std::string& uid) { changed.push_back(uid); };
    make("a");
    make("b");
  }
  PodSpec spec(const std::string& uid, const std::string& netns, redirection::RedirectionOptions rules = {}) {
    return {uid, {uid, "ns", "sa"}, dir / netns, rules, "ns/" + uid};
  }
  void serve() {
    start();
    for (const auto& pod : at_start) agent->put_pod(pod);
    REQUIRE(agent->serve());
  }
  std::vector<PodSpec> at_start;
};

}  // namespace

TEST_CASE_METHOD(Fixture, "no proxy is heard before the pods are there, and what is put is enrolled and offered") {
  start();
  CHECK_FALSE(std::filesystem::exists(options.zds_path));
  agent->put_pod(spec("u1", "a"));
  REQUIRE(agent->serve());
  CHECK(redirector.take() == Calls{"enroll a"});
  CHECK(agent->standing("u1") == Standing::kRedirected);
  Wire wire = proxy();
  CHECK(wire.take_snapshot() == Calls{"add u1", "snapshot_sent"});
  CHECK(until([&] { return agent->standing("u1") == Standing::kServed; }));
  CHECK(agent->is_served("u1"));
  agent->put_pod(spec("u2", "b"));
  CHECK(wire.request() == "add u2");
  wire.ack();
  CHECK(until([&] { return agent->standing("u2") == Standing::kServed; }));
  CHECK(agent->standing("u3") == Standing::kOut);
  CHECK(std::filesystem::exists(options.zds_path + ".pods") == false);
  CHECK_FALSE(changed.empty());
}

TEST_CASE_METHOD(Fixture, "the same said again changes nothing, and other options are applied") {
  at_start = {spec("u1", "a")};
  serve();
  redirector.take();
  agent->put_pod(spec("u1", "a"));
  loop.run_once(10ms);
  CHECK(redirector.take().empty());
  agent->put_pod(spec("u1", "a", {.ingress = true}));
  CHECK(until([&] { return redirector.options["a"].ingress; }));
}

TEST_CASE_METHOD(Fixture, "a pod that leaves and is put again at once goes on being served") {
  at_start = {spec("u1", "a")};
  redirector.carried["a"] = 1;
  serve();
  Wire wire = proxy();
  wire.take_snapshot();
  REQUIRE(agent->leave_pod(spec("u1", "a")));
  REQUIRE(until([&] { return agent->standing("u1") == Standing::kLeaving; }));
  agent->put_pod(spec("u1", "a"));
  CHECK(until([&] { return agent->standing("u1") == Standing::kServed; }));
  CHECK(redirector.take() == Calls{"enroll a", "stop a", "enroll a"});
  CHECK(wire.silent());
}

TEST_CASE_METHOD(Fixture, "a pod that leaves is served for a while, whoever it carries") {
  options.least_leave = 300ms;
  at_start = {spec("u1", "a")};
  serve();
  Wire wire = proxy();
  wire.take_snapshot();
  const auto told = Clock::now();
  REQUIRE(agent->leave_pod(spec("u1", "a")));
  REQUIRE(until([&] { return agent->standing("u1") == Standing::kLeaving; }));
  CHECK(wire.request() == "del u1");
  CHECK(Clock::now() - told >= 300ms);
  wire.ack();
  CHECK(until([&] { return redirector.calls.back() == "unenroll a"; }));
  CHECK(agent->standing("u1") == Standing::kOut);
}

TEST_CASE_METHOD(Fixture, "a pod of an earlier agent leaves though nobody put it, and one that cannot be found is said") {
  start();
  REQUIRE(agent->leave_pod(spec("u1", "a")));
  const auto lost = agent->leave_pod(spec("u2", "none"));
  REQUIRE_FALSE(lost);
  CHECK_THAT(lost.error().text, Contains("none"));
  REQUIRE(agent->serve());
  Wire wire = proxy();
  wire.take_snapshot();
  CHECK(until([&] { return !redirector.calls.empty() && redirector.calls.back() == "unenroll a"; }));
  CHECK(redirector.take() == Calls{"stop a", "unenroll a"});
}

TEST_CASE_METHOD(Fixture, "a pod that is gone is let go of at once, and nothing in its namespace is touched") {
  redirector.carried["a"] = 5;
  at_start = {spec("u1", "a")};
  serve();
  Wire wire = proxy();
  wire.take_snapshot();
  redirector.take();
  agent->forget_pod("u1");
  CHECK(wire.request() == "del u1");
  wire.ack();
  CHECK(redirector.take().empty());
  CHECK(agent->standing("u1") == Standing::kOut);
  agent->forget_pod("u1");
}

TEST_CASE_METHOD(Fixture, "a pod whose namespace cannot be had waits, and is found by whoever knows") {
  std::set<std::string> known;
  options.find_namespace = [&](const PodSpec& pod) -> Result<std::shared_ptr<const Netns>> {
    if (!known.contains(pod.uid)) return fail(Reason::kNotFound, "no process of it");
    ZT_ASSIGN(Netns netns, Netns::open(dir / "a"));
    return std::make_shared<const Netns>(std::move(netns));
  };
  at_start = {spec("u1", "nowhere")};
  serve();
  CHECK(agent->standing("u1") == Standing::kWaiting);
  CHECK_THAT(agent->failure("u1"), Contains("ns/u1: pod u1: no process of it"));
  known.insert("u1");
  CHECK(until([&] { return agent->standing("u1") == Standing::kRedirected; }));
  CHECK(agent->failure("u1").empty());
}
