#include "zds/zds_session.h"
#include "mesh/reason.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <deque>
#include <filesystem>
#include <map>
#include <vector>

#include "base/log.h"
#include "tests/support/netns/testing.h"

using namespace zt;
using namespace zt::zds;
using namespace std::chrono_literals;
using zt::testing::duplicate;
using zt::testing::hex;
using zt::testing::make_netns;

namespace {

[[maybe_unused]] const bool quiet = log::set_filter("off").has_value();

// Starts pods at once and well, unless told to fail, or to keep the completion for later.
class FakePods final : public PodManager {
 public:
  void start(const std::string& uid, const PodName& info, std::shared_ptr<const Netns> netns, StartDone done) override {
    calls.push_back("start " + uid);
    last_info = info;
    last_netns = netns;
    if (hold) {
      held.push_back(std::move(done));
    } else if (!failure.empty()) {
      done(fail(Reason::kIo, failure));
    } else {
      done({});
    }
  }
  void stop(const std::string& uid) override { calls.push_back("stop " + uid); }
  void drain_all() override { calls.push_back("drain"); }
  std::vector<std::string> take() { return std::exchange(calls, {}); }

  bool hold = false;
  std::string failure;
  std::deque<StartDone> held;
  PodName last_info;
  std::shared_ptr<const Netns> last_netns;
  std::vector<std::string> calls;
};

class FakeChannel final : public ZdsChannel {
 public:
  void answer(std::string error) override { answers.push_back(std::move(error)); }
  void drop(const std::string& why) override { dropped = why; }
  void rearm() override {}

  std::vector<std::string> answers;
  std::string dropped;
};

// A session and everything it says.
class Fixture {
 public:
  Fixture() : session(pods, channel, [this](bool ready) { readiness.push_back(ready); }) { session.connected(); }

  // Sends the request; returns the answer, or "(none)".
  std::string ask(const WorkloadRequest& request, const Netns* netns = nullptr) {
    session.request(request, netns == nullptr ? UniqueFd() : duplicate(*netns), now);
    return take_answer();
  }
  std::string add(const std::string& uid, const Netns& netns) {
    return ask(AddWorkload{uid, PodName{"name-" + uid, "ns", "sa"}}, &netns);
  }
  std::string take_answer() {
    if (channel.answers.empty()) return "(none)";
    REQUIRE(channel.answers.size() == 1);
    return std::exchange(channel.answers, {}).front();
  }
  void advance(std::chrono::milliseconds by) {
    now += by;
    session.tick(now);
  }
  PodState state(const std::string& uid) {
    for (const auto& pod : session.pods()) {
      if (pod.uid == uid) return pod.state;
    }
    FAIL("no pod " << uid);
    return {};
  }
  [[nodiscard]] std::vector<std::string> uids() const {
    std::vector<std::string> out;
    for (const auto& pod : session.pods()) out.push_back(pod.uid);
    return out;
  }

  FakePods pods;
  FakeChannel channel;
  std::vector<bool> readiness;
  ZdsSession::Time now{1h};
  ZdsSession session;
};

using Calls = std::vector<std::string>;

}  // namespace

TEST_CASE_METHOD(Fixture, "an add starts the pod's proxy and is answered when its listeners are up") {
  const Netns netns = make_netns();
  pods.hold = true;
  CHECK(add("u", netns) == "(none)");
  CHECK(session.unanswered());
  CHECK(pods.last_info == PodName{"name-u", "ns", "sa"});
  CHECK(pods.last_netns->id() == netns.id());
  pods.held.front()({});
  CHECK(take_answer().empty());
  CHECK_FALSE(session.unanswered());
  CHECK(state("u") == PodState::kUp);
}

TEST_CASE_METHOD(Fixture, "an add of a running pod in the same namespace changes nothing") {
  const Netns netns = make_netns();
  CHECK(add("u", netns).empty());
  CHECK(add("u", netns).empty());
  CHECK(pods.take() == Calls{"start u"});
}

