#include "agent/pods/pods_file.h"

#include <catch2/catch.hpp>
#include <string>

#include "base/file.h"
#include "mesh/reason.h"
#include "tests/support/netns/testing.h"

using namespace zt;
using namespace zt::agent;
using Catch::Contains;
using Catch::StartsWith;
using zt::testing::error_text;
using zt::testing::TempDir;

namespace {
const std::string kPod = "uid: u, name: web, namespace: shop, serviceAccount: sa, netns: /run/netns/web";
std::string with_pod(const std::string& pod) { return "pods:\n- {" + pod + "}\n"; }
}  // namespace

TEST_CASE("a pods file is read, defaults fill what it does not say") {
  const auto pods = parse_pods(
      "pods:\n"
      "- uid: 0b3f-1\n"
      "  name: web-0\n"
      "  namespace: shop\n"
      "  serviceAccount: web\n"
      "  netns: /run/netns/web-0\n"
      "- {uid: 2, name: \"5\", namespace: shop, serviceAccount: web, netns: /run/netns/b, dns: true, "
      "ingress: true,\n"
      "   cutEstablished: true, virtualInterfaces: [k6t-eth0, net1], excludeInboundPorts: [80, 8000-8080], "
      "excludeOutboundRanges: [10.0.0.0/8, 'fd00::1']}\n",
      "pods.yaml", {.ipv6 = false});
  INFO(error_text(pods));
  REQUIRE(pods);
  CHECK(pods->bad.empty());
  REQUIRE(pods->pods.size() == 2);
  CHECK(pods->pods[0].uid == "0b3f-1");
  CHECK(pods->pods[0].info == PodName{"web-0", "shop", "web"});
  CHECK(pods->pods[0].netns_path == "/run/netns/web-0");
  CHECK(pods->pods[0].options == redirection::RedirectionOptions{.ipv6 = false});
  CHECK(pods->pods[0].where == "pods.yaml:6:10");
  CHECK(pods->pods[1].uid == "2");
  CHECK(pods->pods[1].info.name == "5");
  CHECK(pods->pods[1].options ==
        redirection::RedirectionOptions{.dns = true,
                                        .ingress = true,
                                        .ipv6 = false,
                                        .cut_established = true,
                                        .virtual_interfaces = {"k6t-eth0", "net1"},
                                        .inbound = {.ports = {{80, 80}, {8000, 8080}}},
                                        .outbound = {.ranges = {*Cidr::parse("10.0.0.0/8"), *Cidr::parse("fd00::1/128")}}});
}

TEST_CASE("no pods are no pods, and JSON is YAML") {
  for (const char* text : {"pods: []", R"({"pods": []})"}) {
    const auto none = parse_pods(text, "p", {});
    REQUIRE(none);
    CHECK(none->pods.empty());
    CHECK(none->bad.empty());
  }
}

namespace {
struct Row {
  const char* name;
  std::string text;
  const char* error;
};
}  // namespace

TEST_CASE("what is wrong with a pods file as a whole is said with line and column") {
  const Row row =
      GENERATE_COPY(Row{"empty", "", "p: the file is empty"}, Row{"only a comment", "# nothing\n", "p: the file is empty"},
                    Row{"broken YAML", "pods: [", "p:1:7: what begins here has no end"}, Row{"a tab", "pods:\n\t- a", "p:2:"},
                    Row{"no map", "- a", "p:1:1: expected 'pods:'"}, Row{"a word", "pods", "p:1:1: expected 'pods:'"},
                    Row{"no pods", "{}", "p:1:1: 'pods' is missing"}, Row{"null pods", "pods:", "'pods' must be a list"},
                    Row{"pods a map", "pods: {a: b}", "p:1:7: 'pods' must be a list"},
                    Row{"pods twice", "pods: []\npods: []", "p:2:1: 'pods' is given twice"},
                    Row{"another key", "pods: []\nversion: 2", "p:2:1: unknown key 'version' (known: pods)"},
                    Row{"two documents", "pods: []\n---\npods: []", "p:2:1: more than one document in the file"});
  INFO(row.name);
  const auto pods = parse_pods(row.text, "p", {});
  REQUIRE_FALSE(pods);
  CHECK(pods.error().reason == Reason::kInvalidInput);
  CHECK_THAT(pods.error().text, Contains(row.error));
}

