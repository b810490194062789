#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "agent/agent.h"
#include "agent/cni_install/cni_install.h"
#include "agent/kubernetes_source.h"
#include "agent/probe_exemption.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace zt::agent {

// What the agent counts, as Prometheus reads it (text format 0.0.4). The names that istio-cni's agent has too mean the same
// (redirection contract §4.6); the others begin with ztunnel_agent_.
struct AgentMetrics {
  Agent::Counts pods = {};
  size_t proxies = 0;
  std::string backend = {};
  KubernetesSource::Counts source = {};
  ProbeExemption::Counts probes = {};
  std::map<unsigned, uint64_t> plugin_answers = {};  // by HTTP status
  CniInstall::Counts installs = {};
  bool installed = false;
};
[[nodiscard]] std::string render_metrics(const AgentMetrics& metrics);

// A listening TCP socket for it, on all addresses of the agent's network. kIo, with the port.
[[nodiscard]] Result<UniqueFd> listen_metrics(uint16_t port);

}  // namespace zt::agent
