// The agent with real rules in a real namespace while its system calls fail, one at a time.
#include <catch2/catch.hpp>

#include <optional>
#include "base/file.h"

#include "agent/agent.h"
#include "redirection/nftables/nftables.h"
#include "tests/support/failing_calls/failing_calls.h"
#include "tests/support/netns/test_pod.h"

using namespace zt;
using namespace zt::agent;
using namespace zt::testing;
using namespace std::chrono_literals;

namespace {

std::string path_of(const Netns& netns) { return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(netns.fd()); }

struct Life {
  TempDir dir;
  EventLoop loop;
  redirection::NftablesRedirector redirector;
  std::optional<Agent> agent;

  void write(const std::string& pods) {
    const OwnCalls own;
    REQUIRE(replace_file(dir / "pods.yaml", pods, 0600));
  }
  bool until(const std::function<bool()>& done) { return loop.run_until(done, 20s); }

  // False: the agent said that it cannot start.
  bool enrol(const Netns& pod) {
    write("pods:\n- {uid: u1, name: a, namespace: ns, serviceAccount: sa, netns: " + path_of(pod) + "}\n");
    agent.emplace(loop, redirector,
                  Agent::Options{.pods_file = dir / "pods.yaml",
                                 .zds_path = dir / "sock",
                                 .state_file = {},
                                 .defaults = {},
                                 .verify_interval = 400ms,
                                 .leave_limit = 1s});
    if (auto started = agent->start(); !started) {
      CHECK_FALSE(started.error().text.empty());
      return false;
    }
    CHECK(until([&] { return agent->counts().enrolled == 1; }));
    return true;
  }
  void leave() {
    write("pods: []\n");
    CHECK(until([&] { return agent->counts().enrolled == 0 && agent->counts().leaving == 0; }));
  }
};

// The test's own calls do not fail, and its descriptors are gone when the scenario is over.
void live(const std::function<void(Life&)>& scenario) {
  std::optional<Life> life;
  {
    const OwnCalls own;
    life.emplace();
  }
  scenario(*life);
  const OwnCalls own;
  life.reset();
}

// nft and ip are asked by another process.
std::string rules(const Netns& pod) {
  const OwnCalls own;
  return sh(pod, "nft list ruleset; ip rule; ip -6 rule");
}
bool enrolled(const Netns& pod) {
  const auto text = rules(pod);
  return text.find("redirect to :15001") != std::string::npos && text.find("lookup 100") != std::string::npos;
}
bool clean(const Netns& pod) {
  const auto text = rules(pod);
  return text.find("istio") == std::string::npos && text.find("lookup 100") == std::string::npos;
}

}  // namespace

TEST_CASE("root: whatever call of an agent that starts fails, it says so or enrols the pods, and loses no descriptor") {
  ZT_NEEDS_ROOT("network namespaces");
  const TestPod pods;
  live([&](Life& life) { REQUIRE(life.enrol(*pods.pod)); });  // with what libnftables reads once
  const size_t calls = fail_each(without(every_call(), {Call::kEpollWait}), [&](const FailNth& fail) {
    live([&](Life& life) {
      const bool started = life.enrol(*pods.pod);
      if (fail.failed().empty()) CHECK(started);
      if (started) CHECK(enrolled(*pods.pod));
    });
  });
  CHECK(calls > 30);
}

TEST_CASE("root: whatever call of an agent fails that a pod leaves, its rules go, and no descriptor is lost") {
  ZT_NEEDS_ROOT("network namespaces");
  const TestPod pods;
  live([&](Life& life) { REQUIRE(life.enrol(*pods.pod)); });
  const size_t calls = fail_each(without(every_call(), {Call::kEpollWait}), [&](FailNth& fail) {
    live([&](Life& life) {
      fail.hold();
      REQUIRE(life.enrol(*pods.pod));
      fail.release();
      life.leave();
      INFO(fail.failed());
      CHECK(clean(*pods.pod));
    });
  });
  CHECK(calls > 20);
}