TEST_CASE("a bad entry costs itself, and is said with line and column") {
  const std::string rest = ", name: web, namespace: shop, serviceAccount: sa, netns: /run/netns/web";
  const Row row = GENERATE_COPY(
      Row{"a pod that is a word", "pods:\n- web", "p:2:3: a pod must be a map"},
      Row{"an unknown key", with_pod(kPod + ", netNS: x"), "unknown key 'netNS' (known: uid, name"},
      Row{"a key twice", with_pod(kPod + ", name: other"), "'name' is given twice"},
      Row{"a list for a key", with_pod("[a]: b, " + kPod), "a key must be a word"},
      Row{"no uid", with_pod("name: web"), "p:2:3: 'uid' is missing"},
      Row{"no netns", with_pod("uid: u, name: a, namespace: b, serviceAccount: c"), "'netns' is missing"},
      Row{"uid null", with_pod("uid: ~" + rest), "p:2:9: 'uid' must be text"},
      Row{"uid a list", with_pod("uid: [a]" + rest), "'uid' must be text"},
      Row{"uid empty", with_pod("uid: ''" + rest), "uid must have 1 to 253 printable"},
      Row{"uid with a blank", with_pod("uid: 'a b'" + rest), "uid must have 1 to 253 printable"},
      Row{"uid with a line feed", with_pod("uid: \"a\\nb\"" + rest), "uid must have 1 to 253 printable"},
      Row{"uid too long", with_pod("uid: " + std::string(254, 'u') + rest), "uid must have 1 to 253 printable"},
      Row{"upper case name", with_pod("uid: u, name: Web, namespace: b, serviceAccount: c, netns: /n"), "name 'Web' must have"},
      Row{"namespace with a slash", with_pod("uid: u, name: a, namespace: b/ns, serviceAccount: c, netns: /n"),
          "namespace 'b/ns' must have"},
      Row{"account ends in a dash", with_pod("uid: u, name: a, namespace: b, serviceAccount: c-, netns: /n"),
          "serviceAccount 'c-' must have"},
      Row{"relative netns", with_pod("uid: u, name: a, namespace: b, serviceAccount: c, netns: run/netns/a"),
          "netns 'run/netns/a' must be an absolute path, such as /run/netns/a"},
      Row{"netns with a zero byte", with_pod("uid: u, name: a, namespace: b, serviceAccount: c, netns: \"/a\\0b\""),
          "must be an absolute path"},
      Row{"dns: yes", with_pod(kPod + ", dns: yes"), "'dns' must be true or false"},
      Row{"ingress: 1", with_pod(kPod + ", ingress: 1"), "'ingress' must be true or false"},
      Row{"interfaces a word", with_pod(kPod + ", virtualInterfaces: a"), "must be a list of names"},
      Row{"interface that nft would read otherwise", with_pod(kPod + ", virtualInterfaces: ['a\" accept']"),
          "is not an interface name"},
      Row{"too many interfaces", with_pod(kPod + ", virtualInterfaces: [a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a]"),
          "more than 16 virtual interfaces"},
      Row{"excluded ports a word", with_pod(kPod + ", excludeInboundPorts: '80'"),
          "'excludeInboundPorts' must be a list of at most 32"},
      Row{"no port", with_pod(kPod + ", excludeOutboundPorts: [80, http]"), "'http' is no port and no range of ports"},
      Row{"no range", with_pod(kPod + ", excludeInboundRanges: [10.0.0.0/33]"), "'10.0.0.0/33' is no range of addresses"},
      Row{"uid twice", "pods:\n- {" + kPod + "}\n- {uid: u, name: a, namespace: b, serviceAccount: c, netns: /n}\n",
          "p:3:9: uid 'u' is used twice (first in line 2)"},
      Row{"netns twice", "pods:\n- {" + kPod + "}\n- {uid: v, name: a, namespace: b, serviceAccount: c, netns: /run/netns/web}\n",
          "netns '/run/netns/web' is used twice (first in line 2)"},
      Row{"too long for a message",
          with_pod("uid: " + std::string(253, 'u') + ", name: " + std::string(253, 'a') +
                   ", namespace: " + std::string(253, 'a') + ", serviceAccount: " + std::string(253, 'a') + ", netns: /n"),
          "together take 1030 bytes, the limit is 1024"});
  INFO(row.name);
  // Behind it another, good one.
  const std::string good = "- {uid: good, name: good, namespace: shop, serviceAccount: sa, netns: /run/netns/good}\n";
  const auto pods = parse_pods(row.text + (row.text.ends_with('\n') ? "" : "\n") + good, "p", {});
  INFO(error_text(pods));
  REQUIRE(pods);
  REQUIRE(pods->bad.size() == 1);
  CHECK_THAT(pods->bad[0].text, Contains(row.error));
  REQUIRE_FALSE(pods->pods.empty());
  CHECK(pods->pods.back().uid == "good");
}

