#include "agent/agent.h"

#include <catch2/catch.hpp>
#include <string>

#include "tests/agent/agent_fixture.h"

using namespace zt;
using namespace zt::agent;
using namespace zt::testing;
using namespace std::chrono_literals;
using Catch::Contains;

TEST_CASE_METHOD(AgentFixture, "the pods of the file are enrolled before any proxy is asked, and offered to it") {
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

TEST_CASE_METHOD(AgentFixture, "an edit of the pods file while the agent starts is not missed") {
  make("a");
  make("b");
  write(pod("u1", "a"));
  redirector.on_probe = [&] { write(pod("u1", "a") + pod("u2", "b")); };  // between the reading and the serving
  start();
  CHECK(until([&] { return agent->counts().enrolled == 2; }, 20s));
}

TEST_CASE_METHOD(AgentFixture, "a mistake at the start is said and touches no pod") {
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

TEST_CASE_METHOD(AgentFixture, "a bad entry at the start costs itself and is said") {
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

TEST_CASE_METHOD(AgentFixture, "an entry whose namespace is not there yet is looked for again, and enrolled when it comes") {
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

TEST_CASE_METHOD(AgentFixture, "a pod whose namespace's path is gone stays as it is, for a proxy that restarts too") {
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

TEST_CASE_METHOD(AgentFixture, "a bad entry of a pod leaves the pod as it is, over a restart too") {
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

TEST_CASE_METHOD(AgentFixture, "a pod that moves to a namespace which is not there yet stays where it is meanwhile") {
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

TEST_CASE_METHOD(AgentFixture, "a pod that waits for its namespace and is taken out is forgotten") {
  make("a");
  write(pod("u1", "a") + pod("u2", "none"));
  start();
  REQUIRE(agent->counts().waiting == 1);
  write(pod("u1", "a"));
  REQUIRE(until([&] { return agent->counts().waiting == 0; }));
  CHECK(agent->counts().leaving == 0);
  CHECK(agent->failures().empty());
}

TEST_CASE_METHOD(AgentFixture, "a bad edit is refused whole, and the last good pods stay") {
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

TEST_CASE_METHOD(AgentFixture, "a file that is replaced through a link, as Kubernetes volumes are, is noticed") {
  make("a");
  std::filesystem::create_directory(dir / "..1");
  std::filesystem::create_directory(dir / "..2");
  std::filesystem::create_directory_symlink("..1", dir / "..data");
  std::filesystem::create_symlink("..data/pods.yaml", dir / "pods.yaml");
  REQUIRE(replace_file(dir / "..1/pods.yaml", "pods: []\n", 0600));
  REQUIRE(replace_file(dir / "..2/pods.yaml", "pods:\n" + pod("u", "a"), 0600));
  start();
  std::filesystem::create_directory_symlink("..2", dir / "..data_tmp");
  std::filesystem::rename(dir / "..data_tmp", dir / "..data");
  CHECK(until([&] { return agent->counts().enrolled == 1; }));
}
