#include "agent/agent.h"

#include <catch2/catch.hpp>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "agent/leave_pods.h"
#include "mesh/reason.h"
#include "tests/zds/zds_wire.h"

using namespace zt;
using namespace zt::agent;
using namespace zt::testing;
using namespace std::chrono_literals;
using Calls = std::vector<std::string>;
using Catch::Contains;

namespace {

// Remembers what it was asked and answers as told. Namespaces are called by the names the test gave them.
class FakeRedirector final : public redirection::Redirector {
 public:
  [[nodiscard]] std::string_view name() const override { return "fake"; }
  Result<> probe() override { return works ? Result<>{} : fail(Reason::kIo, "no nf_tables in this kernel"); }
  Result<> enroll(const redirection::RedirectedPod& pod) override {
    note("enroll", pod);
    if (failing.contains(of(pod))) return fail(Reason::kIo, "no");
    deviations.erase(of(pod));
    options[of(pod)] = pod.options;
    return {};
  }
  Result<> stop_capturing(const redirection::RedirectedPod& pod) override {
    note("stop", pod);
    return fails(failing_stops, pod);
  }
  Result<size_t> carried_connections(const redirection::RedirectedPod& pod) override { return carried[of(pod)]; }
  Result<> unenroll(const redirection::RedirectedPod& pod) override {
    note("unenroll", pod);
    return fails(failing_removals, pod);
  }
  Result<redirection::Deviations> verify(const redirection::RedirectedPod& pod) override {
    ++verified[of(pod)];
    return deviations[of(pod)];
  }

  std::string of(const redirection::RedirectedPod& pod) { return names.at(pod.netns->id()); }
  Result<> note(const std::string& what, const redirection::RedirectedPod& pod) {
    calls.push_back(what + " " + of(pod));
    return {};
  }
  Result<> fails(std::map<std::string, int>& times, const redirection::RedirectedPod& pod) {
    if (times[of(pod)] == 0) return {};
    --times[of(pod)];
    return fail(Reason::kIo, "nftables: Device or resource busy");
  }
  Calls take() { return std::exchange(calls, {}); }

  bool works = true;
  std::map<Netns::Id, std::string> names;
  std::set<std::string> failing;
  std::map<std::string, int> failing_stops, failing_removals;  // how many times more
  std::map<std::string, size_t> carried;
  std::map<std::string, redirection::Deviations> deviations;
  std::map<std::string, redirection::RedirectionOptions> options;
  std::map<std::string, int> verified;
  Calls calls;
};

struct Fixture {
  TempDir dir;
  EventLoop loop;
  FakeRedirector redirector;
  std::map<std::string, Netns> namespaces;
  Agent::Options options{.pods_file = dir / "pods.yaml", .zds_path = dir / "sock", .verify_interval = 1h, .leave_limit = 1h};
  std::unique_ptr<Agent> agent;

  // A namespace and a path to it, <dir>/<name>.
  void make(const std::string& name) {
    const auto made = namespaces.emplace(name, make_netns());
    redirector.names[made.first->second.id()] = name;
    point(name, made.first->second);
  }
  void point(const std::string& name, const Netns& netns) {
    std::filesystem::remove(dir / name);
    std::filesystem::create_symlink("/proc/self/fd/" + std::to_string(netns.fd()), dir / name);
  }
  // A line for the pods file: uid u, namespace at <dir>/<netns>.
  std::string pod(const std::string& uid, const std::string& netns, const std::string& more = "") {
    return "- {uid: " + uid + ", name: " + uid + ", namespace: ns, serviceAccount: sa, netns: " + (dir / netns) + more + "}\n";
  }
  void write(const std::string& pods) { REQUIRE(write_pods_file(options.pods_file, "pods:\n" + pods)); }
  void write_raw(const std::string& text) { REQUIRE(write_pods_file(options.pods_file, text)); }
  Result<> try_start() {
    agent = std::make_unique<Agent>(loop, redirector, options);
    return agent->start();
  }
  void start() {
    const auto started = try_start();
    INFO(error_text(started));
    REQUIRE(started);
  }
  bool until(const std::function<bool()>& done, std::chrono::milliseconds limit = 5s) { return loop.run_until(done, limit); }
  Wire proxy() { return Wire::to_agent(loop, options.zds_path); }
};

}  // namespace

