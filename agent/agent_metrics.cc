#include "agent/agent_metrics.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <string_view>

#include "base/linux/sockets.h"
#include "mesh/reason.h"

namespace zt::agent {

namespace {

class Text {
 public:
  void family(std::string_view name, std::string_view type, std::string_view help) {
    name_ = name;
    out_ += fmt::format("# HELP {0} {2}\n# TYPE {0} {1}\n", name, type, help);
  }
  // `labels` as they are written, or none.
  void sample(std::string_view labels, uint64_t value) {
    out_ += labels.empty() ? fmt::format("{} {}\n", name_, value) : fmt::format("{}{{{}}} {}\n", name_, labels, value);
  }
  void gauge(std::string_view name, std::string_view help, uint64_t value) {
    family(name, "gauge", help);
    sample("", value);
  }
  void counter(std::string_view name, std::string_view help, uint64_t value) {
    family(name, "counter", help);
    sample("", value);
  }
  std::string take() { return std::move(out_); }

 private:
  std::string_view name_;
  std::string out_;
};

}  // namespace

std::string render_metrics(const AgentMetrics& m) {
  Text text;
  text.family("nodeagent_reconcile_events_total", "counter", "Pods of the node that came, changed or went.");
  text.sample(R"(type="add")", m.source.added);
  text.sample(R"(type="update")", m.source.changed);
  text.sample(R"(type="delete")", m.source.gone);
  text.family("istio_cni_plugin_requests_total", "counter", "Calls of the CNI plugin that were answered, by HTTP status.");
  for (const auto& [status, count] : m.plugin_answers) text.sample(fmt::format(R"(response_code="{}")", status), count);
  text.family("istio_cni_installs_total", "counter", "Times that the CNI plugin was put onto the node, or could not be.");
  text.sample(R"(result="SUCCESS")", m.installs.done);
  text.sample(R"(result="COPY_BINARIES_FAILURE")", m.installs.program_failures);
  text.sample(R"(result="CREATE_CNI_CONFIG_FAILURE")", m.installs.entry_failures);
  text.gauge("istio_cni_install_ready", "Whether the CNI plugin is on the node.", m.installed ? 1 : 0);
  text.gauge("ztunnel_connected", "Proxies that are connected.", m.proxies);
  text.family("ztunnel_agent_backend_info", "gauge", "How pods are redirected.");
  text.sample(fmt::format(R"(backend="{}")", m.backend), 1);
  text.family("ztunnel_agent_pods", "gauge", "Pods by how they stand.");
  text.sample(R"(state="enrolled")", m.pods.enrolled);
  text.sample(R"(state="failed")", m.pods.failed);
  text.sample(R"(state="waiting")", m.pods.waiting);
  text.sample(R"(state="leaving")", m.pods.leaving);
  text.counter("ztunnel_agent_repairs_total", "Pods whose redirection somebody had changed and that were repaired.",
               m.pods.repairs);
  text.counter("ztunnel_agent_failed_removals_total", "Times that the redirection of a pod could not be removed.",
               m.pods.failed_removals);
  text.counter("ztunnel_agent_patch_failures_total", "Annotations that the API did not take.", m.source.patch_failures);
  text.counter("ztunnel_agent_api_failures_total", "Lists and watches of the API that failed.", m.source.api_failures);
  text.gauge("ztunnel_agent_probed_addresses", "Pods' addresses at which kubelet's probes go past the proxy.",
             m.probes.addresses);
  text.counter("ztunnel_agent_probe_repairs_total", "Times that the node's rules for probes were gone and were put back.",
               m.probes.repairs);
  return text.take();
}

Result<UniqueFd> listen_metrics(uint16_t port) {
  constexpr int kBacklog = 16;
  const auto failed = [&] { return fail_errno(Reason::kIo, fmt::format("cannot listen on port {} for metrics", port)); };
  // IPv4 comes to it as well, unless the node has no IPv6.
  const auto listen_on = [&](const auto& address, int family) -> Result<UniqueFd> {
    ZT_ASSIGN(UniqueFd socket, make_socket(nullptr, family, SOCK_STREAM));
    set_int(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1);
    if (family == AF_INET6) set_int(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
    if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return failed();
    if (::listen(socket.get(), kBacklog) != 0) return failed();
    return socket;
  };
  sockaddr_in6 any6{};
  any6.sin6_family = AF_INET6;
  any6.sin6_port = htons(port);
  if (auto both = listen_on(any6, AF_INET6)) return both;
  sockaddr_in any4{};
  any4.sin_family = AF_INET;
  any4.sin_port = htons(port);
  return listen_on(any4, AF_INET);
}

}  // namespace zt::agent
