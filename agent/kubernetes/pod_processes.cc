#include "agent/kubernetes/pod_processes.h"

#include <dirent.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <netinet/in.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/address.h"
#include "base/file.h"
#include "base/text.h"
#include "mesh/reason.h"

namespace zt::agent {

namespace {

constexpr size_t kMaxProcFile = 64 * 1024;
constexpr size_t kUid = 36;  // 8-4-4-4-12

// A pod's uid at the beginning of the text; in systemd's slices its dashes are underscores.
std::optional<std::string> uid_at(std::string_view text) {
  if (text.size() < kUid) return std::nullopt;
  std::string uid;
  for (size_t i = 0; i < kUid; ++i) {
    const char c = text[i];
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    const bool hex = is_digit(c) || (c >= 'a' && c <= 'f');
    if (dash ? c != '-' && c != '_' : !hex) return std::nullopt;
    uid += dash ? '-' : c;
  }
  return uid;
}

// When the process began, in ticks: field 22, counted from behind its name, which may hold anything.
std::optional<uint64_t> started(std::string_view stat) {
  const auto name_end = stat.rfind(')');
  if (name_end == std::string_view::npos) return std::nullopt;
  std::string_view rest = stat.substr(name_end + 1);
  for (int field = 2; field < 22; ++field) {
    const auto blank = rest.find(' ');
    if (blank == std::string_view::npos) return std::nullopt;
    rest.remove_prefix(blank + 1);
  }
  return whole_number<uint64_t>(rest.substr(0, rest.find(' ')));
}

struct Process {
  std::string pid;
  uint64_t start = 0;
};

std::set<IpAddress> parsed(const std::vector<std::string>& ips) {
  std::set<IpAddress> out;
  for (const auto& ip : ips) {
    if (const auto address = IpAddress::parse(ip)) out.insert(*address);
  }
  return out;
}

// All pods that the text names.
std::set<std::string> pods_of_cgroup(std::string_view text) {
  std::set<std::string> found;
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    std::string_view path = text.substr(0, end);  // "4:memory:/kubepods/…", "0::/kubepods.slice/…"
    text.remove_prefix(std::min(end + 1, text.size()));
    path = path.substr(std::min(path.find(":/"), path.size()));
    for (auto at = path.find("pod"); at != std::string_view::npos; at = path.find("pod", at + 1)) {
      const char before = at == 0 ? '/' : path[at - 1];
      auto uid = before == '/' || before == '-' ? uid_at(path.substr(at + 3)) : std::nullopt;
      const char after = uid && at + 3 + kUid < path.size() ? path[at + 3 + kUid] : '/';
      if (!uid || (after != '/' && after != '.')) continue;
      found.insert(std::move(*uid));
    }
  }
  return found;
}

}  // namespace

Result<std::vector<std::string>> processes_of(const std::string& proc) {
  const std::unique_ptr<DIR, int (*)(DIR*)> listing(::opendir(proc.c_str()), ::closedir);
  if (!listing) return file_failure("list", proc);
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(listing.get())) {
    const std::string_view name = entry->d_name;
    if (!name.empty() && std::ranges::all_of(name, is_digit)) names.emplace_back(name);
  }
  return names;
}

std::optional<std::string> pod_of_cgroup(std::string_view text) {
  const auto pods = pods_of_cgroup(text);
  return pods.size() == 1 ? std::optional(*pods.begin()) : std::nullopt;
}

bool names_a_pod(std::string_view cgroup) {
  return cgroup.find("/kubepods") != std::string_view::npos || !pods_of_cgroup(cgroup).empty();
}

Result<bool> has_address(const Netns& netns, const std::vector<std::string>& ips) {
  const auto wanted = parsed(ips);
  return in_netns(netns, [&]() -> Result<bool> {
    ifaddrs* list = nullptr;
    if (::getifaddrs(&list) != 0) return fail_errno(Reason::kIo, "addresses of a network namespace");
    const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(list, ::freeifaddrs);
    for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
      if (entry->ifa_addr == nullptr) continue;
      std::optional<IpAddress> address;
      if (entry->ifa_addr->sa_family == AF_INET) {
        address = IpAddress::v4(ntohl(reinterpret_cast<const sockaddr_in*>(entry->ifa_addr)->sin_addr.s_addr));
      } else if (entry->ifa_addr->sa_family == AF_INET6) {
        const auto& bytes = reinterpret_cast<const sockaddr_in6*>(entry->ifa_addr)->sin6_addr.s6_addr;
        address = IpAddress::v6(std::span<const uint8_t, 16>(bytes));
      }
      if (address && wanted.contains(*address)) return true;
    }
    return false;
  });
}

Result<std::map<std::string, FoundNetns>> find_pod_namespaces(const std::string& proc, const std::vector<WantedPod>& wanted,
                                                              std::optional<Netns::Id> own) {
  std::map<std::string, const WantedPod*> by_uid;
  for (const auto& pod : wanted) by_uid.emplace(pod.uid, &pod);
  const auto host = Netns::open(proc + "/1/ns/net");
  if (!host) return fail(Reason::kIo, fmt::format("the host's network namespace: {}", host.error().text));
  ZT_ASSIGN(const auto pids, processes_of(proc));
  std::map<std::string, std::vector<Process>> processes;
  for (const auto& pid : pids) {
    const auto cgroup = read_file(proc + "/" + pid + "/cgroup", kMaxProcFile);
    if (!cgroup) continue;
    const auto uid = pod_of_cgroup(*cgroup);
    if (!uid || !by_uid.contains(*uid)) continue;
    const auto stat = read_file(proc + "/" + pid + "/stat", kMaxProcFile);
    const auto start = stat ? started(*stat) : std::nullopt;
    if (start) processes[*uid].push_back({pid, *start});
  }
  std::map<std::string, FoundNetns> found;
  std::set<Netns::Id> taken{host->id()};
  if (own) taken.insert(*own);
  for (auto& [uid, candidates] : processes) {
    std::ranges::sort(candidates, {}, &Process::start);
    std::set<Netns::Id> looked_at;
    for (const auto& process : candidates) {
      std::string path = proc + "/" + process.pid + "/ns/net";
      auto netns = Netns::open(path);
      if (!netns || taken.contains(netns->id()) || !looked_at.insert(netns->id()).second) continue;
      // The number may have gone to another process since its groups were read.
      const auto again = read_file(proc + "/" + process.pid + "/cgroup", kMaxProcFile);
      if (!again || pod_of_cgroup(*again) != uid) continue;
      if (const auto has = has_address(*netns, by_uid.at(uid)->ips); !has || !*has) continue;
      taken.insert(netns->id());
      found.emplace(uid, FoundNetns{std::make_shared<const Netns>(std::move(*netns)), std::move(path)});
      break;
    }
  }
  return found;
}

}  // namespace zt::agent
