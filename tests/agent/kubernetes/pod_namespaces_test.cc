#include "agent/kubernetes/pod_namespaces.h"

#include "tests/agent/kubernetes/proc_folder.h"

using namespace zt;
using namespace zt::agent;
using namespace zt::testing;
using Catch::Contains;

namespace {

struct Fixture : ProcFolder {
  TempDir dir;
  PodNamespaces pods{root, std::nullopt};

  // Where the plugin says that a namespace is.
  std::string path_to(const Netns& netns, const std::string& name = "cni") {
    const std::string path = dir / name;
    std::filesystem::remove(path);
    std::filesystem::create_symlink("/proc/self/fd/" + std::to_string(netns.fd()), path);
    return path;
  }
  std::string find(const std::string& uid) {
    const auto found = pods.find(uid);
    if (!found) return found.error().text;
    for (const auto& [name, known] : namespaces) {
      if (known.id() == (*found)->id()) return name;
    }
    return "another";
  }
};

}  // namespace

TEST_CASE_METHOD(Fixture,
                 "root: what the plugin said holds while its path leads there, and a sandbox made anew is found without it") {
  ZT_NEEDS_ROOT("network namespaces");
  const std::string path = path_to(make("first", "10.0.0.1/32"));
  pods.want({kA, {"10.0.0.1"}});
  REQUIRE(pods.told(kA, path));
  CHECK(find(kA) == "first");
  process("10", 5, pod_group(kA), make("second", "10.0.0.1/32"));
  CHECK(find(kA) == "first");
  SECTION("the path is gone") { std::filesystem::remove(path); }
  SECTION("the path leads to the next pod's") { path_to(make("third", "10.0.0.3/32")); }
  CHECK(find(kA) == "second");
  CHECK(pods.path(kA) == root + "/10/ns/net");
}

TEST_CASE_METHOD(Fixture, "root: a namespace that has none of the pod's addresses is not the pod's, whoever says so") {
  ZT_NEEDS_ROOT("network namespaces");
  REQUIRE(pods.told(kA, path_to(make("stolen", "10.0.0.2/32"))));
  CHECK(find(kA) == "stolen");  // nobody knows an address of it yet
  process("10", 5, pod_group(kA), make("own", "10.0.0.1/32"));
  pods.want({kA, {"10.0.0.1"}});
  CHECK(find(kA) == "own");
}

TEST_CASE_METHOD(Fixture, "root: where nothing better is seen, the last namespace known stays") {
  ZT_NEEDS_ROOT("network namespaces");
  const std::string path = path_to(make("first", "10.0.0.1/32"));
  pods.want({kA, {"10.0.0.1"}});
  REQUIRE(pods.told(kA, path));
  CHECK(find(kA) == "first");
  std::filesystem::remove(path);
  CHECK(find(kA) == "first");
}
