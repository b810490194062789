// The agent's pods as an API server says them, whose answers the test gives.
#include "agent/kubernetes_source.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <fstream>

#include "tests/agent/agent_fixture.h"
#include "tests/support/netns/test_pod.h"

using namespace zt;
using namespace zt::agent;
using namespace zt::testing;
using Catch::Contains;
using Standing = Agent::Standing;

namespace {

class FakeApi final : public kubernetes::Api {
 public:
  struct Asked {
    kubernetes::ApiRequest request;
    kubernetes::ApiHandlers handlers;
    bool over = false;
  };
  [[nodiscard]] std::unique_ptr<kubernetes::ApiCall> start(kubernetes::ApiRequest request,
                                                           kubernetes::ApiHandlers handlers) override {
    asked.push_back(std::make_shared<Asked>(Asked{std::move(request), std::move(handlers)}));
    return std::make_unique<Call>(asked.back());
  }
  // The call under way whose method and target begin so.
  std::shared_ptr<Asked> find(const std::string& begins) {
    for (const auto& call : asked) {
      if (!call->over && (call->request.method + " " + call->request.target).starts_with(begins)) return call;
    }
    return nullptr;
  }
  // One that has been answered is not found again.
  void answer(const std::string& begins, unsigned status, const std::string& body) {
    const auto call = find(begins);
    INFO(begins);
    REQUIRE(call);
    const auto handlers = call->handlers;
    call->over = true;
    handlers.on_head({.status = status});
    handlers.on_data(body);
    handlers.on_end({});
  }
  void watched(const std::string& path, const std::string& events) {
    const auto call = find("GET " + path + "?watch");
    REQUIRE(call);
    const auto handlers = call->handlers;
    handlers.on_head({.status = 200});
    handlers.on_data(events);
  }
  std::vector<std::shared_ptr<Asked>> asked;

 private:
  struct Call final : kubernetes::ApiCall {
    explicit Call(std::shared_ptr<Asked> of) : asked(std::move(of)) {}
    ~Call() override { asked->over = true; }
    std::shared_ptr<Asked> asked;
  };
};

std::string uid_of(int number) { return fmt::format("00000000-0000-4000-8000-{:012}", number); }
std::string ip_of(int number) { return fmt::format("10.0.0.{}", number); }

struct Fixture : AgentFixture {
  std::string proc = dir / "proc";
  FakeApi api;
  std::unique_ptr<PodNamespaces> places;
  KubernetesSource::Options settings{.node = "n1"};
  std::unique_ptr<KubernetesSource> source;
  bool serving = false;
  int version = 100;

  Fixture() {
    options.pods_file.clear();
    std::filesystem::create_directories(proc + "/1/ns");
    std::filesystem::create_symlink("/proc/self/ns/net", proc + "/1/ns/net");
  }
  // A namespace with the pod's address, and a process of the pod in it.
  void running(int number) {
    const std::string name = std::string(1, static_cast<char>('a' + number));
    make(name);
    sh(namespaces.at(name), "ip link set lo up; ip addr add " + ip_of(number) + "/32 dev lo");
    const std::string folder = fmt::format("{}/{}", proc, 10 + number);
    std::filesystem::create_directories(folder + "/ns");
    std::ofstream(folder + "/cgroup") << "0::/kubepods/pod" << uid_of(number) << "/c\n";
    std::ofstream stat(folder + "/stat");
    stat << 10 + number << " (app) S";
    for (int field = 4; field < 22; ++field) stat << " 0";
    stat << " 7 0\n";
    std::filesystem::create_symlink("/proc/self/fd/" + std::to_string(namespaces.at(name).fd()), folder + "/ns/net");
  }
  std::string pod(int number, const std::string& ip = "own", const std::string& annotations = "") {
    const std::string address = ip == "own" ? ip_of(number) : ip;
    return fmt::format(R"({{"metadata":{{"name":"p{}","namespace":"ns","uid":"{}","resourceVersion":"{}","annotations":{{{}}}}},)"
                       R"("spec":{{"nodeName":"n1","serviceAccountName":"sa"}},"status":{{"phase":"Running","podIP":"{}"}}}})",
                       number, uid_of(number), ++version, annotations, address);
  }
  std::string space(bool ambient) {
    return fmt::format(R"({{"metadata":{{"name":"ns","uid":"s","resourceVersion":"{}","labels":{{{}}}}}}})", ++version,
                       ambient ? R"("istio.io/dataplane-mode":"ambient")" : "");
  }
  static std::string event(const std::string& type, const std::string& object) {
    return R"({"type":")" + type + R"(","object":)" + object + "}\n";
  }
  std::string list(const std::vector<std::string>& items) {
    return fmt::format(R"({{"metadata":{{"resourceVersion":"{}"}},"items":[{}]}})", ++version, fmt::join(items, ","));
  }
  void begin(const std::vector<std::string>& pods, bool ambient = true) {
    places = std::make_unique<PodNamespaces>(proc, std::nullopt);
    options.find_namespace = [this](const PodSpec& spec) { return places->find(spec.uid); };
    options.on_change = [this](const std::string& uid) {
      if (source) source->on_pod_changed(uid);
    };
    start();
    source = std::make_unique<KubernetesSource>(loop, api, *agent, *places, settings);
    source->start([this](const Result<>& served) { serving = served.has_value(); });
    api.answer("GET /api/v1/namespaces?limit", 200, list({space(ambient)}));
    api.answer("GET /api/v1/pods?limit", 200, list(pods));
    REQUIRE(serving);
  }
  void label(bool ambient) { api.watched("/api/v1/namespaces", event("MODIFIED", space(ambient))); }
  // The annotation that is asked for next; "none": to be taken away.
  std::string patch() {
    REQUIRE(until([&] { return api.find("PATCH ") != nullptr; }, 30s));
    const std::string body = api.find("PATCH ")->request.body;
    api.answer("PATCH ", 200, "{}");
    return body.find("enabled") != std::string::npos ? "enabled" : body.find("pending") != std::string::npos ? "pending" : "none";
  }
  std::optional<Result<>> answered;
  void plugin_asks(int number, std::vector<std::string> ips, const std::string& uid = "") {
    answered.reset();
    source->cni_add({.ns = "ns",
                     .name = fmt::format("p{}", number),
                     .netns = fmt::format("{}/{}/ns/net", proc, 10 + number),
                     .ips = std::move(ips),
                     .uid = uid},
                    [this](const Result<>& result) { answered = result; });
  }
};

}  // namespace

