#include "ebpf/programs.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <inbound.skel.h>
#include <outbound.skel.h>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "mesh/reason.h"

namespace zt::redirection {

namespace {

// Changes with what the maps hold: an agent never uses maps of another meaning.
constexpr std::string_view kFolder = "ztunnel-1";
constexpr std::array<const char*, 10> kLinks{"zt_connect4", "zt_connect6",     "zt_sendmsg4",     "zt_sendmsg6", "zt_recvmsg4",
                                             "zt_recvmsg6", "zt_getpeername4", "zt_getpeername6", "zt_sockops",  "zt_getsockopt"};

struct Destroy {
  void operator()(zt_outbound* programs) const { zt_outbound__destroy(programs); }
  void operator()(zt_inbound* program) const { zt_inbound__destroy(program); }
};

// libbpf's own words of the last load, for the error: the verifier's refusal is at their end.
thread_local std::string said;
int keep_words(libbpf_print_level level, const char* format, va_list arguments) {
  if (level == LIBBPF_DEBUG) return 0;
  std::array<char, 2048> line;
  std::vsnprintf(line.data(), line.size(), format, arguments);
  said += line.data();
  constexpr size_t kMost = 4000;
  if (said.size() > kMost) said.erase(0, said.size() - kMost);
  return 0;
}

std::string last_words() {
  while (!said.empty() && (said.back() == '\n' || said.back() == ' ')) said.pop_back();
  const auto at = said.rfind('\n');
  return said.empty() ? "" : fmt::format(" ({})", said.substr(at == std::string::npos ? 0 : at + 1));
}

std::unexpected<Error> refused(std::string_view what, int error) {
  return fail(Reason::kIo, fmt::format("eBPF: cannot {}: {}{}", what, errno_text(error), last_words()));
}

Result<UniqueFd> pinned(const std::string& path) {
  UniqueFd fd(::bpf_obj_get(path.c_str()));
  if (fd) return fd;
  return fail(errno == ENOENT ? Reason::kNotFound : Reason::kIo, fmt::format("{}: {}", path, errno_text(errno)));
}

Result<> check_bpffs(const std::string& path) {
  struct statfs found{};
  if (::statfs(path.c_str(), &found) == 0 && found.f_type == BPF_FS_MAGIC) return {};
  return fail(Reason::kNotFound, fmt::format("no bpf file system is mounted at {}", path));
}

// The first mount of cgroup version 2, wherever it is.
Result<std::string> find_cgroup2() {
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    const auto dash = line.find(" - ");
    if (dash == std::string::npos || line.compare(dash + 3, 8, "cgroup2 ") != 0) continue;
    std::istringstream words(line);
    std::string id, parent, device, root, target;
    words >> id >> parent >> device >> root >> target;
    return target;
  }
  return fail(Reason::kNotFound, "no cgroup file system of version 2 is mounted");
}

bool is_attached(const std::string& folder, const char* name) {
  const auto link = pinned(fmt::format("{}/links/{}", folder, name));
  bpf_link_info info{};
  uint32_t size = sizeof info;
  return link && ::bpf_obj_get_info_by_fd(link->get(), &info, &size) == 0 && info.cgroup.cgroup_id != 0;
}

// Those that are not there.
Result<> attach_all(zt_outbound& programs, int cgroup, const std::string& folder) {
  for (const char* name : kLinks) {
    if (is_attached(folder, name)) continue;
    ::unlink(fmt::format("{}/links/{}", folder, name).c_str());
    bpf_program* const program = ::bpf_object__find_program_by_name(programs.obj, name);
    bpf_link* const link = program == nullptr ? nullptr : ::bpf_program__attach_cgroup(program, cgroup);
    if (link == nullptr) return refused(fmt::format("attach {} to the cgroup", name), errno);
    const int failed = ::bpf_link__pin(link, fmt::format("{}/links/{}", folder, name).c_str());
    ::bpf_link__destroy(link);  // the pin holds it
    if (failed != 0) return refused(fmt::format("pin {}", name), -failed);
  }
  return {};
}

Result<> pin_maps(zt_outbound& programs, const std::string& folder) {
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, programs.obj) {
    const std::string name = ::bpf_map__name(map);
    if (name.find('.') != std::string::npos) continue;  // the compiler's own
    if (const int failed = ::bpf_map__pin(map, fmt::format("{}/maps/{}", folder, name).c_str()); failed != 0) {
      return refused("pin the map " + name, -failed);
    }
  }
  return {};
}

using Skeleton = std::unique_ptr<zt_outbound, Destroy>;

Result<Skeleton> open_skeleton() {
  said.clear();
  Skeleton programs(zt_outbound__open());
  if (!programs) return refused("open the programs", errno);
  return programs;
}

Result<> load(zt_outbound& programs) {
  if (const int failed = zt_outbound__load(&programs); failed != 0) return refused("load the programs", -failed);
  return {};
}

