#pragma once
#include <catch2/catch.hpp>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "agent/agent.h"
#include "base/file.h"
#include "mesh/reason.h"
#include "tests/zds/zds_wire.h"

// An agent whose redirector only remembers what it was asked; its namespaces are real.
namespace zt::agent {

using namespace std::chrono_literals;
using namespace zt::testing;
using Calls = std::vector<std::string>;

// Remembers what it was asked and answers as told. Namespaces are called by the names the test gave them.
class FakeRedirector final : public redirection::Redirector {
 public:
  [[nodiscard]] std::string_view name() const override { return "fake"; }
  Result<> probe() override {
    on_probe();
    return works ? Result<>{} : fail(Reason::kIo, "no nf_tables in this kernel");
  }
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
  Result<redirection::Presence> presence(const redirection::RedirectedPod& /*pod*/) override {
    return redirection::Presence::kNone;
  }
  Result<> make_way(const redirection::RedirectedPod& /*pod*/) override { return {}; }

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
  std::function<void()> on_probe = [] {};
  std::map<Netns::Id, std::string> names;
  std::set<std::string> failing;
  std::map<std::string, int> failing_stops, failing_removals;  // how many times more
  std::map<std::string, size_t> carried;
  std::map<std::string, redirection::Deviations> deviations;
  std::map<std::string, redirection::RedirectionOptions> options;
  std::map<std::string, int> verified;
  Calls calls;
};

struct AgentFixture {
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
  void write(const std::string& pods) { REQUIRE(replace_file(options.pods_file, "pods:\n" + pods, 0600)); }
  void write_raw(const std::string& text) { REQUIRE(replace_file(options.pods_file, text, 0600)); }
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

}  // namespace zt::agent
