#include "agent/cni_install/conf_list.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <set>

#include "tests/support/netns/testing.h"

using namespace zt;
using namespace zt::agent;
using Catch::Contains;

namespace {

const PluginEntry kEntry{.run_folder = "/run/z", .excluded_namespaces = {"kube-system"}, .pod_namespace = "istio-system"};
const std::string kOurs =
    R"({"name":"ztunnel-cni","type":"ztunnel-cni","cni_agent_run_dir":"/run/z","exclude_namespaces":["kube-system"],"pod_namespace":"istio-system"})";
const std::string kBridge = R"({"type":"bridge","bridge":"br0","mtu":1.5,"deep":{"a":[1,true,null,"é"]}})";

std::string list(const std::string& plugins) { return R"({"cniVersion":"1.0.0","name":"lab","plugins":[)" + plugins + "]}"; }
std::string after(const std::string& conf) {
  const auto changed = with_plugin(conf, kEntry);
  INFO(testing::error_text(changed));
  REQUIRE(changed);
  return changed->value_or("(as it was)\n");
}

}  // namespace

TEST_CASE("Our entry is put last into a list, and nothing else of it changes") {
  CHECK(
      after(list(kBridge)) ==
      R"({"cniVersion":"1.0.0","name":"lab","plugins":[{"type":"bridge","bridge":"br0","mtu":1.5E0,"deep":{"a":[1,true,null,"é"]}},)" +
          kOurs + "]}\n");
  CHECK(after(list(kBridge + "," + kOurs)) == "(as it was)\n");
  CHECK(after(after(list(kBridge))) == "(as it was)\n");
}

TEST_CASE("An entry of ours that is old, twice there or not last is put right") {
  const std::string good = after(list(kBridge));
  CHECK(after(list(kOurs + "," + kBridge)) == good);
  CHECK(after(list(kBridge + "," + kOurs + "," + kOurs)) == good);
  CHECK(after(list(kBridge + R"(,{"type":"ztunnel-cni","cni_agent_run_dir":"/old"})")) == good);
}

TEST_CASE("istio-cni's own entry is somebody else's") {
  const std::string theirs = testing::read_file(ZT_GOLDEN_DIR "/redirection/cni-conflist-after-install.json");
  const std::string both = after(theirs);
  CHECK_THAT(both, Contains("\"type\":\"istio-cni\"") && Contains(kOurs));
  CHECK_THAT(without_plugin(both)->value(), Contains("\"type\":\"istio-cni\"") && !Contains("ztunnel-cni"));
  CHECK_FALSE(without_plugin(theirs)->has_value());
}

TEST_CASE("A plain configuration becomes a list") {
  CHECK(after(R"({"cniVersion":"0.4.0","type":"bridge"})") ==
        R"({"cniVersion":"0.4.0","name":"k8s-pod-network","plugins":[{"cniVersion":"0.4.0","type":"bridge"},)" + kOurs + "]}\n");
  CHECK_THAT(after(R"({"type":"bridge"})"), Contains(R"("cniVersion":"0.3.1")"));
}

TEST_CASE("Removing is the reverse") {
  const auto removed = without_plugin(after(list(kBridge)));
  REQUIRE(removed);
  REQUIRE(*removed);
  CHECK_THAT(**removed, Contains("bridge") && !Contains("ztunnel-cni"));
  CHECK_FALSE(without_plugin(**removed)->has_value());
}

TEST_CASE("What is no configuration is refused and not written over") {
  const std::string conf =
      GENERATE("", "{", "[]", "5", "{}", R"({"plugins":[]})", R"({"plugins":5})", R"({"plugins":[{"name":"x"}]})",
               R"({"plugins":["bridge"]})", R"({"type":5})", R"({"type":""})");
  CAPTURE(conf);
  CHECK_FALSE(with_plugin(conf, kEntry));
  CHECK_FALSE(is_conf(conf));
  CHECK_FALSE(with_plugin(list(kOurs), kEntry));
}

TEST_CASE("The configuration is the one that the kubelet takes") {
  const std::set<std::string> broken{"05-broken.conf"};
  const auto pick = [&](std::vector<std::string> names) {
    return primary_conf(std::move(names), [&](const std::string& name) { return !broken.contains(name); }).value_or("");
  };
  CHECK(pick({"20-b.conflist", "10-a.conf", "README"}) == "10-a.conf");
  CHECK(pick({"05-broken.conf", "10-a.conflist"}) == "10-a.conflist");
  CHECK(pick({"10-a.conflist.bak", ".hidden.conf", "00-a.conf.new", ".", ".."}).empty());
  CHECK(pick({"B.conf", "a.conf"}) == "B.conf");
}

TEST_CASE("The entry of an istio-cni whose place we have taken goes, since its plugin would have us asked twice") {
  const std::string theirs = testing::read_file(ZT_GOLDEN_DIR "/redirection/cni-conflist-after-install.json");
  PluginEntry ours = kEntry;
  ours.run_folder = "/var/run/istio-cni";
  const auto changed = with_plugin(theirs, ours);
  REQUIRE(changed);
  REQUIRE(*changed);
  CHECK_THAT(**changed,
             Contains("\"type\":\"bridge\"") && Contains("\"type\":\"ztunnel-cni\"") && !Contains("\"type\":\"istio-cni\""));
}

TEST_CASE("A list of a version that our plugin refuses is refused, and no pod is stopped by it") {
  const std::string version = GENERATE("\"0.1.0\"", "\"0.2.0\"", "\"2.0.0\"", "5", "\"\"");
  CAPTURE(version);
  const auto refused = with_plugin(R"({"cniVersion":)" + version + R"(,"name":"lab","plugins":[{"type":"bridge"}]})", kEntry);
  REQUIRE_FALSE(refused);
  CHECK_THAT(refused.error().text, Contains("cniVersion"));
  CHECK_FALSE(with_plugin(R"({"name":"lab","plugins":[{"type":"bridge"}]})", kEntry));
  CHECK(with_plugin(R"({"cniVersion":"0.3.0","name":"lab","plugins":[{"type":"bridge"}]})", kEntry));
  // It can still be taken out.
  CHECK(without_plugin(R"({"cniVersion":)" + version + R"(,"name":"lab","plugins":[{"type":"bridge"},{"type":"ztunnel-cni"}]})"));
}
