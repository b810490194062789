#include "cni/plugin.h"

#include <catch2/catch.hpp>
#include <cstdio>
#include <map>

using namespace zt::cni;
using Catch::Contains;

namespace {

const std::string kPrevious =
    R"({"cniVersion":"1.0.0","ips":[{"address":"10.0.0.5/24","gateway":"10.0.0.1"},{"address":"fd00::5/64"}]})";

struct Runtime {
  std::map<std::string, std::string> env{{"CNI_COMMAND", "ADD"},
                                         {"CNI_NETNS", "/var/run/netns/cni-1"},
                                         {"CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u"}};
  std::string version = "1.0.0", more = R"(,"exclude_namespaces":["kube-system"],"pod_namespace":"mesh")", previous = kPrevious;
  AgentAnswer answer{200, ""};
  std::vector<std::string> asked;

  Outcome run() {
    const std::string config = R"({"cniVersion":")" + version +
                               R"(","name":"x","type":"ztunnel-cni","cni_agent_run_dir":"/run/z")" + more +
                               (previous.empty() ? "" : ",\"prevResult\":" + previous) + "}";
    return run(config);
  }
  Outcome run(const std::string& config) {
    return call(
        [&](const char* name) -> std::optional<std::string> {
          const auto found = env.find(name);
          return found == env.end() ? std::nullopt : std::optional(found->second);
        },
        config,
        [&](const std::string& socket, const std::string& body) {
          asked.push_back(socket + " " + body);
          return answer;
        });
  }
};

}  // namespace

TEST_CASE("A pod is asked for with its namespace and addresses, and the previous result goes on unchanged") {
  Runtime runtime;
  runtime.version = GENERATE("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0");
  const auto outcome = runtime.run();
  CHECK(outcome.exit == 0);
  CHECK(outcome.out == kPrevious + "\n");
  REQUIRE(runtime.asked.size() == 1);
  CHECK(
      runtime.asked[0] ==
      R"(/run/z/pluginevent.sock {"Netns":"/var/run/netns/cni-1","PodName":"web-0","PodNamespace":"shop","IPs":[{"Address":{"IP":"10.0.0.5"}},{"Address":{"IP":"fd00::5"}}],"PodUID":"u"})");
}

TEST_CASE("Who needs no agent starts without it") {
  Runtime runtime;
  runtime.answer = {std::nullopt, "connect: No such file or directory"};
  SECTION("an excluded namespace") { runtime.env["CNI_ARGS"] = "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=dns"; }
  SECTION("the agent's own pod") { runtime.env["CNI_ARGS"] = "K8S_POD_NAMESPACE=mesh;K8S_POD_NAME=istio-cni-node-x7"; }
  SECTION("no pod of Kubernetes") { runtime.env["CNI_ARGS"] = ""; }
  SECTION("deleting") { runtime.env["CNI_COMMAND"] = "DEL"; }
  SECTION("checking") { runtime.env["CNI_COMMAND"] = "CHECK"; }
  SECTION("collecting") { runtime.env["CNI_COMMAND"] = "GC"; }
  CHECK(runtime.run().exit == 0);
  CHECK(runtime.asked.empty());
}

TEST_CASE("Without the agent's word no pod of the cluster starts") {
  Runtime runtime;
  std::string code, text;
  SECTION("nobody there") {
    runtime.answer = {std::nullopt, "connect: No such file or directory"};
    code = "\"code\":11", text = "the node agent could not be contacted: pod shop/web-0";
  }
  SECTION("refused") {
    runtime.answer = {500, "no proxy is connected"};
    code = "\"code\":100", text = "500 no proxy is connected";
  }
  SECTION("a name that only looks like the agent's") {
    runtime.env["CNI_ARGS"] = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=istio-cni-node-x7";
    runtime.answer = {500, "no"};
    code = "\"code\":100", text = "shop/istio-cni-node-x7";
  }
  const auto outcome = runtime.run();
  CHECK(outcome.exit == 1);
  CHECK_THAT(outcome.out, Contains(code) && Contains(text) && Contains("\"cniVersion\":\"1.0.0\""));
}

TEST_CASE("What makes no sense is an error of the specification") {
  Runtime runtime;
  std::string code, config;
  SECTION("a version that is not supported") { runtime.version = GENERATE("0.2.0", "2.0.0", ""), code = "\"code\":1,"; }
  SECTION("no previous result") { runtime.previous = "", code = "\"code\":7,"; }
  SECTION("no namespace") { runtime.env.erase("CNI_NETNS"), code = "\"code\":4,"; }
  SECTION("an unknown command") { runtime.env["CNI_COMMAND"] = "RESTART", code = "\"code\":4,"; }
  SECTION("no JSON") { config = GENERATE("{", "[]", "nonsense"), code = "\"code\":6,"; }
  const auto outcome = config.empty() ? runtime.run() : runtime.run(config);
  CHECK(outcome.exit == 1);
  CHECK_THAT(outcome.out, Contains(code));
  CHECK(runtime.asked.empty());
}

TEST_CASE("Its versions and its status are said") {
  Runtime runtime;
  runtime.env["CNI_COMMAND"] = "VERSION";
  CHECK(runtime.run("").out == R"({"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.0.1","1.1.0"]})"
                               "\n");
  runtime.env["CNI_COMMAND"] = "STATUS";
  runtime.answer = {400, "the body is no JSON object"};
  CHECK(runtime.run().exit == 0);
  runtime.answer = {std::nullopt, "connect: Connection refused"};
  const auto outcome = runtime.run();
  CHECK(outcome.exit == 1);
  CHECK_THAT(outcome.out, Contains("\"code\":50,") && Contains("Connection refused"));
}

TEST_CASE("The program passes a pod on that needs no agent, and has all that it needs in itself") {
  const std::string config = R"({"cniVersion":"1.0.0","type":"ztunnel-cni","prevResult":{"ips":[]}})";
  std::FILE* pipe = ::popen(("printf '%s' '" + config + "' | env -i CNI_COMMAND=ADD " ZT_BIN_DIR "/ztunnel-cni").c_str(), "r");
  REQUIRE(pipe != nullptr);
  char text[256]{};
  REQUIRE(std::fgets(text, sizeof text, pipe) != nullptr);
  CHECK(::pclose(pipe) == 0);
  CHECK(std::string(text) == "{\"ips\":[]}\n");
}