TEST_CASE_METHOD(Fixture, "the pods of the file are enrolled before any proxy is asked, and offered to it") {
  make("a");
  make("b");
  write(pod("u1", "a") + pod("u2", "b", ", ingress: true"));
  start();
  CHECK(redirector.take() == Calls{"enroll a", "enroll b"});
  CHECK_FALSE(redirector.options["a"].ingress);
  CHECK(redirector.options["b"].ingress);
  CHECK(agent->counts().enrolled == 2);
  Wire wire = proxy();
  CHECK(wire.take_snapshot() == Calls{"add u1", "add u2", "snapshot_sent"});
  CHECK(agent->proxies() == 1);
}

TEST_CASE_METHOD(Fixture, "a mistake at the start is said and touches no pod") {
  make("a");
  std::string text = "pods:\n" + pod("u1", "a");
  std::string error;
  SECTION("bad YAML") {
    text += "- [";
    error = "pods.yaml:";
  }
  SECTION("a kernel without nftables") {
    redirector.works = false;
    error = "no nf_tables in this kernel";
  }
  SECTION("a socket that cannot be") {
    options.zds_path = "/dev/null";
    error = "exists and is not a socket";
  }
  write_raw(text);
  const auto started = try_start();
  REQUIRE_FALSE(started);
  CHECK_THAT(started.error().text, Contains(error));
  CHECK(redirector.calls.empty());
}

TEST_CASE_METHOD(Fixture, "a bad entry at the start costs itself and is said") {
  make("a");
  std::string text = "pods:\n";
  std::string error;
  bool waits = true;
  SECTION("missing namespace") {
    text += pod("u2", "none");
    error = "pods.yaml:2:";
  }
  SECTION("a file for a namespace") {
    text += "- {uid: u2, name: x, namespace: ns, serviceAccount: sa, netns: /dev/null}\n";
    error = "/dev/null: not a namespace";
  }
  SECTION("the agent's own namespace") {
    text += "- {uid: u2, name: x, namespace: ns, serviceAccount: sa, netns: /proc/self/ns/net}\n";
    error = "is the agent's own network namespace";
  }
  SECTION("an entry that means nothing") {
    text += "- {uid: u2, nonsense: 1}\n";
    error = "pods.yaml:2:13: unknown key 'nonsense'";
    waits = false;
  }
  text += pod("u1", "a");
  SECTION("the same namespace by two paths") {
    point("b", namespaces.at("a"));
    text += pod("u2", "b");
    error = "is the same network namespace as pod u1's";
  }
  write_raw(text);
  start();
  CHECK(redirector.take() == Calls{"enroll a"});
  CHECK(agent->counts().enrolled == 1);
  CHECK(agent->counts().waiting == (waits ? 1 : 0));
  CHECK(agent->counts().bad_entries == (waits ? 0 : 1));
  CHECK_THAT(agent->failures()["u2"], Contains(error));
  Wire wire = proxy();
  CHECK(wire.take_snapshot() == (waits ? Calls{"add u1", "keep u2", "snapshot_sent"} : Calls{"add u1", "snapshot_sent"}));
}

TEST_CASE_METHOD(Fixture, "an entry whose namespace is not there yet is looked for again, and enrolled when it comes") {
  make("a");
  make("late");
  std::filesystem::remove(dir / "late");
  write(pod("u1", "a"));
  start();
  Wire wire = proxy();
  wire.take_snapshot();
  redirector.take();
  write(pod("u2", "late") + pod("u1", "a", ", ingress: true"));
  REQUIRE(until([&] { return redirector.options["a"].ingress; }));  // the good entry is used
  CHECK(agent->counts().waiting == 1);
  CHECK_THAT(agent->failures()["u2"], Contains("pods.yaml:2:") && Contains("/late: No such file"));
  CHECK(wire.silent());
  point("late", namespaces.at("late"));
  CHECK(wire.request() == "add u2");
  wire.ack();
  CHECK(redirector.take() == Calls{"enroll a", "enroll late"});
  CHECK(agent->counts().enrolled == 2);
  CHECK(agent->counts().waiting == 0);
  CHECK(agent->failures().empty());
}

