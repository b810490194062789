#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/address.h"

namespace zt::ztunnel {

// The node's resolv.conf, as far as the DNS proxy forwards with it (contract §9.5); limits as resolv.conf(5)
// has them.
struct ResolverConfig {
  static constexpr size_t kMaxNameServers = 8;
  static constexpr size_t kMaxSearchDomains = 32;

  std::vector<SocketAddress> name_servers;  // port 53
  std::vector<std::string> search;
  uint32_t ndots = 1;
  uint32_t timeout_seconds = 5;
  uint32_t attempts = 2;
};

inline constexpr const char* kResolvConf = "/etc/resolv.conf";

// Never fails: lines that mean nothing to us are passed over, as every resolver does.
[[nodiscard]] ResolverConfig parse_resolv_conf(std::string_view text);

}  // namespace zt::ztunnel
