#include "agent/agent_options.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "base/duration.h"
#include "kubernetes/cluster_config.h"
#include "mesh/reason.h"

namespace zt::agent {

namespace {

constexpr const char* kDescription =
    "Node agent: redirects the pods of a file, or those that Kubernetes says, into the node proxy and offers them to it over "
    "ZDS.\n"
    "Pods stay redirected when the agent ends (fail closed), unless --cleanup is given.";

// Lets CLI11 check and convert durations.
std::string check_duration(const std::string& text) {
  const auto parsed = parse_limit(text);
  return parsed ? std::string() : parsed.error().text;
}

std::chrono::milliseconds duration(const std::string& text) { return *parse_limit(text); }

}  // namespace

Result<std::chrono::milliseconds> parse_limit(std::string_view text) {
  const auto parsed = parse_duration(text);
  if (parsed && *parsed <= std::chrono::hours(24)) return std::chrono::ceil<std::chrono::milliseconds>(*parsed);
  return fail(Reason::kInvalidInput, fmt::format("'{}' is not a duration of up to a day, such as 250ms, 30s or 5m", text));
}

ParsedOptions parse_agent_options(int argc, const char* const* argv) {
  AgentOptions options;
  std::string verify_interval = "10s", leave_limit = "30s", format = "plain";
  std::string source = "file", selectors, excluded = "kube-system";
  bool ipv6 = true, dns = true;

  CLI::App app(kDescription, "ztunnel-agent");
  app.set_version_flag("--version", "ztunnel-agent " ZT_VERSION);
  app.fallthrough();
  app.require_subcommand(0, 1);
  app.add_option("--pods", options.agent.pods_file, "YAML file of the pods to enrol; watched")
      ->envname("ZTUNNEL_AGENT_PODS")
      ->type_name("FILE");
  app.add_option("--source", source, "where the pods come from: file (--pods), or kubernetes (labels of namespaces and pods)")
      ->envname("ZTUNNEL_AGENT_SOURCE")
      ->check(CLI::IsMember({"file", "kubernetes"}))
      ->capture_default_str();
  app.add_option("--node", options.node, "kubernetes: the node whose pods these are")->envname("NODE_NAME")->type_name("NAME");
  app.add_option("--enablement-selectors", selectors,
                 "kubernetes: YAML list of {podSelector, namespaceSelector} (default: the label istio.io/dataplane-mode)")
      ->envname("AMBIENT_ENABLEMENT_SELECTOR")
      ->type_name("YAML");
  app.add_option("--exclude-namespaces", excluded, "kubernetes: comma list of namespaces whose pods are never in the mesh")
      ->envname("EXCLUDE_NAMESPACES")
      ->capture_default_str();
  app.add_option("--system-namespace", options.rules.system_namespace, "kubernetes: where the proxies (app=ztunnel) are")
      ->envname("SYSTEM_NAMESPACE")
      ->capture_default_str();
  options.service_account_folder = kubernetes::kServiceAccountFolder;
  app.add_option("--service-account", options.service_account_folder,
                 "kubernetes: folder of token and ca.crt, read for each request")
      ->envname("ZTUNNEL_AGENT_SERVICE_ACCOUNT")
      ->type_name("DIR")
      ->capture_default_str();
  options.host_proc = "/proc";
  app.add_option("--host-proc", options.host_proc, "kubernetes: the node's /proc, where pods' namespaces are found")
      ->envname("ZTUNNEL_AGENT_HOST_PROC")
      ->type_name("DIR")
      ->capture_default_str();
  app.add_option("--host-root", options.host_root, "kubernetes: goes before the paths that the CNI plugin says, such as /host")
      ->envname("ZTUNNEL_AGENT_HOST_ROOT")
      ->type_name("DIR");
  app.add_option("--cni-socket", options.cni_socket,
                 "kubernetes: socket where the CNI plugin asks before a pod starts, such as /var/run/istio-cni/pluginevent.sock "
                 "(default: none)")
      ->envname("ZTUNNEL_AGENT_CNI_SOCKET")
      ->type_name("PATH");
  options.cni_program = "/usr/local/bin/ztunnel-cni";
  app.add_option("--cni-program", options.cni_program, "kubernetes: the CNI plugin that is put onto the node")
      ->envname("ZTUNNEL_AGENT_CNI_PROGRAM")
      ->type_name("FILE")
      ->capture_default_str();
  options.cni_bin_folder = "/host/opt/cni/bin";
  app.add_option("--cni-bin-folder", options.cni_bin_folder, "kubernetes: the node's CNI programs")
      ->envname("ZTUNNEL_AGENT_CNI_BIN_FOLDER")
      ->type_name("DIR")
      ->capture_default_str();
  app.add_option("--cni-conf-folder", options.cni_conf_folder,
                 "kubernetes: the node's CNI configurations, such as /host/etc/cni/net.d; the plugin is kept in the one that "
                 "counts (default: none)")
      ->envname("ZTUNNEL_AGENT_CNI_CONF_FOLDER")
      ->type_name("DIR");
  app.add_option("--cni-conf-name", options.cni_conf_name,
                 "kubernetes: the configuration that counts (default: the one that the kubelet takes)")
      ->envname("CNI_CONF_NAME")
      ->type_name("NAME");
  options.pod_namespace = "istio-system";
  app.add_option("--pod-namespace", options.pod_namespace, "kubernetes: the agent's own namespace")
      ->envname("POD_NAMESPACE")
      ->capture_default_str();
  options.daemon_set = "istio-cni-node";
  app.add_option("--daemon-set", options.daemon_set,
                 "kubernetes: the agent's own; if it is gone when the agent ends, the plugin is removed")
      ->envname("ZTUNNEL_AGENT_DAEMON_SET")
      ->capture_default_str();
  options.metrics_port = 15014;
  app.add_option("--metrics-port", options.metrics_port, "kubernetes: port of /metrics, /readyz and /healthz; 0 for none")
      ->envname("MONITORING_PORT")
      ->capture_default_str();
  app.add_option("--zds-socket", options.agent.zds_path, "socket where proxies connect")
      ->envname("ZTUNNEL_UDS_ADDRESS")
      ->type_name("PATH")
      ->capture_default_str();
  app.add_option("--state-file", options.agent.state_file,
                 "the pods enrolled, for the next agent; belongs on a tmpfs (default: the socket's path and .pods)")
      ->envname("ZTUNNEL_AGENT_STATE_FILE")
      ->type_name("FILE");
  app.add_option("--verify-interval", verify_interval, "how often the real state of every pod is checked and repaired")
      ->envname("ZTUNNEL_AGENT_VERIFY_INTERVAL")
      ->check(check_duration)
      ->type_name("DURATION")
      ->capture_default_str();
  app.add_option("--leave-limit", leave_limit, "how long a leaving pod's connections may go on through the proxy")
      ->envname("ZTUNNEL_AGENT_LEAVE_LIMIT")
      ->check(check_duration)
      ->type_name("DURATION")
      ->capture_default_str();
  const CLI::Option* backend =
      app.add_option("--backend", options.redirection.backend,
                     "how pods are redirected: ebpf, nftables, iptables, or auto for the first of them that works here and suits "
                     "the pod; "
                     "without it, NATIVE_NFTABLES=false (istio-cni's) is iptables")
          ->envname("ZTUNNEL_AGENT_BACKEND")
          ->check(CLI::IsMember(std::vector<std::string>(redirection::kBackendNames.begin(), redirection::kBackendNames.end())))
          ->capture_default_str();
  bool native_nftables = true;
  app.add_option("--native-nftables", native_nftables)->envname("NATIVE_NFTABLES")->group("");
  app.add_option("--iptables-variant", options.redirection.iptables_variant, "legacy or nft (default: found out)")
      ->envname("FORCE_IPTABLES_BINARY")
      ->check(CLI::IsMember({"", "legacy", "nft"}));
  app.add_option("--bpffs", options.redirection.ebpf.bpffs, "bpf file system that keeps the programs of --backend ebpf")
      ->envname("ZTUNNEL_AGENT_BPFFS")
      ->type_name("FOLDER")
      ->capture_default_str();
  app.add_option("--cgroup", options.redirection.ebpf.cgroup,
                 "cgroup (version 2) under which all pods and proxies are, for --backend ebpf (default: all of the node's)")
      ->envname("ZTUNNEL_AGENT_CGROUP")
      ->type_name("FOLDER");
  app.add_option("--ipv6", ipv6, "capture IPv6 as well")->envname("AMBIENT_IPV6")->capture_default_str();
  app.add_option("--dns", dns,
                 "capture DNS of pods whose entry does not say; off where the proxy has ISTIO_META_DNS_CAPTURE=false")
      ->envname("AMBIENT_DNS_CAPTURE")
      ->capture_default_str();
  app.add_flag("--cleanup", options.cleanup, "un-enrol all pods when the agent is ended by SIGTERM or SIGINT")
      ->envname("ZTUNNEL_AGENT_CLEANUP");
  app.add_option("--log-level", options.log_filter, "comma list of level and target=level")
      ->envname("RUST_LOG")
      ->type_name("FILTER");
  app.add_option("--log-format", format, "plain or json")
      ->envname("LOG_FORMAT")
      ->check(CLI::IsMember({"plain", "json"}))
      ->capture_default_str();

  app.add_subcommand("run", "serve until ended by a signal (the default)");
  CLI::App* leave = app.add_subcommand("leave", "un-enrol the pods of the file; only while no agent runs");
  leave->add_option("uid", options.uids, "these pods only");
  CLI::App* verify = app.add_subcommand("verify", "compare the real state of the file's pods with what it should be");

  CLI::App* probe = app.add_subcommand("probe", "does an agent answer at --cni-socket? (a readiness probe)");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::ostringstream out;
    const int code = app.exit(error, out, out);
    return {.options = std::nullopt, .exit = {code == 0 ? 0 : 1, out.str()}};
  }
  const auto mistake = [](std::string text) { return ParsedOptions{.options = std::nullopt, .exit = {1, std::move(text)}}; };
  if (probe->parsed()) {
    options.command = AgentOptions::Command::kProbe;
    if (options.cni_socket.empty()) return mistake("--cni-socket is missing: where an agent shall answer\n");
  } else if (source == "kubernetes") {
    options.source = AgentOptions::Source::kKubernetes;
    if (leave->parsed() || verify->parsed()) return mistake("leave and verify are for a file of pods (--pods)\n");
    if (!options.agent.pods_file.empty()) return mistake("--pods and --source kubernetes: one of them, please\n");
    if (options.cleanup) return mistake("--cleanup is for a file of pods: with Kubernetes, take the labels away first\n");
    if (options.node.empty())
      return mistake("--node is missing: the name of this node (or set NODE_NAME, by the downward API)\n");
    options.rules.selectors = default_selectors();
    if (!selectors.empty()) {
      auto parsed = parse_selectors(selectors, "AMBIENT_ENABLEMENT_SELECTOR");
      if (!parsed) return mistake(parsed.error().text + "\n");
      options.rules.selectors = std::move(*parsed);
    }
    options.rules.excluded_namespaces = parse_names(excluded);
    if (!options.cni_conf_folder.empty() && options.cni_socket.empty()) {
      return mistake(
          "--cni-socket is missing: the plugin in --cni-conf-folder would have nobody to ask, and no pod would start\n");
    }
  } else if (options.agent.pods_file.empty()) {
    return {.options = std::nullopt,
            .exit = {1, "--pods is missing: name the YAML file of the pods to enrol (or set ZTUNNEL_AGENT_PODS)\n"}};
  }
  if (leave->parsed()) options.command = AgentOptions::Command::kLeave;
  if (verify->parsed()) options.command = AgentOptions::Command::kVerify;
  options.agent.verify_interval = duration(verify_interval);
  options.agent.leave_limit = duration(leave_limit);
  options.redirection.ebpf.proc = options.host_proc;
  if (backend->empty() && !native_nftables) options.redirection.backend = "iptables";
  options.agent.defaults.ipv6 = ipv6;
  options.agent.defaults.dns = dns;
  options.log_format = format == "json" ? log::Format::kJson : log::Format::kPlain;
  return {.options = std::move(options), .exit = {}};
}

}  // namespace zt::agent
