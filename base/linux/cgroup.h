#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace zt {

// The memory limit that this process runs under: the least of its control group's and of those above it, as far as they can be seen
// from here (a container sees its own). Version 2 (memory.max) and version 1 (memory.limit_in_bytes) of cgroup(7). Any thread.
class CgroupMemory {
 public:
  // Finds the files once: a process is seldom moved, and its limit often changed. `proc` and `root` are for tests: the folder of
  // `cgroup` and `mountinfo`, and what stands before the mount points in there.
  static CgroupMemory find(const std::string& proc = "/proc/self", const std::string& root = "");

  // Bytes, read anew. None: there is no limit, or it cannot be read.
  [[nodiscard]] std::optional<uint64_t> limit() const;
  // The files that are read, innermost group first.
  [[nodiscard]] const std::vector<std::string>& files() const { return files_; }

 private:
  std::vector<std::string> files_;
};

}  // namespace zt
