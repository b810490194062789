// The program as it is used: a real process, real namespaces and rules, and a proxy played by the test.
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "agent/pods/pods_file.h"
#include "base/file.h"
#include "mesh/reason.h"
#include "redirection/constants.h"
#include "tests/support/netns/test_pod.h"
#include "tests/zds/zds_wire.h"

using namespace zt;
using namespace zt::agent;
using namespace zt::testing;
using namespace std::chrono_literals;
using Catch::Contains;
using Requests = std::vector<std::string>;

namespace {

// A child process whose output goes to a file. Ends with the object.
class Program {
 public:
  Program(std::vector<std::string> words, std::string log) : log_(std::move(log)) {
    words.insert(words.begin(), ZT_BIN_DIR "/ztunnel-agent");
    std::vector<char*> argv;
    for (auto& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t files;
    ::posix_spawn_file_actions_init(&files);
    ::posix_spawn_file_actions_addopen(&files, 1, log_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    ::posix_spawn_file_actions_adddup2(&files, 1, 2);
    const int error = ::posix_spawn(&pid_, argv[0], &files, nullptr, argv.data(), environ);
    ::posix_spawn_file_actions_destroy(&files);
    INFO("is ztunnel-agent built?");
    REQUIRE(error == 0);
  }
  ~Program() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      wait();
    }
  }
  Program(const Program&) = delete;

  void signal(int number) const { ::kill(pid_, number); }
  // Exit code, or minus the signal that ended it.
  int wait() {
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  [[nodiscard]] std::string log() const { return read_file(log_); }

 private:
  pid_t pid_ = -1;
  std::string log_;
};

struct Fixture : TestPod {
  TempDir dir;
  EventLoop loop;  // only lends its turns to Wire
  std::string socket = dir / "zds.sock";
  std::string pods_file = dir / "pods.yaml";
  std::string log = dir / "agent.log";
  std::string netns_path = "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(pod->fd());

