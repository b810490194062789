#include "base/linux/cgroup.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

using namespace zt;
namespace fs = std::filesystem;

namespace {

// A made-up /proc/self and file system.
struct Machine {
  fs::path folder;
  Machine() {
    std::string name = (fs::temp_directory_path() / "zt-cgroup-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    folder = name;
  }
  ~Machine() { fs::remove_all(folder); }
  void write(const std::string& path, const std::string& text) const {
    fs::create_directories((folder / path).parent_path());
    std::ofstream(folder / path) << text;
  }
  [[nodiscard]] CgroupMemory find() const { return CgroupMemory::find(folder / "proc", folder); }
};

}  // namespace

TEST_CASE("the memory limit of version 2 is the least of our group's and of those above it") {
  Machine machine;
  machine.write("proc/cgroup", "0::/kubepods/pod1/c1\n");
  machine.write(
      "proc/mountinfo",
      "24 30 0:22 / /proc rw - proc proc rw\n29 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n");
  machine.write("sys/fs/cgroup/kubepods/memory.max", "max\n");
  machine.write("sys/fs/cgroup/kubepods/pod1/memory.max", "134217728\n");
  machine.write("sys/fs/cgroup/kubepods/pod1/c1/memory.max", "max\n");
  const auto memory = machine.find();
  CHECK(memory.files().size() == 3);
  CHECK(memory.limit() == 134217728);
  SECTION("a change counts at once") {
    machine.write("sys/fs/cgroup/kubepods/pod1/c1/memory.max", "67108864\n");
    CHECK(memory.limit() == 67108864);
    machine.write("sys/fs/cgroup/kubepods/pod1/c1/memory.max", "max\n");
    machine.write("sys/fs/cgroup/kubepods/pod1/memory.max", "max\n");
    CHECK_FALSE(memory.limit());
  }
}

TEST_CASE("the memory limit in a container, which sees its own group as the root") {
  Machine machine;
  machine.write("proc/cgroup", "0::/\n");
  machine.write("proc/mountinfo", "29 24 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
  machine.write("sys/fs/cgroup/memory.max", "67108864\n");
  CHECK(machine.find().limit() == 67108864);
}

TEST_CASE("the memory limit of version 1, seen from inside the container and from outside") {
  Machine machine;
  const std::string mounts = GENERATE("33 29 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
                                      "33 29 0:30 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
  const bool inside = mounts.find("abc") != std::string::npos;
  machine.write("proc/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n");
  machine.write("proc/mountinfo", "31 29 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n" + mounts);
  machine.write(std::string("sys/fs/cgroup/memory") + (inside ? "" : "/docker/abc") + "/memory.limit_in_bytes", "268435456\n");
  if (!inside) machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  CHECK(machine.find().limit() == 268435456);
}

TEST_CASE("without a memory controller, and with files that say nothing, there is no limit") {
  Machine machine;
  CHECK_FALSE(machine.find().limit());
  machine.write("proc/cgroup", "0::/a\nno line\n:\n0:\n");
  machine.write("proc/mountinfo", "short line\n29 24 0:26 / /sys/fs/cgroup ro - cgroup2\n - \n");
  CHECK_FALSE(machine.find().limit());
  machine.write("sys/fs/cgroup/a/memory.max", "");
  CHECK_FALSE(machine.find().limit());
  machine.write("sys/fs/cgroup/a/memory.max", "-5 oranges\n");
  CHECK_FALSE(machine.find().limit());
  machine.write("sys/fs/cgroup/a/memory.max", "99999999999999999999999999\n");
  CHECK_FALSE(machine.find().limit());
}