Result<UniqueFd> open_cgroup(const std::string& path) {
  UniqueFd cgroup(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup) return fail_errno(Reason::kIo, path);
  return cgroup;
}

Result<> build(const std::string& folder, const std::string& cgroup_path) {
  ZT_ASSIGN(const UniqueFd cgroup, open_cgroup(cgroup_path));
  for (const char* part : {"", "/maps", "/links", "/pods"}) {
    if (::mkdir((folder + part).c_str(), 0700) != 0) return fail_errno(Reason::kIo, folder + part);
  }
  ZT_ASSIGN(const Skeleton programs, open_skeleton());
  ZT_TRY(load(*programs));
  ZT_TRY(pin_maps(*programs, folder));
  return attach_all(*programs, cgroup.get(), folder);
}

// Attaches what is missing, on the maps that are there: the pods stay in them, and are captured again at once.
Result<> mend(const std::string& folder, const std::string& cgroup_path) {
  ZT_ASSIGN(const UniqueFd cgroup, open_cgroup(cgroup_path));
  if (::mkdir((folder + "/links").c_str(), 0700) != 0 && errno != EEXIST) return fail_errno(Reason::kIo, folder + "/links");
  ZT_ASSIGN(const Skeleton programs, open_skeleton());
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, programs->obj) {
    const std::string name = ::bpf_map__name(map);
    if (name.find('.') != std::string::npos) continue;
    ZT_ASSIGN(const UniqueFd there, pinned(fmt::format("{}/maps/{}", folder, name)));
    if (const int failed = ::bpf_map__reuse_fd(map, there.get()); failed != 0) return refused("share the map " + name, -failed);
  }
  ZT_TRY(load(*programs));
  return attach_all(*programs, cgroup.get(), folder);
}

zt_own_key own_key(uint64_t netns, const zt_address& address) {
  zt_own_key key{};
  key.netns = netns;
  key.address = address;
  return key;
}

}  // namespace

Result<Programs> Programs::open(const std::string& bpffs) {
  Programs programs(fmt::format("{}/{}", bpffs, kFolder));
  ZT_TRY(programs.open_maps());
  return programs;
}

Result<Programs> Programs::install(const std::string& bpffs, const std::string& cgroup) {
  ::libbpf_set_print(keep_words);
  const std::string folder = fmt::format("{}/{}", bpffs, kFolder);
  auto there = open(bpffs);
  if (there && there->verify().empty()) return there;
  ZT_TRY(check_bpffs(bpffs));
  std::string group = cgroup;
  if (group.empty()) {
    ZT_ASSIGN(group, find_cgroup2());
  }
  if (there && mend(folder, group)) return there;
  // Built beside, and moved into place whole. What somebody took a piece out of is replaced: pods are enrolled anew by the next check.
  const std::string beside = fmt::format("{}-of-{}", folder, ::getpid());  // this file system refuses names with dots
  std::error_code ignored;
  std::filesystem::remove_all(beside, ignored);
  if (auto built = build(beside, group); !built) {
    std::filesystem::remove_all(beside, ignored);
    return std::unexpected(built.error());
  }
  if (::rename(beside.c_str(), folder.c_str()) != 0) {
    if (there = open(bpffs); there && there->verify().empty()) {  // another agent was faster
      std::filesystem::remove_all(beside, ignored);
      return there;
    }
    std::filesystem::remove_all(folder, ignored);
    if (::rename(beside.c_str(), folder.c_str()) != 0) {
      auto error = fail_errno(Reason::kIo, folder);
      std::filesystem::remove_all(beside, ignored);
      return error;
    }
  }
  return open(bpffs);
}

Result<> Programs::open_maps() {
  const auto get = [&](const char* name, UniqueFd& map) -> Result<> {
    ZT_ASSIGN(map, pinned(fmt::format("{}/maps/{}", folder_, name)));
    return {};
  };
  ZT_TRY(get("pods", pods_));
  ZT_TRY(get("own_addresses", own_addresses_));
  ZT_TRY(get("listeners", listeners_));
  ZT_TRY(get("captured", captured_));
  return get("passing", passing_);
}

Deviations Programs::verify() const {
  Deviations deviations;
  for (const char* name : kLinks) {
    if (!is_attached(folder_, name)) deviations.push_back(fmt::format("missing eBPF program on the cgroup: {}", name));
  }
  return deviations;
}

Result<> Programs::put_pod(uint64_t netns, const zt_pod& pod) {
  if (::bpf_map_update_elem(pods_.get(), &netns, &pod, BPF_ANY) == 0) return {};
  return fail_errno(Reason::kIo, "eBPF: cannot enter the pod");
}

std::optional<zt_pod> Programs::pod(uint64_t netns) const {
  zt_pod pod{};
  if (::bpf_map_lookup_elem(pods_.get(), &netns, &pod) != 0) return std::nullopt;
  return pod;
}