TEST_CASE_METHOD(Fixture, "a pod whose namespace's path is gone stays as it is, for a proxy that restarts too") {
  make("a");
  make("b");
  write(pod("u1", "a") + pod("u2", "b"));
  start();
  redirector.take();
  std::filesystem::remove(dir / "a");
  write(pod("u1", "a") + "# edited\n" + pod("u2", "b", ", ingress: true"));
  REQUIRE(until([&] { return redirector.options["b"].ingress; }));
  CHECK(redirector.take() == Calls{"enroll b"});
  CHECK(agent->counts().enrolled == 2);
  Wire wire = proxy();
  CHECK(wire.take_snapshot() == Calls{"add u1", "add u2", "snapshot_sent"});

  // An agent that restarts no longer has it. Its proxy does, and is told to keep it.
  agent.reset();
  start();
  CHECK(redirector.take() == Calls{"enroll b"});
  Wire again = proxy();
  CHECK(again.take_snapshot() == Calls{"keep u1", "add u2", "snapshot_sent"});
  point("a", namespaces.at("a"));
  CHECK(again.request() == "add u1");
}

TEST_CASE_METHOD(Fixture, "a bad entry of a pod leaves the pod as it is, over a restart too") {
  make("a");
  make("b");
  write(pod("u1", "a") + pod("u2", "b"));
  start();
  redirector.take();
  const std::string whose = GENERATE("- {uid: u1, nonsense: 1}\n", "- {uid: 'u 1', netns: /n}\n", "- u1\n");
  INFO(whose);
  write(whose + pod("u2", "b", ", ingress: true"));
  REQUIRE(until([&] { return redirector.options["b"].ingress; }));
  CHECK(redirector.take() == Calls{"enroll b"});
  CHECK(agent->counts().enrolled == 2);
  CHECK(agent->counts().leaving == 0);
  CHECK(agent->counts().bad_entries == 1);
  agent.reset();
  start();
  CHECK(redirector.take() == Calls{"enroll a", "enroll b"});
  Wire wire = proxy();
  CHECK(wire.take_snapshot() == Calls{"add u1", "add u2", "snapshot_sent"});
  // Mended, the file means again what it says.
  write(pod("u2", "b"));
  CHECK(wire.request() == "del u1");
  CHECK(agent->counts().bad_entries == 0);
}

TEST_CASE_METHOD(Fixture, "a pod that moves to a namespace which is not there yet stays where it is meanwhile") {
  make("a");
  make("b");
  std::filesystem::remove(dir / "b");
  write(pod("u1", "a"));
  start();
  redirector.take();
  write(pod("u1", "b"));
  REQUIRE(until([&] { return agent->counts().waiting == 1; }));
  CHECK(agent->counts().enrolled == 1);
  CHECK(redirector.take().empty());
  point("b", namespaces.at("b"));
  REQUIRE(until([&] { return agent->counts().waiting == 0; }));
  REQUIRE(until([&] { return agent->counts().leaving == 0 && agent->counts().enrolled == 1; }));
  CHECK(redirector.take() == Calls{"enroll b", "unenroll a"});
}

TEST_CASE_METHOD(Fixture, "a pod that waits for its namespace and is taken out is forgotten") {
  make("a");
  write(pod("u1", "a") + pod("u2", "none"));
  start();
  REQUIRE(agent->counts().waiting == 1);
  write(pod("u1", "a"));
  REQUIRE(until([&] { return agent->counts().waiting == 0; }));
  CHECK(agent->counts().leaving == 0);
  CHECK(agent->failures().empty());
}

