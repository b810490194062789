#include "agent/kubernetes/kubelet.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "agent/kubernetes/pod_processes.h"
#include "tests/support/netns/testing.h"

using namespace zt;
using namespace zt::agent;
using namespace zt::testing;

namespace {

const std::string kA = "0aa8e1f2-1111-4222-8333-444455556666", kB = "0bb8e1f2-1111-4222-8333-444455556666";

struct Fixture {
  TempDir proc;
  void process(const std::string& pid, const std::string& name, const std::string& groups, const std::string& users) {
    const std::string folder = proc / pid;
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/comm") << name << "\n";
    std::ofstream(folder + "/cgroup") << groups << "\n";
    std::ofstream(folder + "/status") << "Name:\tx\nUid:\t" << users << "\nGid:\t0\t0\t0\t0\n";
  }
  std::set<uid_t> users() {
    const auto found = kubelet_users(proc / ".");
    REQUIRE(found);
    return *found;
  }
};

}  // namespace

TEST_CASE_METHOD(Fixture, "Kubelet's user is that of the node's process of that name") {
  CHECK(users() == std::set<uid_t>{0});  // none is there: as everywhere
  process("1", "systemd", "0::/init.scope", "0\t0\t0\t0");
  process("7", GENERATE("kubelet", "kubelite", "k3s-server", "k3s"), "0::/system.slice/kubelet.service", "5\t17\t5\t5");
  CHECK(users() == std::set<uid_t>{17});
  process("8", "bash", "0::/user.slice", "1000\t1000\t1000\t1000");
  CHECK(users() == std::set<uid_t>{17});
}

TEST_CASE_METHOD(Fixture, "A process of a pod that calls itself kubelet is none, wherever in its groups it hides") {
  process("7", "kubelet", "0::/system.slice/kubelet.service", "0\t0\t0\t0");
  process("8", "kubelet",
          GENERATE_COPY("0::/kubepods/burstable/pod" + kA + "/c", "0::/kubepods/pod" + kA + "/c/pod" + kB,
                        "0::/../../pod" + kA + "/pod" + kB, "0::/kubepods.slice/x"),
          "1000\t1000\t1000\t1000");
  CHECK(users() == std::set<uid_t>{0});
}
