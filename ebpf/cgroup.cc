#include "ebpf/cgroup.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>

#include "base/unique_fd.h"
#include "mesh/reason.h"

namespace zt::redirection {

namespace {
constexpr ino_t kRoot = 1;  // the inode of a hierarchy's root
constexpr std::string_view kOurs = "zt_";
}  // namespace

Result<Cgroup> find_cgroup(const std::string& path) {
  struct stat found{};
  if (!path.empty()) {
    if (::stat(path.c_str(), &found) != 0) return fail_errno(Reason::kIo, path);
    return Cgroup{.path = path, .id = found.st_ino};
  }
  std::ifstream mounts("/proc/self/mountinfo");
  std::string part;
  for (std::string line; std::getline(mounts, line);) {
    const auto dash = line.find(" - ");
    if (dash == std::string::npos || line.compare(dash + 3, 8, "cgroup2 ") != 0) continue;
    std::istringstream words(line);
    std::string id, parent, device, root, target;
    words >> id >> parent >> device >> root >> target;
    if (::stat(target.c_str(), &found) != 0) continue;
    if (found.st_ino == kRoot) return Cgroup{.path = target, .id = found.st_ino};
    part = target;
  }
  if (part.empty()) return fail(Reason::kNotFound, "no cgroup file system of version 2 is mounted");
  return fail(Reason::kNotFound,
              fmt::format("what is mounted at {} is a part of the cgroups of version 2, a container's own: mount "
                          "the node's, and say where (--cgroup)",
                          part));
}

Result<std::string> translator_at(const Cgroup& group) {
  const UniqueFd folder(::open(group.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) return fail_errno(Reason::kIo, group.path);
  for (const auto hook : {BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET6_CONNECT}) {
    std::array<uint32_t, 64> ids{};
    uint32_t count = ids.size(), flags = 0;
    if (::bpf_prog_query(folder.get(), hook, 0, &flags, ids.data(), &count) != 0) {
      return fail_errno(Reason::kIo, fmt::format("cannot list the programs at {}", group.path));
    }
    for (uint32_t i = 0; i < count; ++i) {
      const UniqueFd program(::bpf_prog_get_fd_by_id(ids[i]));
      bpf_prog_info info{};
      uint32_t size = sizeof info;
      if (!program || ::bpf_obj_get_info_by_fd(program.get(), &info, &size) != 0) continue;  // gone meanwhile
      const std::string_view name(info.name);
      if (!name.starts_with(kOurs)) return name.empty() ? fmt::format("number {}", ids[i]) : std::string(name);
    }
  }
  return std::string();
}

uint64_t find_kubelet(const std::string& proc, const std::string& root) {
  const auto is_hosts = [&](const std::filesystem::path& process) {
    for (const char* kind : {"mnt", "net", "pid"}) {
      std::error_code error;
      const auto hosts = std::filesystem::read_symlink(fmt::format("{}/1/ns/{}", proc, kind), error);
      if (error || std::filesystem::read_symlink(process / "ns" / kind, error) != hosts || error) return false;
    }
    return true;
  };
  std::error_code error;
  for (std::filesystem::directory_iterator each(proc, error), end; !error && each != end; each.increment(error)) {
    std::string name, line;
    std::ifstream(each->path() / "comm") >> name;
    if (name != "kubelet" || !is_hosts(each->path())) continue;
    std::ifstream groups(each->path() / "cgroup");
    while (std::getline(groups, line)) {
      if (!line.starts_with("0::/")) continue;
      std::string path = line.substr(3);
      while (path.starts_with("/..")) path.erase(0, 3);  // as it is seen from a container's group
      struct stat found{};
      if (path.size() > 1 && ::stat((root + path).c_str(), &found) == 0 && found.st_ino != kRoot) return found.st_ino;
    }
  }
  return 0;
}

}  // namespace zt::redirection