TEST_CASE_METHOD(Fixture, "an add of a running pod in another namespace replaces it") {
  const Netns first = make_netns(), second = make_netns();
  CHECK(add("u", first).empty());
  CHECK(add("u", second).empty());
  CHECK(pods.take() == Calls{"start u", "stop u", "start u"});
  CHECK(pods.last_netns->id() == second.id());
}

TEST_CASE_METHOD(Fixture, "a namespace that gets another uid leaves its former pod") {
  const Netns netns = make_netns();
  CHECK(add("old", netns).empty());
  CHECK(add("new", netns).empty());
  CHECK(pods.take() == Calls{"start old", "stop old", "start new"});
  CHECK(uids() == Calls{"new"});
}

TEST_CASE_METHOD(Fixture, "a failed start is refused, and tried again every 5 s until it succeeds") {
  const Netns netns = make_netns();
  pods.failure = "failed to bind to address [::]:15008: Address already in use";
  CHECK(add("u", netns) == "failure to start proxy : " + pods.failure);
  CHECK(state("u") == PodState::kPending);
  CHECK(channel.dropped.empty());
  CHECK(pods.take() == Calls{"start u"});

  advance(4999ms);
  CHECK(pods.take().empty());
  CHECK(*session.next_tick() == now + 1ms);
  advance(1ms);
  CHECK(pods.take() == Calls{"start u"});
  CHECK(session.failed_starts() == 2);

  pods.failure.clear();
  advance(5s);
  CHECK(pods.take() == Calls{"start u"});
  CHECK(state("u") == PodState::kUp);
  CHECK(take_answer() == "(none)");
  CHECK_FALSE(session.next_tick());
}

TEST_CASE_METHOD(Fixture, "an add of a pending pod tries at once") {
  const Netns netns = make_netns();
  pods.failure = "no";
  add("u", netns);
  pods.failure.clear();
  CHECK(add("u", netns).empty());
  CHECK(state("u") == PodState::kUp);
}

TEST_CASE_METHOD(Fixture, "a start that takes more than 4 s is refused but goes on") {
  const Netns netns = make_netns();
  pods.hold = true;
  add("u", netns);
  advance(3999ms);
  CHECK(take_answer() == "(none)");
  advance(1ms);
  CHECK_THAT(take_answer(), Catch::Contains("not started within 4000 ms"));
  CHECK(state("u") == PodState::kStarting);

  SECTION("and the agent's next add joins it") {
    CHECK(add("u", netns) == "(none)");
    CHECK(pods.take() == Calls{"start u"});
    pods.held.front()({});
    CHECK(take_answer().empty());
  }
  SECTION("and its success is taken although nobody waits") {
    pods.held.front()({});
    CHECK(take_answer() == "(none)");
    CHECK(state("u") == PodState::kUp);
  }
  SECTION("and its failure makes it pending") {
    pods.held.front()(fail(Reason::kIo, "no"));
    CHECK(take_answer() == "(none)");
    CHECK(state("u") == PodState::kPending);
    CHECK(session.next_tick());
  }
}

TEST_CASE_METHOD(Fixture, "a completion of a start that was replaced is not taken for the new one's") {
  const Netns first = make_netns(), second = make_netns();
  pods.hold = true;
  add("u", first);
  advance(4s);
  take_answer();
  add("u", second);
  CHECK(pods.take() == Calls{"start u", "stop u", "start u"});
  pods.held[0]({});
  CHECK(take_answer() == "(none)");
  CHECK(state("u") == PodState::kStarting);
  pods.held[1]({});
  CHECK(take_answer().empty());
}

TEST_CASE("a completion after the session's end is dropped") {
  const Netns netns = make_netns();
  auto fixture = std::make_unique<Fixture>();
  fixture->pods.hold = true;
  fixture->add("u", netns);
  auto done = std::move(fixture->pods.held.front());
  fixture.reset();
  done({});
}

TEST_CASE_METHOD(Fixture, "a del stops the pod, of an unknown pod it is accepted") {
  const Netns netns = make_netns();
  add("u", netns);
  CHECK(ask(DelWorkload{"other"}).empty());
  CHECK(pods.take() == Calls{"start u"});
  CHECK(ask(DelWorkload{"u"}).empty());
  CHECK(pods.take() == Calls{"stop u"});
  CHECK(uids().empty());
}

