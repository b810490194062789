#include "ebpf/programs.h"

#include <bpf/bpf.h>
#include <fmt/core.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <inbound.skel.h>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <memory>
#include <utility>

#include "ebpf/install.h"
#include "ebpf/pinned.h"
#include "mesh/reason.h"

namespace zt::redirection {

namespace {

// Changes with what the maps hold: an agent never uses maps of another meaning.
constexpr std::string_view kFolder = "ztunnel-1";

struct Destroy {
  void operator()(zt_inbound* program) const { zt_inbound__destroy(program); }
};
using InboundProgram = std::unique_ptr<zt_inbound, Destroy>;

Result<> check_bpffs(const std::string& path) {
  struct statfs found{};
  if (::statfs(path.c_str(), &found) == 0 && found.f_type == BPF_FS_MAGIC) return {};
  return fail(Reason::kNotFound, fmt::format("no bpf file system is mounted at {}", path));
}

zt_own_key own_key(uint64_t netns, const zt_address& address) {
  zt_own_key key{};
  key.netns = netns;
  key.address = address;
  return key;
}

// 0: the namespace is gone.
std::optional<uint32_t> netns_of(const UniqueFd& link) {
  bpf_link_info info{};
  uint32_t size = sizeof info;
  if (::bpf_obj_get_info_by_fd(link.get(), &info, &size) != 0 || info.type != BPF_LINK_TYPE_NETNS) return std::nullopt;
  return info.netns.netns_ino;
}

}  // namespace

Result<Programs> Programs::open(const std::string& bpffs) {
  ZT_TRY(check_bpffs(bpffs));
  Programs programs(fmt::format("{}/{}", bpffs, kFolder));
  // Asked before any program is: without its privileges bpf() says no to what is not there, too.
  if (::access(programs.folder_.c_str(), F_OK) != 0 && errno == ENOENT) {
    return fail(Reason::kNotFound, fmt::format("{}: nothing is installed", programs.folder_));
  }
  if (auto opened = programs.open_maps(); !opened) return fail(Reason::kIo, opened.error().text);
  return programs;
}

Result<Programs> Programs::install(const std::string& bpffs, const Cgroup& group, bool renew) {
  ZT_TRY(check_bpffs(bpffs));
  if (!renew) {
    if (auto there = open(bpffs); there && there->verify(group).empty()) return there;
  }
  ZT_TRY(install_into(fmt::format("{}/{}", bpffs, kFolder), group, renew));
  ZT_ASSIGN(Programs programs, open(bpffs));
  if (renew) ZT_TRY(programs.renew_inbound());
  return programs;
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
  ZT_TRY(get("node", node_));
  return get("passing", passing_);
}

Deviations Programs::verify(const Cgroup& group) const { return verify_installed(folder_, group); }

void Programs::for_each_inbound(const std::function<void(uint64_t, const UniqueFd&)>& call) const {
  std::error_code error;
  std::vector<std::string> names;  // first: what is called may take files away
  for (const auto& entry : std::filesystem::directory_iterator(folder_ + "/pods", error))
    names.push_back(entry.path().filename());
  for (const auto& name : names) {
    uint64_t cookie = 0;
    const char* const end = name.data() + name.size();
    if (const auto read = std::from_chars(name.data(), end, cookie); read.ec != std::errc{} || read.ptr != end) continue;
    if (const auto link = pinned(inbound_pin(cookie))) call(cookie, *link);
  }
}

size_t Programs::sweep() {
  size_t gone = 0;
  for_each_inbound([&](uint64_t cookie, const UniqueFd& link) {
    if (netns_of(link) != 0) return;
    remove_pod(cookie);
    if (detach_inbound(cookie)) ++gone;
  });
  return gone;
}

Result<> Programs::enter(const UniqueFd& map, const void* key, const void* value, const char* what) {
  if (::bpf_map_update_elem(map.get(), key, value, BPF_ANY) == 0) return {};
  if (errno == E2BIG && sweep() > 0 && ::bpf_map_update_elem(map.get(), key, value, BPF_ANY) == 0) return {};
  return fail_errno(Reason::kIo, fmt::format("eBPF: cannot enter {}", what));
}

Result<> Programs::put_kubelet(uint64_t group) {
  const uint32_t zero = 0;
  const zt_node node{.kubelet = group};
  return enter(node_, &zero, &node, "the kubelet's control group");
}

Result<> Programs::put_pod(uint64_t netns, const zt_pod& pod) { return enter(pods_, &netns, &pod, "the pod"); }

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
    ZT_TRY(enter(own_addresses_, &key, &one, "an address of the pod"));
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
  return link && netns_of(*link) == netns.id().inode;
}

namespace {
Result<InboundProgram> load_inbound(const std::string& folder, uint64_t cookie) {
  keep_words();
  InboundProgram program(zt_inbound__open());
  if (!program) return refused("open the pod's program", errno);
  program->rodata->netns = cookie;
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, program->obj) {
    const std::string name = ::bpf_map__name(map);
    if (name.find('.') != std::string::npos) continue;  // the compiler's own
    ZT_ASSIGN(const UniqueFd there, pinned(fmt::format("{}/maps/{}", folder, name)));
    if (const int failed = ::bpf_map__reuse_fd(map, there.get()); failed != 0) return refused("share the map " + name, -failed);
  }
  if (const int failed = zt_inbound__load(program.get()); failed != 0) return refused("load the pod's program", -failed);
  return program;
}
}  // namespace

Result<> Programs::attach_inbound(uint64_t cookie, const Netns& netns) {
  ZT_ASSIGN(const InboundProgram program, load_inbound(folder_, cookie));
  return pin_link(::bpf_program__attach_netns(program->progs.zt_inbound, netns.fd()), inbound_pin(cookie), "the pod's program");
}

Result<> Programs::renew_inbound() const {
  Result<> renewed;
  for_each_inbound([&](uint64_t cookie, const UniqueFd& link) {
    if (!renewed || netns_of(link) == 0) return;
    const auto program = load_inbound(folder_, cookie);
    renewed = program ? run_by(link, *(*program)->progs.zt_inbound, "the pod's program") : std::unexpected(program.error());
  });
  return renewed;
}

Result<> Programs::detach_inbound(uint64_t cookie) {
  if (::unlink(inbound_pin(cookie).c_str()) == 0 || errno == ENOENT) return {};
  return fail_errno(Reason::kIo, inbound_pin(cookie));
}

}  // namespace zt::redirection
