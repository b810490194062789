#pragma once
#include <sys/types.h>

#include <set>
#include <string>

#include "base/result.h"

namespace zt::agent {

// The users that kubelet runs as, by the processes of `proc` (the node's /proc): one called kubelet, kubelite (MicroK8s) or k3s, which is in
// no pod: a program may call itself anything. None is found: root, as which kubelet runs everywhere. kIo: `proc` cannot be read.
[[nodiscard]] Result<std::set<uid_t>> kubelet_users(const std::string& proc);

}  // namespace zt::agent