TEST_CASE_METHOD(Fixture, "a del of a pending pod ends its retries") {
  const Netns netns = make_netns();
  pods.failure = "no";
  add("u", netns);
  pods.take();
  CHECK(ask(DelWorkload{"u"}).empty());
  CHECK_FALSE(session.next_tick());
  CHECK(pods.take().empty());
}

TEST_CASE_METHOD(Fixture, "add, del, add runs one proxy") {
  const Netns netns = make_netns();
  add("u", netns);
  ask(DelWorkload{"u"});
  add("u", netns);
  CHECK(pods.take() == Calls{"start u", "stop u", "start u"});
  CHECK(uids() == Calls{"u"});
}

TEST_CASE_METHOD(Fixture, "the end of the snapshot stops what it did not name") {
  const Netns a = make_netns(), b = make_netns(), c = make_netns(), d = make_netns();
  add("a", a);
  add("b", b);
  add("c", c);
  ask(SnapshotSent{});
  add("later", d);
  session.disconnected();
  session.connected();
  pods.take();

  CHECK(add("a", a).empty());
  CHECK(ask(KeepWorkload{"b"}).empty());
  CHECK(ask(KeepWorkload{"never-seen"}).empty());
  CHECK(pods.take().empty());
  CHECK(ask(SnapshotSent{}).empty());
  CHECK(pods.take() == Calls{"stop c", "stop later"});
  CHECK(uids() == Calls{"a", "b"});
}

TEST_CASE_METHOD(Fixture, "a del before the snapshot's end takes the pod out of it") {
  const Netns netns = make_netns();
  add("u", netns);
  ask(KeepWorkload{"u"});
  ask(DelWorkload{"u"});
  ask(SnapshotSent{});
  CHECK(pods.take() == Calls{"start u", "stop u"});
}

TEST_CASE_METHOD(Fixture, "pending pods outlive the connection, and the next snapshot decides about them") {
  const Netns a = make_netns(), b = make_netns();
  pods.failure = "no";
  add("a", a);
  add("b", b);
  session.disconnected();
  pods.take();
  advance(5s);
  CHECK(pods.take() == Calls{"start a", "start b"});
  session.connected();
  ask(KeepWorkload{"a"});
  ask(SnapshotSent{});
  CHECK(uids() == Calls{"a"});
  CHECK(pods.take().empty());
}

TEST_CASE_METHOD(Fixture, "protocol errors are refused and cost the connection, not the pods") {
  const Netns netns = make_netns();
  add("u", netns);
  pods.take();
  struct Row {
    const char* name;
    WorkloadRequest request;
    bool with_fd;
    bool after_snapshot;
    const char* why;
  };
  const Row row = GENERATE(Row{"add without info", AddWorkload{"x", std::nullopt}, true, false, "without workload_info"},
                           Row{"add without uid", AddWorkload{"", PodName{}}, true, false, "without uid"},
                           Row{"add without descriptor", AddWorkload{"x", PodName{}}, false, false, "add without the"},
                           Row{"del with descriptor", DelWorkload{"u"}, true, false, "del with the"},
                           Row{"snapshot_sent with descriptor", SnapshotSent{}, true, false, "snapshot_sent with the"},
                           Row{"keep after the snapshot", KeepWorkload{"u"}, false, true, "after the snapshot"},
                           Row{"second snapshot_sent", SnapshotSent{}, false, true, "second snapshot_sent"});
  INFO(row.name);
  if (row.after_snapshot) ask(SnapshotSent{});
  const Netns fd = make_netns();
  CHECK_THAT(ask(row.request, row.with_fd ? &fd : nullptr), Catch::Contains(row.why));
  CHECK_THAT(channel.dropped, Catch::Contains(row.why));
  CHECK(uids() == Calls{"u"});
  session.disconnected();
  CHECK_FALSE(session.ready());
  CHECK(pods.take().empty());
}