void Programs::remove_pod(uint64_t netns) {
  ::bpf_map_delete_elem(pods_.get(), &netns);
  for (const auto& address : own_addresses(netns)) {
    const auto key = own_key(netns, address);
    ::bpf_map_delete_elem(own_addresses_.get(), &key);
  }
}

std::vector<zt_address> Programs::own_addresses(uint64_t netns) const {
  std::vector<zt_address> addresses;
  zt_own_key key{}, next{};
  for (int more = ::bpf_map_get_next_key(own_addresses_.get(), nullptr, &next); more == 0;
       more = ::bpf_map_get_next_key(own_addresses_.get(), &key, &next)) {
    key = next;
    if (key.netns == netns) addresses.push_back(key.address);
  }
  return addresses;
}

Result<> Programs::put_own_addresses(uint64_t netns, const std::vector<zt_address>& addresses) {
  const auto same = [](const zt_address& a, const zt_address& b) { return std::memcmp(&a, &b, sizeof a) == 0; };
  for (const auto& old : own_addresses(netns)) {
    bool stays = false;
    for (const auto& address : addresses) stays |= same(old, address);
    const auto key = own_key(netns, old);
    if (!stays) ::bpf_map_delete_elem(own_addresses_.get(), &key);
  }
  const uint8_t one = 1;
  for (const auto& address : addresses) {
    const auto key = own_key(netns, address);
    if (::bpf_map_update_elem(own_addresses_.get(), &key, &one, BPF_ANY) != 0) {
      return fail_errno(Reason::kIo, "eBPF: cannot enter an address of the pod");
    }
  }
  return {};
}

bool Programs::has_listener(uint64_t netns) const {
  zt_listener_key key{};
  key.netns = netns;
  for (key.slot = 0; key.slot < ZT_LISTENER_SLOTS; ++key.slot) {
    uint64_t socket = 0;
    if (::bpf_map_lookup_elem(listeners_.get(), &key, &socket) == 0) return true;
  }
  return false;
}

Result<> Programs::put_listener(uint64_t netns, uint32_t slot, int socket) {
  zt_listener_key key{};
  key.netns = netns;
  key.slot = slot;
  const uint64_t value = static_cast<uint64_t>(socket);
  if (::bpf_map_update_elem(listeners_.get(), &key, &value, BPF_ANY) == 0) return {};
  return fail_errno(Reason::kIo, "eBPF: cannot enter the proxy's listener");
}

std::string Programs::inbound_pin(uint64_t cookie) const { return fmt::format("{}/pods/{}", folder_, cookie); }

bool Programs::has_inbound(uint64_t cookie) const { return ::access(inbound_pin(cookie).c_str(), F_OK) == 0; }

bool Programs::is_inbound_attached(uint64_t cookie, const Netns& netns) const {
  const auto link = pinned(inbound_pin(cookie));
  bpf_link_info info{};
  uint32_t size = sizeof info;
  return link && ::bpf_obj_get_info_by_fd(link->get(), &info, &size) == 0 && info.type == BPF_LINK_TYPE_NETNS &&
         info.netns.netns_ino == netns.id().inode;
}

Result<> Programs::attach_inbound(uint64_t cookie, const Netns& netns) {
  ZT_TRY(detach_inbound(cookie));
  said.clear();
  const std::unique_ptr<zt_inbound, Destroy> program(zt_inbound__open());
  if (!program) return refused("open the pod's program", errno);
  program->rodata->netns = cookie;
  const auto share = [&](bpf_map* map, const UniqueFd& fd) { return ::bpf_map__reuse_fd(map, fd.get()); };
  if (share(program->maps.pods, pods_) != 0 || share(program->maps.own_addresses, own_addresses_) != 0 ||
      share(program->maps.listeners, listeners_) != 0 || share(program->maps.captured, captured_) != 0 ||
      share(program->maps.passing, passing_) != 0) {
    return refused("share the maps", errno);
  }
  ::bpf_map__set_autocreate(program->maps.dialled, false);
  if (const int failed = zt_inbound__load(program.get()); failed != 0) return refused("load the pod's program", -failed);
  bpf_link* const link = ::bpf_program__attach_netns(program->progs.zt_inbound, netns.fd());
  if (link == nullptr) return refused("attach the pod's program", errno);
  const int failed = ::bpf_link__pin(link, inbound_pin(cookie).c_str());
  ::bpf_link__destroy(link);
  if (failed != 0) return refused("pin the pod's program", -failed);
  return {};
}

Result<> Programs::detach_inbound(uint64_t cookie) {
  if (::unlink(inbound_pin(cookie).c_str()) == 0 || errno == ENOENT) return {};
  return fail_errno(Reason::kIo, inbound_pin(cookie));
}

}  // namespace zt::redirection
