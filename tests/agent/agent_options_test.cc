#include "agent/agent_options.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <string>
#include <vector>

using namespace zt;
using namespace zt::agent;
using namespace std::chrono_literals;
using Catch::Contains;

namespace {
ParsedOptions parse(std::vector<const char*> words) {
  words.insert(words.begin(), "ztunnel-agent");
  return parse_agent_options(static_cast<int>(words.size()), words.data());
}

class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
  ~Environment() { ::unsetenv(name_); }
  Environment(const Environment&) = delete;

 private:
  const char* name_;
};
}  // namespace

TEST_CASE("the agent's defaults") {
  const auto parsed = parse({"--pods", "p.yaml"});
  REQUIRE(parsed.options);
  CHECK(parsed.options->command == AgentOptions::Command::kRun);
  CHECK(parsed.options->agent.pods_file == "p.yaml");
  CHECK(parsed.options->agent.zds_path == "/var/run/ztunnel/ztunnel.sock");
  CHECK(parsed.options->agent.verify_interval == 10s);
  CHECK(parsed.options->agent.leave_limit == 30s);
  CHECK(parsed.options->agent.defaults == redirection::RedirectionOptions{.dns = true});
  CHECK_FALSE(parsed.options->cleanup);
}

TEST_CASE("environment variables stand behind the command line") {
  const Environment pods("ZTUNNEL_AGENT_PODS", "env.yaml"), socket("ZTUNNEL_UDS_ADDRESS", "/env.sock");
  const Environment dns("AMBIENT_DNS_CAPTURE", "false"), ipv6("AMBIENT_IPV6", "false"), cleanup("ZTUNNEL_AGENT_CLEANUP", "true");
  auto parsed = parse({});
  REQUIRE(parsed.options);
  CHECK(parsed.options->agent.pods_file == "env.yaml");
  CHECK(parsed.options->agent.zds_path == "/env.sock");
  CHECK_FALSE(parsed.options->agent.defaults.dns);
  CHECK_FALSE(parsed.options->agent.defaults.ipv6);
  CHECK(parsed.options->cleanup);
  parsed = parse({"--pods", "line.yaml", "--dns", "true"});
  CHECK(parsed.options->agent.pods_file == "line.yaml");
  CHECK(parsed.options->agent.defaults.dns);
}

TEST_CASE("how pods are redirected is chosen by our own setting, or by istio-cni's") {
  CHECK(parse({"--pods", "p"}).options->redirection.backend == "nftables");
  CHECK(parse({"--pods", "p", "--backend", "auto"}).options->redirection.backend == "auto");
  CHECK_FALSE(parse({"--pods", "p", "--backend", "magic"}).options);
  const Environment variant("FORCE_IPTABLES_BINARY", "legacy");
  CHECK(parse({"--pods", "p"}).options->redirection.iptables_variant == "legacy");
  CHECK_FALSE(parse({"--pods", "p", "--iptables-variant", "newest"}).options);
  const Environment native("NATIVE_NFTABLES", "false");
  CHECK(parse({"--pods", "p"}).options->redirection.backend == "iptables");
  const Environment backend("ZTUNNEL_AGENT_BACKEND", "nftables");
  CHECK(parse({"--pods", "p"}).options->redirection.backend == "nftables");
}

TEST_CASE("subcommands") {
  CHECK(parse({"run", "--pods", "p"}).options->command == AgentOptions::Command::kRun);
  CHECK(parse({"verify", "--pods", "p"}).options->command == AgentOptions::Command::kVerify);
  const auto leave = parse({"--pods", "p", "leave", "u1", "u2", "--leave-limit", "5s"});
  REQUIRE(leave.options);
  CHECK(leave.options->command == AgentOptions::Command::kLeave);
  CHECK(leave.options->uids == std::vector<std::string>{"u1", "u2"});
  CHECK(leave.options->agent.leave_limit == 5s);
}