  Fixture() { enrol(true); }
  void enrol(bool yes) {
    REQUIRE(
        replace_file(pods_file,
                     yes ? "pods:\n- {uid: u-1, name: web-0, namespace: shop, serviceAccount: web, netns: " + netns_path + "}\n"
                         : "pods: []\n",
                     0600));
  }
  [[nodiscard]] std::vector<std::string> words(std::vector<std::string> more = {}) const {
    std::vector<std::string> all{"--pods", pods_file, "--zds-socket", socket, "--verify-interval", "100ms"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  // Runs the program to its end.
  std::pair<int, std::string> run(std::vector<std::string> more) {
    Program program(words(std::move(more)), dir / "once.log");
    const int code = program.wait();
    auto text = program.log();
    std::filesystem::remove(dir / "once.log");
    return {code, text};
  }
  template <class F>
  static bool until(F&& done, std::chrono::milliseconds limit = 10s) {
    const auto deadline = Clock::now() + limit;
    while (!done()) {
      if (Clock::now() > deadline) return false;
      std::this_thread::sleep_for(5ms);
    }
    return true;
  }
  Wire proxy() {
    Result<UniqueFd> connected = fail(Reason::kIo, "");
    REQUIRE(until([&] { return (connected = zds::connect_zds(socket)).has_value(); }));
    return {loop, std::move(*connected)};
  }
  [[nodiscard]] std::string rules() const { return sh(*pod, "nft list ruleset; ip rule; ip -6 rule"); }
  [[nodiscard]] bool redirected() const { return rules().find("redirect to :15001") != std::string::npos; }
  [[nodiscard]] bool clean() const {
    const auto text = rules();
    return text.find("istio") == std::string::npos && text.find("lookup 100") == std::string::npos;
  }
};

}  // namespace

TEST_CASE("root: the agent's program from enrolment to leaving") {
  ZT_NEEDS_ROOT("network namespaces");
  Fixture test;
  const SocketAddress peer{TestPod::peer_ip(false), 8080};
  const UniqueFd peer_app = listen_in(test.peer, 8080);
  const UniqueFd before = connect_in(*test.pod, peer);
  const UniqueFd before_app = accept_from(peer_app);
  REQUIRE(before_app);
  auto agent = std::make_unique<Program>(test.words(), test.log);

  {
    INFO("without a proxy a new connection is refused, never passed on; the old one lives");
    REQUIRE(Fixture::until([&] { return test.redirected(); }));
    CHECK_FALSE(connect_in(*test.pod, peer));
    CHECK(nobody_at(peer_app));
    CHECK(passes(before, before_app));
    CHECK(passes(before_app, before));
  }
  Wire proxy = test.proxy();
  const UniqueFd outbound = [&] {
    proxy.hello();
    REQUIRE(proxy.request() == "add u-1");
    CHECK(proxy.last_info == PodName{"web-0", "shop", "web"});
    // What the proxy does with it: listeners inside.
    const auto netns = Netns::from_fd(std::move(proxy.last_fd));
    REQUIRE(netns);
    UniqueFd listener = listen_in(*netns, redirection::kOutboundPort, redirection::kProxyMark);
    proxy.ack();
    REQUIRE(proxy.request() == "snapshot_sent");
    proxy.ack();
    return listener;
  }();
  const UniqueFd carried = connect_in(*test.pod, peer);
  const UniqueFd captured = accept_from(outbound);
  REQUIRE(captured);
  CHECK(original_destination(captured, false) == peer);
  CHECK(test.run({"verify"}).first == 0);
  {
    INFO("what others change is put right");
    sh(*test.pod, "nft flush ruleset");
    CHECK(Fixture::until([&] { return test.redirected(); }));
    sh(*test.pod, "ip rule del pref 32764");
    CHECK(Fixture::until([&] { return test.rules().find("from all fwmark 0x111/0xfff lookup 100") != std::string::npos; }));
  }
  {
    INFO("leaving by hand under a running agent is refused");
    const auto [code, text] = test.run({"leave"});
    CHECK(code == 1);
    CHECK_THAT(text, Contains("an agent is running") && Contains("Take them out of"));
    CHECK(test.redirected());
    // Its knock counts as a connection without hello, which takes nothing from the proxy.
  }
  {
    INFO("an agent that is killed leaves everything as it is, the next one takes over");
    agent.reset();
    CHECK(proxy.closed());
    CHECK(test.redirected());
    agent = std::make_unique<Program>(test.words(), test.log);
    Wire again = test.proxy();
    CHECK(again.take_snapshot() == Requests{"add u-1", "snapshot_sent"});
    CHECK(passes(before, before_app));

    INFO("a bad edit changes nothing");
    REQUIRE(replace_file(test.pods_file, "pods:\n- {uid: u-1, nonsense: 1}\n", 0600));
    CHECK(Fixture::until([&] {
      return agent->log().find("pods.yaml:2:14: unknown key 'nonsense'") != std::string::npos ||
             agent->log().find("pods.yaml:2:14: unknown key \\\"nonsense") != std::string::npos;
    }));
    CHECK(test.redirected());
    CHECK(again.silent());
  }
  Wire again = test.proxy();
  CHECK(again.take_snapshot() == Requests{"add u-1", "snapshot_sent"});
  // The connection from before the repair: its translation went with the table that was flushed away. A fresh
  // one:
  const UniqueFd fresh = connect_in(*test.pod, peer);
  const UniqueFd fresh_captured = accept_from(outbound);
  REQUIRE(fresh_captured);
  {
    INFO("taken out of the file, the pod leaves without breaking what is carried");
    test.enrol(false);
    REQUIRE(Fixture::until([&] { return !test.redirected(); }));
    CHECK(passes(fresh, fresh_captured));
    CHECK(passes(fresh_captured, fresh));
    const UniqueFd direct = connect_in(*test.pod, peer);
    CHECK(accept_from(peer_app));
    CHECK_FALSE(again.try_receive(600ms));
  }
  ::shutdown(fresh.get(), SHUT_RDWR);
  ::shutdown(fresh_captured.get(), SHUT_RDWR);
  ::shutdown(carried.get(), SHUT_RDWR);
  ::shutdown(captured.get(), SHUT_RDWR);
  CHECK(again.request() == "del u-1");
  again.ack();
  CHECK(Fixture::until([&] { return test.clean(); }));
  CHECK(passes(before, before_app));
  agent->signal(SIGTERM);
  CHECK(agent->wait() == 0);
}

TEST_CASE("root: SIGTERM leaves pods redirected, `leave` takes the rules out, `verify` says how it stands") {
  ZT_NEEDS_ROOT("network namespaces");
  Fixture test;
  {
    const auto [code, text] = test.run({"verify"});
    CHECK(code == 2);
    CHECK_THAT(text, Contains("u-1\tshop/web-0\tDEVIATES") && Contains("missing nftables table istio-ambient-nat") &&
                         Contains("missing IPv6 rule"));
  }
  Program agent(test.words(), test.log);
  REQUIRE(Fixture::until([&] { return test.redirected(); }));
  agent.signal(SIGTERM);
  CHECK(agent.wait() == 0);
  CHECK(test.redirected());
  CHECK(test.run({"verify"}).first == 0);
  {
    const auto [code, text] = test.run({"leave", "another"});
    CHECK(code == 1);
    CHECK_THAT(text, Contains("has no pod with uid another"));
  }
  const auto [code, text] = test.run({"leave", "u-1"});
  INFO(text);
  CHECK(code == 0);
  CHECK(test.clean());
}

TEST_CASE("root: with --cleanup the end of the agent is the end of its rules") {
  ZT_NEEDS_ROOT("network namespaces");
  Fixture test;
  Program agent(test.words({"--cleanup"}), test.log);
  REQUIRE(Fixture::until([&] { return test.redirected(); }));
  agent.signal(SIGTERM);
  CHECK(agent.wait() == 0);
  CHECK(test.clean());
}

TEST_CASE("root: what keeps the agent from starting is said in one line, with what to do") {
  ZT_NEEDS_ROOT("network namespaces");
  Fixture test;
  {
    std::filesystem::remove(test.pods_file);
    const auto [code, text] = test.run({});
    CHECK(code == 1);
    CHECK(text == "ztunnel-agent: cannot read the pods file " + test.pods_file + ": No such file or directory\n");
    test.enrol(true);
  }
  Program first(test.words(), test.log);
  REQUIRE(Fixture::until([&] { return std::filesystem::exists(test.socket); }));
  const auto [code, text] = test.run({});
  CHECK(code == 1);
  CHECK_THAT(text, Contains("is in use: another agent is running. Stop it or use another path"));
}
