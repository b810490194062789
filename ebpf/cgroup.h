#pragma once
#include <cstdint>
#include <string>

#include "base/result.h"

namespace zt::redirection {

// A group of version 2, whose processes and those of the groups under it can be captured.
struct Cgroup {
  std::string path;
  uint64_t id = 0;  // the kernel's
};

// "": all of the node's, wherever they are mounted. kNotFound: only a part of them can be seen here (a container's own), under
// which no pod is.
Result<Cgroup> find_cgroup(const std::string& path);

// The name of a program of somebody else's that changes what processes under the group dial; "": there is none. It was attached
// before ours, and so runs before them.
Result<std::string> translator_at(const Cgroup& group);

// The group under `root` (its path a mount's) of the node's kubelet: of a process of that name which shares process 1's namespaces of
// mounts, network and processes, as no container does. 0: there is none, or it has no group of its own. `proc`: the host's /proc.
uint64_t find_kubelet(const std::string& proc, const std::string& root);

}  // namespace zt::redirection
