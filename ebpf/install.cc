#include "ebpf/install.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <outbound.skel.h>
#include <array>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <random>
#include <utility>

#include "base/unique_fd.h"
#include "ebpf/pinned.h"
#include "mesh/reason.h"

namespace zt::redirection {

namespace {

constexpr std::array<const char*, 10> kLinks{"zt_connect4", "zt_connect6",     "zt_sendmsg4",     "zt_sendmsg6", "zt_recvmsg4",
                                             "zt_recvmsg6", "zt_getpeername4", "zt_getpeername6", "zt_sockops",  "zt_getsockopt"};

struct Destroy {
  void operator()(zt_outbound* programs) const { zt_outbound__destroy(programs); }
};

// 0: not attached.
uint64_t group_of(const UniqueFd& link) {
  bpf_link_info info{};
  uint32_t size = sizeof info;
  const bool known = ::bpf_obj_get_info_by_fd(link.get(), &info, &size) == 0 && info.type == BPF_LINK_TYPE_CGROUP;
  return known ? info.cgroup.cgroup_id : 0;
}

Result<> attach(zt_outbound& programs, const Cgroup& group, const std::string& folder, bool renew) {
  const UniqueFd cgroup(::open(group.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup) return fail_errno(Reason::kIo, group.path);
  for (const char* name : kLinks) {
    const std::string path = fmt::format("{}/links/{}", folder, name), what = fmt::format("{} to the cgroup", name);
    const bpf_program* const program = ::bpf_object__find_program_by_name(programs.obj, name);
    if (const auto there = pinned(path); there && group_of(*there) == group.id) {
      if (renew) ZT_TRY(run_by(*there, *program, name));
      continue;
    }
    ZT_TRY(pin_link(::bpf_program__attach_cgroup(program, cgroup.get()), path, what));
  }
  return {};
}

// The map of this name, of any program that is pinned and runs: what was unpinned is not gone.
Result<UniqueFd> map_in_use(const std::string& folder, std::string_view name) {
  for (const char* part : {"/links", "/pods"}) {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder + part, error)) {
      const auto link = pinned(entry.path());
      if (!link) continue;
      ZT_ASSIGN(std::vector<UniqueFd> maps, maps_of(*link));
      for (auto& map : maps) {
        bpf_map_info info{};
        uint32_t size = sizeof info;
        if (::bpf_obj_get_info_by_fd(map.get(), &info, &size) == 0 && name == info.name) return std::move(map);
      }
    }
  }
  return fail(Reason::kNotFound, std::string(name));
}

Result<> complete(const std::string& folder, const Cgroup& group, bool renew) {
  for (const char* part : {"", "/maps", "/links", "/pods"}) {
    if (::mkdir((folder + part).c_str(), 0700) != 0 && errno != EEXIST) return fail_errno(Reason::kIo, folder + part);
  }
  keep_words();
  const std::unique_ptr<zt_outbound, Destroy> programs(zt_outbound__open());
  if (!programs) return refused("open the programs", errno);
  std::vector<std::pair<bpf_map*, std::string>> to_pin;
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, programs->obj) {
    const std::string name = ::bpf_map__name(map), path = fmt::format("{}/maps/{}", folder, name);
    if (name.find('.') != std::string::npos) continue;  // the compiler's own
    auto there = pinned(path);
    if (!there && there.error().reason == Reason::kNotFound) {
      to_pin.emplace_back(map, path);
      there = map_in_use(folder, name);
    }
    if (!there && there.error().reason == Reason::kNotFound) continue;  // a new one
    if (!there) return std::unexpected(there.error());
    if (const int failed = ::bpf_map__reuse_fd(map, there->get()); failed != 0) return refused("share the map " + name, -failed);
  }
  if (const int failed = zt_outbound__load(programs.get()); failed != 0) return refused("load the programs", -failed);
  for (const auto& [unpinned, path] : to_pin) {
    if (::bpf_obj_pin(::bpf_map__fd(unpinned), path.c_str()) != 0) return refused("pin " + path, errno);
  }
  return attach(*programs, group, folder, renew);
}

// This file system refuses names with dots. Processes of two containers may have one number.
std::string name_beside(const std::string& folder) {
  std::random_device random;
  return fmt::format("{}-of-{}-{:08x}", folder, ::getpid(), random());
}

}  // namespace

Result<> install_into(const std::string& folder, const Cgroup& group, bool renew) {
  if (::access(folder.c_str(), F_OK) == 0) return complete(folder, group, renew);
  // Built beside, and moved into place whole.
  const std::string beside = name_beside(folder);
  auto built = complete(beside, group, false);
  if (built && ::rename(beside.c_str(), folder.c_str()) == 0) return {};
  const bool outrun = built && ::access(folder.c_str(), F_OK) == 0;  // by another agent
  if (built) built = fail_errno(Reason::kIo, folder);
  std::error_code ignored;
  std::filesystem::remove_all(beside, ignored);
  return outrun ? complete(folder, group, renew) : built;
}

Deviations verify_installed(const std::string& folder, const Cgroup& group) {
  Deviations deviations;
  for (const char* name : kLinks) {
    const auto link = pinned(fmt::format("{}/links/{}", folder, name));
    const uint64_t attached = link ? group_of(*link) : 0;
    if (attached == group.id) continue;
    deviations.push_back(attached == 0 ? fmt::format("missing eBPF program on the cgroup: {}", name)
                                       : fmt::format("the eBPF program {} is on another cgroup than {}", name, group.path));
  }
  return deviations;
}

}  // namespace zt::redirection
