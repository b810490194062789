#pragma once
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "kubernetes/objects.h"
#include "redirection/redirector.h"

// Which pods of the node are in the mesh, and how: functions of what the API says and of nothing else (redirection contract §1).
namespace zt::agent {

inline constexpr std::string_view kModeLabel = "istio.io/dataplane-mode";
inline constexpr std::string_view kSidecarAnnotation = "sidecar.istio.io/status";
inline constexpr std::string_view kBypassInboundAnnotation = "ambient.istio.io/bypass-inbound-capture";
inline constexpr std::string_view kDnsAnnotation = "ambient.istio.io/dns-capture";
inline constexpr std::string_view kVirtualInterfacesAnnotation = "istio.io/reroute-virtual-interfaces";
// What goes around the proxy (redirection::Exclusions): lists, separated by commas, of ports and ranges of them, and of addresses. Of our own:
// upstream has no such thing for ambient, and a pod that still bears a sidecar's annotations is not to lose its encryption by them.
inline constexpr std::string_view kExcludeInboundPortsAnnotation = "ambient.istio.io/exclude-inbound-ports";
inline constexpr std::string_view kExcludeInboundRangesAnnotation = "ambient.istio.io/exclude-inbound-ip-ranges";
inline constexpr std::string_view kExcludeOutboundPortsAnnotation = "ambient.istio.io/exclude-outbound-ports";
inline constexpr std::string_view kExcludeOutboundRangesAnnotation = "ambient.istio.io/exclude-outbound-ip-ranges";
// What the agent says of a pod: istiod tells others to use the tunnel to it exactly while this is "enabled".
inline constexpr std::string_view kStatusAnnotation = "ambient.istio.io/redirection";
// Of the API's mirror of a static pod: what kubelet calls it.
inline constexpr std::string_view kMirrorAnnotation = "kubernetes.io/config.mirror";
inline constexpr std::string_view kStatusEnabled = "enabled";
inline constexpr std::string_view kStatusPending = "pending";

// Kubernetes' LabelSelector: all of its conditions must hold; none hold for everything.
struct LabelSelector {
  enum class Operator : uint8_t { kIn, kNotIn, kExists, kDoesNotExist };
  struct Condition {
    std::string key;
    Operator op = Operator::kExists;
    std::set<std::string, std::less<>> values = {};
  };
  std::vector<Condition> conditions;
  [[nodiscard]] bool matches(const kubernetes::Labels& labels) const;
};

// A pod is selected by the first of these that matches both it and its namespace.
struct EnablementSelector {
  LabelSelector pod, ns;
};

struct SelectionRules {
  std::vector<EnablementSelector> selectors;
  std::set<std::string, std::less<>> excluded_namespaces;
  std::string system_namespace = "istio-system";  // where the proxies are, which are never in the mesh themselves
};

// The chart's: the pod says "ambient", or its namespace does and the pod does not say "none".
[[nodiscard]] std::vector<EnablementSelector> default_selectors();
// AMBIENT_ENABLEMENT_SELECTOR, a YAML list of {podSelector, namespaceSelector}. `name` goes before the place in errors. kInvalidInput.
[[nodiscard]] Result<std::vector<EnablementSelector>> parse_selectors(std::string_view text, const std::string& name);
// EXCLUDE_NAMESPACES and the like: words, separated by commas.
[[nodiscard]] std::set<std::string, std::less<>> parse_names(std::string_view text);

enum class Wish : uint8_t {
  kLeaveAlone,  // cannot be said yet: it stays as it is
  kOut,         // not in the mesh; what it had of it goes
  kIn,
  kGone,  // has ended, or is about to be forgotten: its namespace goes by itself
};
struct Verdict {
  Wish wish = Wish::kLeaveAlone;
  std::string_view why;  // for people
};
// `ns`: the pod's namespace, null if it is not known.
[[nodiscard]] Verdict judge(const kubernetes::Object& pod, const kubernetes::Object* ns, const SelectionRules& rules);

struct Overrides {
  redirection::RedirectionOptions options;
  std::vector<std::string> warnings;  // annotations that make no sense, and are as good as absent
};
// What the pod's annotations change of the node's options.
[[nodiscard]] Overrides overrides_of(const kubernetes::Object& pod, const redirection::RedirectionOptions& defaults);

}  // namespace zt::agent
