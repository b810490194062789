#include "kubernetes/cluster_config.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "mesh/reason.h"

namespace zt::kubernetes {

std::string ClusterConfig::url() const {
  return host.find(':') == std::string::npos ? fmt::format("https://{}:{}", host, port)
                                             : fmt::format("https://[{}]:{}", host, port);
}

Result<ClusterConfig> in_cluster(const Environment& env, const std::string& folder) {
  const auto host = env("KUBERNETES_SERVICE_HOST");
  if (!host || host->empty()) {
    return fail(
        Reason::kInvalidInput,
        "KUBERNETES_SERVICE_HOST is not set: in a pod of a cluster kubelet sets it. Outside of one use a file of pods (--pods)");
  }
  std::string name = *host;
  if (name.size() > 2 && name.front() == '[' && name.back() == ']') name = name.substr(1, name.size() - 2);
  const auto allowed = [](char c) { return is_alnum(c) || c == '.' || c == '-' || c == ':'; };
  if (name.size() > 253 || !std::ranges::all_of(name, allowed)) {
    return fail(Reason::kInvalidInput, fmt::format("KUBERNETES_SERVICE_HOST: '{}' is neither a host name nor an address", *host));
  }
  uint16_t port = 443;
  if (const auto text = env("KUBERNETES_SERVICE_PORT"); text && !text->empty()) {
    const auto number = whole_number<uint16_t>(*text);
    if (!number || *number == 0)
      return fail(Reason::kInvalidInput, fmt::format("KUBERNETES_SERVICE_PORT: '{}' is no port", *text));
    port = *number;
  }
  return ClusterConfig{.host = name, .port = port, .token_file = folder + "/token", .ca_file = folder + "/ca.crt"};
}

}  // namespace zt::kubernetes
