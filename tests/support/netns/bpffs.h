#pragma once
#include <linux/bpf.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

namespace zt::testing {

// Mounts of this process's own: what it mounts goes with it, also if it is killed.
inline bool own_mounts() {
  static const bool own = ::unshare(CLONE_NEWNS) == 0 && ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
  return own;
}

// A bpf file system of this process's own: what is pinned there goes when it is unmounted, and with it every program.
class Bpffs {
 public:
  Bpffs() {
    if (!own_mounts()) return;
    std::string name = "/tmp/zt-bpffs-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) return;
    path_ = name;
    mounted_ = ::mount("bpf", path_.c_str(), "bpf", 0, nullptr) == 0;
  }
  ~Bpffs() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
    ::rmdir(path_.c_str());
  }
  Bpffs(const Bpffs&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] bool is_mounted() const { return mounted_; }

 private:
  std::string path_;
  bool mounted_ = false;
};

// One for all tests of the program.
inline const std::string& own_bpffs() {
  static const Bpffs bpffs;
  REQUIRE(bpffs.is_mounted());
  return bpffs.path();
}

// The first mounted cgroup of version 2: in a container with a cgroup namespace it is the container's, under which the tests are.
inline std::string test_cgroup() {
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    if (line.find(" - cgroup2 ") == std::string::npos) continue;
    std::istringstream words(line);
    std::string word;
    for (int i = 0; i < 5; ++i) words >> word;
    return word;
  }
  return {};
}

// Whether the kernel makes a map for us: seccomp and lockdown refuse where mounting is allowed.
inline bool can_make_bpf_map() {
  bpf_attr attributes{};
  attributes.map_type = BPF_MAP_TYPE_HASH;
  attributes.key_size = attributes.value_size = 8;
  attributes.max_entries = 1;
  const long map = ::syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes);
  if (map < 0) return false;
  ::close(static_cast<int>(map));
  return true;
}

// Whether this machine lets tests try eBPF.
inline bool can_try_ebpf() {
  static const bool can = [] {
    const Bpffs bpffs;
    return bpffs.is_mounted() && !test_cgroup().empty() && can_make_bpf_map();
  }();
  if (!can) WARN("not tried with eBPF: no bpf file system, no cgroup version 2 or no bpf() to be had here");
  return can;
}

}  // namespace zt::testing