TEST_CASE_METHOD(Fixture, "a bad edit is refused whole, and the last good pods stay") {
  make("a");
  make("b");
  write(pod("u1", "a"));
  start();
  redirector.take();
  uint64_t refused = 0;
  for (const std::string& text :
       {std::string("pods: ["), std::string(), "pods:\n" + pod("u2", "b") + "- {", "pods:\n" + pod("u2", "b") + "more: []\n"}) {
    INFO(text);
    write_raw(text);
    REQUIRE(until([&] { return agent->counts().refused_files == refused + 1; }));
    ++refused;
    CHECK(redirector.take().empty());
    CHECK(agent->counts().enrolled == 1);
  }
  std::filesystem::remove(options.pods_file);
  REQUIRE(until([&] { return agent->counts().refused_files == refused + 1; }));
  agent->reload();
  CHECK(agent->counts().refused_files == refused + 1);  // the same complaint is not made again
  CHECK(redirector.take().empty());

  write(pod("u1", "a") + pod("u2", "b"));
  REQUIRE(until([&] { return agent->counts().enrolled == 2; }));
  CHECK(redirector.take() == Calls{"enroll b"});
}

TEST_CASE_METHOD(Fixture, "a file that is replaced through a link, as Kubernetes volumes are, is noticed") {
  make("a");
  std::filesystem::create_directory(dir / "..1");
  std::filesystem::create_directory(dir / "..2");
  std::filesystem::create_directory_symlink("..1", dir / "..data");
  std::filesystem::create_symlink("..data/pods.yaml", dir / "pods.yaml");
  REQUIRE(write_pods_file(dir / "..1/pods.yaml", "pods: []\n"));
  REQUIRE(write_pods_file(dir / "..2/pods.yaml", "pods:\n" + pod("u", "a")));
  start();
  std::filesystem::create_directory_symlink("..2", dir / "..data_tmp");
  std::filesystem::rename(dir / "..data_tmp", dir / "..data");
  CHECK(until([&] { return agent->counts().enrolled == 1; }));
}

TEST_CASE_METHOD(Fixture,
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

TEST_CASE_METHOD(Fixture, "connections that do not end are cut at the limit") {
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

TEST_CASE_METHOD(Fixture, "a pod whose options change is enrolled anew, one whose path does not change is left alone") {
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

TEST_CASE_METHOD(Fixture, "a pod that moves to another namespace is enrolled there and leaves the former one") {
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

TEST_CASE_METHOD(Fixture, "a namespace that goes from one pod to another stays captured throughout") {
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

TEST_CASE_METHOD(Fixture, "a pod that was made anew behind its path is followed") {
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

TEST_CASE_METHOD(Fixture, "the real state of every pod is verified again and again, and repaired") {
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

TEST_CASE_METHOD(Fixture, "a pod that cannot be enrolled holds up no other and is tried again") {
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

TEST_CASE_METHOD(Fixture, "a pod whose rules cannot be removed is not forgotten, it is tried again until they are gone") {
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

TEST_CASE_METHOD(Fixture, "the pauses between attempts grow") {
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

TEST_CASE_METHOD(Fixture, "a pod that cannot be told to stop capturing is served until it can") {
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

TEST_CASE_METHOD(Fixture, "all pods leave when asked, and then it is over") {
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

TEST_CASE_METHOD(Fixture, "a pod that cannot be cleaned holds up the end of the agent for so long and no longer") {
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

TEST_CASE_METHOD(Fixture, "pods stay when the agent ends, and the next one takes them up") {
  make("a");
  write(pod("u1", "a"));
  start();
  agent.reset();
  CHECK(redirector.take() == Calls{"enroll a"});
  start();
  CHECK(redirector.take() == Calls{"enroll a"});
}

TEST_CASE_METHOD(Fixture, "a pod that was taken out while no agent ran leaves when the next one comes") {
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

TEST_CASE_METHOD(Fixture, "an unusable state file is no reason not to start") {
  make("a");
  write(pod("u1", "a"));
  REQUIRE(write_pods_file(options.zds_path + ".pods", "garbage"));
  start();
  CHECK(agent->counts().enrolled == 1);
}

TEST_CASE_METHOD(Fixture, "leaving without an agent works in two phases as well") {
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
