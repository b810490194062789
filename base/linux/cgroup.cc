#include "base/linux/cgroup.h"

#include <algorithm>
#include <charconv>
#include <sstream>
#include <string_view>

#include "base/file.h"

namespace zt {

namespace {

constexpr size_t kMaxProcFile = 1u << 20;
constexpr size_t kMaxDepth = 64;
// "No limit" of version 1 is the largest number of whole pages; nothing above this is a limit.
constexpr uint64_t kUnlimited = uint64_t{1} << 60;

// Files of the kernel: small, without errors that matter. Empty: not there.
std::string read_small(const std::string& path) { return read_file(path, kMaxProcFile).value_or(std::string()); }

struct Mount {
  std::string root;   // which group is mounted
  std::string point;  // where
};

// Of /proc/self/mountinfo, proc(5): "36 35 0:26 /root /mount/point rw,… shared:1 - cgroup2 source options". A v1 hierarchy is the one
// with the memory controller.
std::optional<Mount> find_mount(const std::string& mountinfo, bool version2) {
  std::istringstream lines(mountinfo);
  for (std::string line; std::getline(lines, line);) {
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream before(line.substr(0, dash)), after(line.substr(dash + 3));
    std::string id, parent, device, root, point, type, source, options;
    before >> id >> parent >> device >> root >> point;
    after >> type >> source >> options;
    if (version2 ? type != "cgroup2" : type != "cgroup") continue;
    if (!version2 && ("," + options + ",").find(",memory,") == std::string::npos) continue;
    return Mount{root, point};
  }
  return std::nullopt;
}

// Of /proc/self/cgroup, cgroups(7): "0::/path" for version 2, "4:memory,…:/path" for version 1.
std::optional<std::string> find_group(const std::string& cgroup, bool version2) {
  std::istringstream lines(cgroup);
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool match = version2 ? line.starts_with("0::") : ("," + controllers + ",").find(",memory,") != std::string::npos;
    if (match) return line.substr(second + 1);
  }
  return std::nullopt;
}

}  // namespace

CgroupMemory CgroupMemory::find(const std::string& proc, const std::string& root) {
  CgroupMemory found;
  const std::string groups = read_small(proc + "/cgroup");
  const std::string mounts = read_small(proc + "/mountinfo");
  for (const bool version2 : {true, false}) {
    const auto mount = find_mount(mounts, version2);
    auto group = find_group(groups, version2);
    if (!mount || !group) continue;
    // The mount may show a part of the hierarchy only: our own group, in a container.
    if (mount->root != "/" && group->starts_with(mount->root)) group->erase(0, mount->root.size());
    std::string path = root + mount->point + (*group == "/" ? "" : *group);
    const std::string top = root + mount->point;
    for (size_t depth = 0; depth < kMaxDepth && path.size() >= top.size(); ++depth) {
      const std::string file = path + (version2 ? "/memory.max" : "/memory.limit_in_bytes");
      if (::access(file.c_str(), R_OK) == 0) found.files_.push_back(file);
      path.erase(path.rfind('/'));
    }
    // A group whose name cannot be reached (no namespace of its own): what is mounted is ours or above us.
    if (!found.files_.empty()) break;
  }
  return found;
}

std::optional<uint64_t> CgroupMemory::limit() const {
  std::optional<uint64_t> least;
  for (const std::string& file : files_) {
    const std::string text = read_small(file);
    uint64_t value = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);  // "max" is no number
    if (parsed.ec != std::errc() || value >= kUnlimited) continue;
    least = std::min(value, least.value_or(value));
  }
  return least;
}

}  // namespace zt
