#include "agent/agent_metrics.h"

#include <catch2/catch.hpp>

using namespace zt::agent;
using Catch::Contains;

TEST_CASE("The agent's metrics have the names that istio-cni's agent has, and say what is so") {
  AgentMetrics metrics;
  metrics.pods.enrolled = 3;
  metrics.pods.repairs = 2;
  metrics.proxies = 1;
  metrics.backend = "nftables";
  metrics.source.added = 4;
  metrics.plugin_answers = {{200, 5}, {500, 1}};
  metrics.installs.done = 2;
  metrics.installed = true;
  const std::string text = render_metrics(metrics);
  for (const char* line :
       {"nodeagent_reconcile_events_total{type=\"add\"} 4\n", "istio_cni_plugin_requests_total{response_code=\"200\"} 5\n",
        "istio_cni_plugin_requests_total{response_code=\"500\"} 1\n", "istio_cni_installs_total{result=\"SUCCESS\"} 2\n",
        "istio_cni_install_ready 1\n", "ztunnel_connected 1\n", "ztunnel_agent_backend_info{backend=\"nftables\"} 1\n",
        "ztunnel_agent_pods{state=\"enrolled\"} 3\n", "ztunnel_agent_repairs_total 2\n"}) {
    CHECK_THAT(text, Contains(line));
  }
  // Each family is announced once, before its samples.
  size_t samples = 0, types = 0;
  for (size_t at = 0; at < text.size(); at = text.find('\n', at) + 1) (text[at] == '#' ? types : samples) += 1;
  CHECK(types == 2 * 13);
  CHECK(samples == 21);
}
