#pragma once
#include <cstdint>
#include <string_view>

// The values that the pod's rules and the proxy agree on (redirection contract §2.1). They are the peers' as
// well: a pod may be handed from one agent, or one proxy, to another.
namespace zt::redirection {

inline constexpr uint32_t kProxyMark = 0x539;  // on every socket of the proxy in a pod: exempt from capture
inline constexpr uint32_t kLoopMark = 0x111;   // on connections that the proxy opened with a client's address
inline constexpr uint32_t kMarkMask = 0xfff;
inline constexpr uint32_t kRouteTable = 100;
inline constexpr uint32_t kRulePriority = 32764;

inline constexpr uint16_t kOutboundPort = 15001;
inline constexpr uint16_t kInboundPlaintextPort = 15006;
inline constexpr uint16_t kInboundHbonePort = 15008;
inline constexpr uint16_t kDnsPort = 15053;

// What the node agent gives kubelet's probes as their source address: neither they nor the answers are
// captured.
inline constexpr std::string_view kProbeAddressV4 = "169.254.7.127";
inline constexpr std::string_view kProbeAddressV6 = "fd16:9254:7127:1337:ffff:ffff:ffff:ffff";

}  // namespace zt::redirection
