#pragma once
#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/agent.h"
#include "agent/kubernetes/selection.h"
#include "base/log.h"
#include "base/result.h"
#include "redirection/backends/backends.h"

namespace zt::agent {

// The command line of ztunnel-agent, with environment variables behind it.
struct AgentOptions {
  enum class Command : uint8_t { kRun, kLeave, kVerify, kProbe };
  enum class Source : uint8_t { kFile, kKubernetes };
  Command command = Command::kRun;
  Source source = Source::kFile;
  Agent::Options agent;
  redirection::BackendSettings redirection;
  // Of Kubernetes alone.
  std::string node;
  SelectionRules rules;
  std::string service_account_folder;
  std::string host_proc;   // the host's /proc
  std::string host_root;   // before the paths that the CNI plugin says
  std::string cni_socket;  // empty: none
  // The CNI plugin that the agent keeps on the node; an empty folder of configurations: none.
  std::string cni_program, cni_bin_folder, cni_conf_folder, cni_conf_name;
  uint16_t metrics_port = 0;      // 0: none
  std::string pod_namespace;      // the agent's own
  std::string daemon_set;         // the agent's own: once it is gone, the plugin goes
  std::vector<std::string> uids;  // leave: these pods only; empty = all
  bool cleanup = false;           // un-enrol all pods at the end
  std::string log_filter;
  log::Format log_format = log::Format::kPlain;
};

// What to do instead of running: print `text` and exit with `code` (help, version, a mistake on the command
// line).
struct EarlyExit {
  int code = 0;
  std::string text;
};

struct ParsedOptions {
  std::optional<AgentOptions> options;
  EarlyExit exit;  // if there are no options
};
[[nodiscard]] ParsedOptions parse_agent_options(int argc, const char* const* argv);

// A duration (base/duration.h) of up to a day. kInvalidInput.
[[nodiscard]] Result<std::chrono::milliseconds> parse_limit(std::string_view text);

}  // namespace zt::agent
