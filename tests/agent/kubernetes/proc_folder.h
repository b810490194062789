#pragma once
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "tests/support/netns/test_pod.h"

// A /proc of the test's making, with real namespaces in it.
namespace zt::testing {

inline const std::string kA = "0aa8e1f2-1111-4222-8333-444455556666", kB = "0bb8e1f2-1111-4222-8333-444455556666";

inline std::string pod_group(const std::string& uid) { return "0::/kubepods/burstable/pod" + uid + "/0123456789abcdef\n"; }

struct ProcFolder {
  TempDir proc;
  const std::string root = proc / ".";
  std::map<std::string, Netns> namespaces;
  const Netns host = Netns::current().value();

  ProcFolder() { process("1", 1, "0::/init.scope\n", host); }
  const Netns& make(const std::string& name, const std::string& ip = "") {
    const auto& netns = namespaces.emplace(name, make_netns()).first->second;
    if (!ip.empty()) sh(netns, "ip link set lo up; ip addr add " + ip + " dev lo");
    return netns;
  }
  void process(const std::string& pid, uint64_t start, const std::string& groups, const Netns& netns,
               const std::string& name = "app") {
    const std::string folder = proc / pid;
    std::filesystem::create_directories(folder + "/ns");
    std::ofstream(folder + "/cgroup") << groups;
    std::ofstream stat(folder + "/stat");
    stat << pid << " (" << name << ") S";
    for (int field = 4; field < 22; ++field) stat << " 0";
    stat << " " << start << " 0 0\n";
    std::filesystem::remove(folder + "/ns/net");
    std::filesystem::create_symlink("/proc/self/fd/" + std::to_string(netns.fd()), folder + "/ns/net");
  }
};

}  // namespace zt::testing