TEST_CASE_METHOD(Fixture, "a packet that cannot be read is refused and costs the connection") {
  session.bad_packet("2 descriptors with one ZDS message");
  CHECK(take_answer() == "2 descriptors with one ZDS message");
  CHECK_FALSE(channel.dropped.empty());
}

TEST_CASE_METHOD(Fixture, "a descriptor that is no network namespace is refused, the connection goes on") {
  session.request(AddWorkload{"u", PodName{}}, UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)), now);
  CHECK_THAT(take_answer(), Catch::Contains("failure to start proxy") && Catch::Contains("not a namespace"));
  CHECK(channel.dropped.empty());
  CHECK(pods.take().empty());
}

TEST_CASE_METHOD(Fixture, "ready when the snapshot has come and nothing is pending, until the agent goes") {
  const Netns a = make_netns(), b = make_netns();
  pods.failure = "no";
  add("a", a);
  ask(SnapshotSent{});
  CHECK_FALSE(session.ready());
  pods.failure.clear();
  advance(5s);
  CHECK(session.ready());

  pods.failure = "no";
  add("b", b);
  CHECK(session.ready());  // a later failure does not take it away
  session.disconnected();
  CHECK_FALSE(session.ready());
  session.connected();
  CHECK_FALSE(session.ready());
  ask(KeepWorkload{"a"});
  ask(SnapshotSent{});
  CHECK(session.ready());
  CHECK(readiness == std::vector<bool>{true, false, true});
}

TEST_CASE_METHOD(Fixture, "ready when the last pending pod is deleted") {
  const Netns netns = make_netns();
  pods.failure = "no";
  add("u", netns);
  ask(SnapshotSent{});
  CHECK_FALSE(session.ready());
  ask(DelWorkload{"u"});
  CHECK(session.ready());
}

TEST_CASE_METHOD(Fixture, "an agent cannot name pods without end") {
  for (size_t i = 0; i < ZdsSession::kMaxPods; ++i) {
    if (!ask(KeepWorkload{std::to_string(i)}).empty()) FAIL("refused too early");
  }
  CHECK_THAT(ask(KeepWorkload{"one more"}), Catch::Contains("more than 4096 pods"));
  const Netns netns = make_netns();
  CHECK_THAT(add("one more", netns), Catch::Contains("more than 4096 pods"));
  CHECK(add("7", netns).empty());
  CHECK(channel.dropped.empty());
}

TEST_CASE_METHOD(Fixture, "the recorded conversation with the real agent gets the real proxy's answers") {
  std::vector<std::filesystem::path> packets;
  for (const auto& entry : std::filesystem::directory_iterator(ZT_GOLDEN_DIR "/zds")) {
    if (entry.path().extension() == ".binpb") packets.push_back(entry.path());
  }
  std::sort(packets.begin(), packets.end());
  REQUIRE(packets.size() == 68);

  std::map<std::string, Netns> namespaces;
  std::vector<std::string> expected_running;
  for (size_t i = 0; i < packets.size(); ++i) {
    INFO(packets[i].filename());
    const auto bytes = testing::read_file(packets[i]);
    if (packets[i].filename().string().find("ZdsHello") != std::string::npos) {
      CHECK(hex(encode(ZdsHello{})) == hex(bytes));
      session.disconnected();
      session.connected();
      continue;
    }
    const auto request = decode_request(bytes);
    REQUIRE(request);
    REQUIRE(i + 1 < packets.size());
    const auto wanted = testing::read_file(packets[++i]);
    // Whether a listener can be bound is the pod's affair: the recorded answer says.
    const std::string prefix = "failure to start proxy : ";
    const auto error = decode_ack(wanted)->error;
    pods.failure = error.starts_with(prefix) ? error.substr(prefix.size()) : "";
    const Netns* netns = nullptr;
    if (const auto* add = std::get_if<AddWorkload>(&*request)) {
      netns = &namespaces.try_emplace(add->uid, make_netns()).first->second;
    }
    CHECK(hex(encode(WorkloadAck{ask(*request, netns)})) == hex(wanted));
  }
  CHECK(session.ready());
  CHECK(channel.dropped.empty());
  CHECK(uids().size() == 5);
}
