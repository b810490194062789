// What the node says of its network: the plugin's configuration, the plugin's call of the agent, the node's configurations, and what control groups a
// process is in.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "agent/cni_install/conf_list.h"
#include "agent/cni_server.h"
#include "agent/kubernetes/pod_processes.h"
#include "cni/plugin.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  (void)zt::agent::parse_cni_request(text);
  (void)zt::agent::pod_of_cgroup(text);
  const auto changed = zt::agent::with_plugin(text, {.run_folder = "/run", .excluded_namespaces = {}, .pod_namespace = "ns"});
  if (changed && *changed &&
      zt::agent::with_plugin(**changed, {.run_folder = "/run", .excluded_namespaces = {}, .pod_namespace = "ns"})->has_value()) {
    __builtin_trap();  // put in once, it is there
  }
  (void)zt::agent::without_plugin(text);
  const auto env = [](const char* name) -> std::optional<std::string> {
    if (std::string_view(name) == "CNI_COMMAND") return "ADD";
    return "K8S_POD_NAME=p;K8S_POD_NAMESPACE=n";
  };
  (void)zt::cni::call(env, text, [](const std::string&, const std::string&) { return zt::cni::AgentAnswer{200, ""}; });
  return 0;
}
