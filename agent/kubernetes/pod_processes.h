#pragma once
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/linux/netns.h"
#include "base/result.h"

// Finding a pod's network namespace by its processes (redirection contract §6.2).
namespace zt::agent {

// The pod that a process is of, by its control groups (the text of /proc/<pid>/cgroup, version 1 or 2): kubelet puts a pod's
// uid into their path, where nothing in the pod can change it. Nothing if there is none, or if the text names two: a process in a
// group of its own making below the pod's, and whoever makes such a name costs himself alone.
[[nodiscard]] std::optional<std::string> pod_of_cgroup(std::string_view text);

// Whether those of a process put it into any pod.
[[nodiscard]] bool names_a_pod(std::string_view cgroup);

// The numbers of all processes. kIo.
[[nodiscard]] Result<std::vector<std::string>> processes_of(const std::string& proc);

struct WantedPod {
  std::string uid;
  std::vector<std::string> ips;
};

struct FoundNetns {
  std::shared_ptr<const Netns> netns;
  std::string path;  // where it was found, for people
};

// Looks through the processes of `proc` (the host's /proc) once, for all pods wanted. The namespace of a pod's oldest process
// that has one of the pod's addresses on an interface: the control group ties a process to a pod and not a namespace, and a
// process may have entered another's. A namespace is given to one pod. Not looked at: what is the host's (that of process 1, and
// `own`). Pods that are not in the answer were not found. Processes that end meanwhile are no error. kIo: `proc` cannot be read.
[[nodiscard]] Result<std::map<std::string, FoundNetns>> find_pod_namespaces(const std::string& proc,
                                                                            const std::vector<WantedPod>& wanted,
                                                                            std::optional<Netns::Id> own);

// Is one of these addresses on an interface in there?
[[nodiscard]] Result<bool> has_address(const Netns& netns, const std::vector<std::string>& ips);

}  // namespace zt::agent
