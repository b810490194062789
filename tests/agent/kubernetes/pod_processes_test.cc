#include "agent/kubernetes/pod_processes.h"

#include "tests/agent/kubernetes/proc_folder.h"

using namespace zt;
using namespace zt::agent;
using namespace zt::testing;
using Catch::Contains;

namespace {

struct Fixture : ProcFolder {
  // uid=namespace, for all that were found.
  std::string find(const std::vector<WantedPod>& wanted) {
    const auto found = find_pod_namespaces(root, wanted, std::nullopt);
    REQUIRE(found);
    std::string out;
    for (const auto& [uid, netns] : *found) {
      for (const auto& [name, known] : namespaces) {
        if (known.id() == netns.netns->id()) out += (out.empty() ? "" : " ") + uid.substr(0, 3) + "=" + name;
      }
    }
    return out;
  }
};

}  // namespace

TEST_CASE("A process is of the pod whose uid its control groups name") {
  const std::string cid(64, 'c'), under = "0aa8e1f2_1111_4222_8333_444455556666";
  const std::vector<std::pair<std::string, std::string>> rows{
      {"0::/kubepods/burstable/pod" + kA + "/" + cid, kA},
      {"0::/kubepods/pod" + kA + "/" + cid, kA},
      {"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + under + ".slice/cri-containerd-" + cid + ".scope",
       kA},
      {"0::/kubepods.slice/kubepods-pod" + under + ".slice/crio-" + cid + ".scope", kA},
      {"12:memory:/kubepods/besteffort/pod" + kA + "/" + cid + "\n3:cpu,cpuacct:/kubepods/besteffort/pod" + kA + "/" + cid +
           "\n0::/",
       kA},
      {"0::/system.slice/containerd.service/kubepods-burstable-pod" + under + ".slice:cri-containerd:" + cid, kA},
      {"0::/../../pod" + kA, kA},  // seen from a control group namespace beside it
      {"0::/kubepods/burstable/pod" + kA, kA},
      {"0::/kubepods/burstable/pod" + kA + "/" + cid + "/pod" + kA, kA},
      // Two names: one of them is not kubelet's.
      {"0::/kubepods/burstable/pod" + kA + "/" + cid + "/pod" + kB, ""},
      {"2:cpu:/kubepods/pod" + kA + "/c\n1:name=systemd:/kubepods/pod" + kB + "/c", ""},
      {"0::/kubepods/burstable/pod" + kA + "0/x", ""},
      {"0::/kubepods/burstable/xpod" + kA + "/x", ""},
      {"0::/kubepods/burstable/pod0AA8E1F2-1111-4222-8333-444455556666/x", ""},
      {"0::/kubepods/burstable/pod1234/x", ""},
      {"0::/user.slice", ""},
      {"pod" + kA, ""},
      {"", ""},
      {"\n\n:/\n", ""},
  };
  for (const auto& [text, uid] : rows) {
    CAPTURE(text);
    CHECK(pod_of_cgroup(text).value_or("") == uid);
  }
}

TEST_CASE_METHOD(Fixture, "root: a pod's namespace is found by its processes and its address") {
  ZT_NEEDS_ROOT("network namespaces");
  process("10", 5, pod_group(kA), make("a", "10.0.0.1/32"));
  process("11", 5, pod_group(kB), make("b", "fd00::2/128"));
  process("12", 5, "0::/system.slice/sshd.service\n", make("c", "10.0.0.3/32"));
  CHECK(find({{kA, {"10.0.0.1"}}, {kB, {"10.0.0.2", "fd00::2"}}}) == "0aa=a 0bb=b");
  CHECK(find({{kB, {"fd00::2"}}}) == "0bb=b");
  CHECK(find({{kA, {"::ffff:10.0.0.1"}}}) == "0aa=a");
  CHECK(find({}).empty());
}

TEST_CASE_METHOD(Fixture, "root: a process that has entered another pod's namespace does not give it away") {
  ZT_NEEDS_ROOT("network namespaces");
  const Netns& a = make("a", "10.0.0.1/32");
  const Netns& b = make("b", "10.0.0.2/32");
  process("10", 5, pod_group(kA), b);  // the oldest one of pod A
  process("11", 6, pod_group(kA), a);
  process("12", 7, pod_group(kB), b);
  CHECK(find({{kA, {"10.0.0.1"}}, {kB, {"10.0.0.2"}}}) == "0aa=a 0bb=b");
  std::filesystem::remove_all(proc / "11");
  CHECK(find({{kA, {"10.0.0.1"}}, {kB, {"10.0.0.2"}}}) == "0bb=b");
}

TEST_CASE_METHOD(Fixture, "root: the oldest process decides, and the node's namespace is no pod's") {
  ZT_NEEDS_ROOT("network namespaces");
  process("10", 9, pod_group(kA), make("nested", "10.0.0.1/32"));
  process("11", 3, pod_group(kA), make("pod", "10.0.0.1/32"), "a) R 1 (b");  // a name that looks like the fields behind it
  process("12", 1, pod_group(kA), host);
  CHECK(find({{kA, {"10.0.0.1", "127.0.0.1"}}}) == "0aa=pod");
  namespaces.erase("nested");
}

TEST_CASE_METHOD(Fixture, "root: who has no address, no process or a broken entry is not found, and costs nobody else") {
  ZT_NEEDS_ROOT("network namespaces");
  process("10", 5, pod_group(kA), make("a", "10.0.0.1/32"));
  process("11", 5, pod_group(kB), make("b"));
  process("12", 5, pod_group(kB), namespaces.at("b"));
  std::ofstream(proc / "12" + "/stat") << "nonsense";
  std::filesystem::create_directories(proc / "13");  // on its way out: nothing in it
  CHECK(find({{kA, {"10.0.0.1"}}, {kB, {"10.0.0.2"}}}) == "0aa=a");
  CHECK(find({{kA, {}}, {kB, {"nonsense"}}}).empty());
  std::filesystem::remove_all(proc / "1");
  const auto none = find_pod_namespaces(root, {}, std::nullopt);
  REQUIRE_FALSE(none);
  CHECK_THAT(none.error().text, Contains("the host's network namespace"));
}
