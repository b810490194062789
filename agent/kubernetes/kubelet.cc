#include "agent/kubernetes/kubelet.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "agent/kubernetes/pod_processes.h"
#include "base/file.h"
#include "base/text.h"

namespace zt::agent {

namespace {

constexpr size_t kMaxProcFile = 64 * 1024;

bool is_kubelet(std::string_view name) { return name == "kubelet" || name == "kubelite" || name.starts_with("k3s"); }

// Of "Uid:\t<real>\t<effective>\t…": sockets belong to the effective one, as a rule.
std::optional<uid_t> user_of(std::string_view status) {
  const auto line = status.find("\nUid:\t");
  if (line == std::string_view::npos) return std::nullopt;
  status.remove_prefix(line + 6);
  const auto blank = status.find('\t');
  if (blank == std::string_view::npos) return std::nullopt;
  status.remove_prefix(blank + 1);
  return whole_number<uid_t>(status.substr(0, status.find('\t')));
}

}  // namespace

Result<std::set<uid_t>> kubelet_users(const std::string& proc) {
  ZT_ASSIGN(const auto pids, processes_of(proc));
  std::set<uid_t> users;
  for (const auto& pid : pids) {
    const std::string folder = proc + "/" + pid;
    const auto name = read_file(folder + "/comm", kMaxProcFile);
    if (!name || !is_kubelet(trim(std::string_view(*name).substr(0, name->find('\n'))))) continue;
    const auto groups = read_file(folder + "/cgroup", kMaxProcFile);
    if (!groups || names_a_pod(*groups)) continue;
    const auto status = read_file(folder + "/status", kMaxProcFile);
    if (const auto user = status ? user_of(*status) : std::nullopt) users.insert(*user);
  }
  if (users.empty()) users.insert(0);
  return users;
}

}  // namespace zt::agent
