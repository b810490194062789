#pragma once
#include <string>

#include "base/result.h"
#include "ebpf/cgroup.h"
#include "redirection/redirector.h"

// The programs that serve all pods, and the maps: pinned in one folder.
namespace zt::redirection {

// Puts all of it into the folder, or what is missing of it. What runs goes on running, also if it fails: the pods stay captured.
// `renew`: also replaces programs that are not this agent's.
Result<> install_into(const std::string& folder, const Cgroup& group, bool renew);

// The programs that are not there, not attached any more, or attached to another group.
Deviations verify_installed(const std::string& folder, const Cgroup& group);

}  // namespace zt::redirection