TEST_CASE("mistakes on the command line are named and end with a code that is not 0") {
  struct Row {
    std::vector<const char*> words;
    const char* error;
  };
  const Row row = GENERATE(
      Row{{}, "--pods is missing"}, Row{{"--pods"}, "--pods"}, Row{{"--pods", "p", "--bogus"}, "--bogus"},
      Row{{"--pods", "p", "dance"}, "dance"}, Row{{"--pods", "p", "--verify-interval", "10x"}, "'10x' is not a duration"},
      Row{{"--pods", "p", "--ipv6", "perhaps"}, "--ipv6"}, Row{{"--pods", "p", "--log-format", "xml"}, "xml"});
  const auto parsed = parse(row.words);
  REQUIRE_FALSE(parsed.options);
  CHECK(parsed.exit.code != 0);
  CHECK_THAT(parsed.exit.text, Contains(row.error));
}

TEST_CASE("help and version are no mistakes") {
  CHECK(parse({"--help"}).exit.code == 0);
  CHECK_THAT(parse({"--help"}).exit.text, Contains("ZTUNNEL_UDS_ADDRESS"));
  CHECK(parse({"--version"}).exit.code == 0);
}

TEST_CASE("a duration of the command line is at most a day") {
  CHECK(*parse_limit("250ms") == 250ms);
  CHECK(*parse_limit("24h") == 24h);
  CHECK(*parse_limit("0s") == 0s);
  for (const char* text : {"", "s", "-1s", "1.5s", "25h", "1w", "99999999999999999999s", "5sx"}) {
    INFO(text);
    CHECK_FALSE(parse_limit(text));
  }
}

TEST_CASE("Kubernetes as the source of the pods needs a node's name and no file") {
  const auto parsed = parse({"--source", "kubernetes", "--node", "node-a", "--exclude-namespaces", "kube-system, other"});
  REQUIRE(parsed.options);
  CHECK(parsed.options->source == AgentOptions::Source::kKubernetes);
  CHECK(parsed.options->node == "node-a");
  CHECK(parsed.options->rules.selectors.size() == 2);
  CHECK(parsed.options->rules.excluded_namespaces == std::set<std::string, std::less<>>{"kube-system", "other"});
  CHECK(parsed.options->rules.system_namespace == "istio-system");
  CHECK(parsed.options->host_proc == "/proc");
  CHECK(parsed.options->cni_socket.empty());
  const auto refused = [](std::vector<const char*> words, const char* why) {
    words.insert(words.begin(), {"--source", "kubernetes"});
    const auto bad = parse(words);
    REQUIRE_FALSE(bad.options);
    CHECK(bad.exit.code == 1);
    CHECK_THAT(bad.exit.text, Contains(why));
  };
  refused({}, "--node is missing");
  refused({"--node", "n", "--pods", "p"}, "one of them, please");
  refused({"--node", "n", "--cleanup"}, "take the labels away first");
  refused({"--node", "n", "verify"}, "are for a file of pods");
  refused({"--node", "n", "--enablement-selectors", "[{podSelector: 5}]"}, "AMBIENT_ENABLEMENT_SELECTOR:1:16");
}

TEST_CASE("the settings of Kubernetes have the names of the charts") {
  const Environment source("ZTUNNEL_AGENT_SOURCE", "kubernetes"), node("NODE_NAME", "node-b"), excluded("EXCLUDE_NAMESPACES", "");
  const Environment selectors("AMBIENT_ENABLEMENT_SELECTOR", "[{podSelector: {matchLabels: {a: b}}}]"),
      system("SYSTEM_NAMESPACE", "mesh");
  const auto parsed = parse({});
  REQUIRE(parsed.options);
  CHECK(parsed.options->node == "node-b");
  CHECK(parsed.options->rules.selectors.size() == 1);
  CHECK(parsed.options->rules.system_namespace == "mesh");
}