TEST_CASE("a bad entry says whose it is if it can") {
  const auto pods = parse_pods(
      "pods:\n- {uid: u-1, nonsense: 1}\n- {uid: 'a b'}\n- {name: x}\n- word\n- {uid: [a]}\n"
      "- {uid: u-2, name: X}\n",
      "p", {});
  REQUIRE(pods);
  CHECK(pods->pods.empty());
  std::vector<std::string> uids;
  for (const auto& entry : pods->bad) uids.push_back(entry.uid);
  CHECK(uids == std::vector<std::string>{"u-1", "", "", "", "", "u-2"});
  CHECK_THAT(pods->bad[0].text, StartsWith("p:2:14: unknown key 'nonsense'"));
}

TEST_CASE("more pods than a node can have are refused") {
  std::string text = "pods:\n";
  for (size_t i = 0; i <= kMaxFilePods; ++i) text += "- {}\n";
  CHECK_THAT(parse_pods(text, "p", {}).error().text, Contains("more than 4096 pods"));
}

TEST_CASE("YAML nested without end is refused, not followed") {
  CHECK_FALSE(parse_pods(std::string(100'000, '['), "p", {}));
  CHECK_FALSE(parse_pods("pods: " + std::string(10'000, '{'), "p", {}));
}

TEST_CASE("rendered pods read back the same") {
  const auto pods = parse_pods(
      "pods:\n"
      "- {uid: '1', name: '2', namespace: n, serviceAccount: 'true', netns: \"/a b/\\\"c'\\u00e4\"}\n"
      "- {uid: 'x:y#z', name: a, namespace: n, serviceAccount: s, netns: /n, dns: true, ingress: true, "
      "cutEstablished: true,\n"
      "   virtualInterfaces: [a, b], excludeInboundPorts: [1, 2-3], excludeInboundRanges: [10.0.0.0/8],\n"
      "   excludeOutboundPorts: [65535], excludeOutboundRanges: ['fd00::/8']}\n",
      "p", {});
  INFO(error_text(pods));
  REQUIRE(pods);
  const auto again = parse_pods(render_pods(pods->pods), "p", {});
  INFO(error_text(again));
  REQUIRE(again);
  REQUIRE(pods->pods.size() == 2);
  REQUIRE(again->pods.size() == pods->pods.size());
  for (size_t i = 0; i < pods->pods.size(); ++i) {
    CHECK(again->pods[i].uid == pods->pods[i].uid);
    CHECK(again->pods[i].info == pods->pods[i].info);
    CHECK(again->pods[i].netns_path == pods->pods[i].netns_path);
    CHECK(again->pods[i].options == pods->pods[i].options);
  }
  CHECK(parse_pods(render_pods({}), "p", {})->pods.empty());
}

TEST_CASE("what cannot be read as a file is named") {
  const TempDir dir;
  CHECK_THAT(read_pods_file(dir / "none").error().text, Contains("none: No such file"));
  CHECK_THAT(read_pods_file(dir / "").error().text, Contains("not a regular file"));
  REQUIRE(replace_file(dir / "big", std::string(kMaxPodsFileBytes + 1, '#'), 0600));
  CHECK_THAT(read_pods_file(dir / "big").error().text, Contains("is larger than 1048576 bytes"));
  REQUIRE(replace_file(dir / "big", "pods: []", 0600));
  CHECK(*read_pods_file(dir / "big") == "pods: []");
  CHECK_THAT(replace_file(dir / "none/file", "", 0600).error().text, Contains("cannot write"));
}
