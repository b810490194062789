#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

// The container runtime's network configuration, and our plugin's entry in it. Pure functions (redirection contract §4.2).
namespace zt::agent {

inline constexpr std::string_view kPluginType = "ztunnel-cni";
inline constexpr size_t kMaxConfBytes = 1u << 20;

// What our entry says.
struct PluginEntry {
  std::string run_folder;  // on the host
  std::vector<std::string> excluded_namespaces;
  std::string pod_namespace;  // of the agent's own pods
};

// The configuration with our entry last, no other entry of ours, and none of an istio-cni that asks at our socket; keys and other plugins' entries stay as they are. A plain
// configuration (one plugin) becomes a list. Nothing: it is so already. kInvalidInput: no
// configuration, or of a version that our plugin does not know.
[[nodiscard]] Result<std::optional<std::string>> with_plugin(std::string_view conf, const PluginEntry& entry);
// Without our entries. Nothing: there is none. kInvalidInput.
[[nodiscard]] Result<std::optional<std::string>> without_plugin(std::string_view conf);

// Which of these file names the kubelet takes: the first, in order of bytes, that ends in .conf, .conflist or .json and whose text
// is a configuration. `is_valid` is asked in that order.
template <class IsValid>
[[nodiscard]] std::optional<std::string> primary_conf(std::vector<std::string> names, IsValid&& is_valid);

// Is this a configuration, or a list of at least one plugin?
[[nodiscard]] bool is_conf(std::string_view conf);

}  // namespace zt::agent

#include <algorithm>

namespace zt::agent {

template <class IsValid>
std::optional<std::string> primary_conf(std::vector<std::string> names, IsValid&& is_valid) {
  std::ranges::sort(names);
  for (const auto& name : names) {
    const auto ends = [&](std::string_view suffix) { return name.size() > suffix.size() && name.ends_with(suffix); };
    if ((ends(".conf") || ends(".conflist") || ends(".json")) && name.front() != '.' && is_valid(name)) return name;
  }
  return std::nullopt;
}

}  // namespace zt::agent
