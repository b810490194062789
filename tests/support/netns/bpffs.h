#pragma once
#include <sys/mount.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

namespace zt::testing {

// A bpf file system of this process's own: what is pinned there goes when it is unmounted, and with it every program.
class Bpffs {
 public:
  Bpffs() {
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

// Whether this machine lets tests try eBPF: a bpf file system can be mounted, and cgroups of version 2 are.
inline bool can_try_ebpf() {
  static const bool can = [] {
    const Bpffs bpffs;
    std::ifstream mounts("/proc/self/mountinfo");
    const std::string text{std::istreambuf_iterator<char>(mounts), {}};
    return bpffs.is_mounted() && text.find(" - cgroup2 ") != std::string::npos;
  }();
  if (!can) WARN("not tried with eBPF: no bpf file system or no cgroup version 2 to be had here");
  return can;
}

}  // namespace zt::testing