TEST_CASE_METHOD(Fixture, "root: all pods of a list are found by one look through the node's processes") {
  ZT_NEEDS_ROOT("network namespaces");
  std::vector<std::string> pods;
  for (int number = 1; number <= 6; ++number) {
    running(number);
    pods.push_back(pod(number));
  }
  begin(pods);
  CHECK(places->looks() == 1);
  CHECK(until([&] { return agent->counts().enrolled == 6; }));
}

TEST_CASE_METHOD(Fixture, "root: a pod whose rules can no longer be set is not called enabled") {
  ZT_NEEDS_ROOT("network namespaces");
  options.verify_interval = 20ms;
  running(1);
  begin({pod(1)});
  CHECK(patch() == "pending");
  Wire wire = proxy();
  wire.take_snapshot();
  CHECK(patch() == "enabled");
  redirector.failing.insert("b");
  redirector.deviations["b"] = {"missing nftables table"};
  CHECK(patch() == "pending");
  redirector.failing.clear();
  CHECK(patch() == "enabled");
}

TEST_CASE_METHOD(Fixture, "root: a pod that was wanted and never had a sandbox leaves without being looked for") {
  ZT_NEEDS_ROOT("network namespaces");
  begin({pod(1, "")});
  CHECK(agent->standing(uid_of(1)) == Standing::kOut);
  label(false);
  CHECK(places->looks() == 0);
  CHECK(agent->standing(uid_of(1)) == Standing::kOut);
}

TEST_CASE_METHOD(Fixture, "root: a sandbox of which the plugin says no address is redirected none the less") {
  ZT_NEEDS_ROOT("network namespaces");
  running(1);
  begin({pod(1, "")});
  Wire wire = proxy();
  wire.take_snapshot();
  plugin_asks(1, {});
  CHECK(wire.request() == "add " + uid_of(1));
  CHECK_FALSE(answered);
  wire.ack();
  REQUIRE(until([&] { return answered.has_value(); }));
  CHECK(*answered);
}

TEST_CASE_METHOD(Fixture, "root: a sandbox of another pod of the same name waits until the API shows that one") {
  ZT_NEEDS_ROOT("network namespaces");
  running(1);
  running(2);
  settings.cni_limit = 500ms;
  begin({pod(1)});
  Wire wire = proxy();
  wire.take_snapshot();
  SECTION("in vain") {
    plugin_asks(1, {ip_of(1)}, uid_of(2));
    REQUIRE(until([&] { return answered.has_value(); }));
    REQUIRE_FALSE(*answered);
    CHECK_THAT(answered->error().text, Contains("the API shows the pod of this name before"));
  }
  SECTION("the API has it") {
    plugin_asks(1, {ip_of(1)}, uid_of(1));
    REQUIRE(until([&] { return answered.has_value(); }));
    CHECK(*answered);
  }
  SECTION("a static pod, which kubelet calls by the hash of its file") {
    api.watched("/api/v1/pods", event("MODIFIED", pod(1, "own", R"("kubernetes.io/config.mirror":"5f3a")")));
    plugin_asks(1, {ip_of(1)}, "5f3a");
    REQUIRE(until([&] { return answered.has_value(); }));
    CHECK(*answered);
  }
}
