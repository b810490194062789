#pragma once
#include <chrono>
#include <vector>

#include "agent/pods/pods_file.h"
#include "redirection/redirector.h"

namespace zt::agent {

// Un-enrols the pods of a file without an agent, in two phases, blocking. All pods are tried; the error names
// those that failed.
Result<> leave_pods(redirection::Redirector& redirector, const std::vector<PodSpec>& specs, std::chrono::milliseconds limit);

}  // namespace zt::agent
