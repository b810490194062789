#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "base/result.h"
#include "ztunnel/config/environment.h"

namespace zt::ztunnel {

// Istio's ProxyConfig, as far as a node proxy reads it (contract §11.1).
struct ProxyConfig {
  std::optional<std::string> discovery_address;
  std::optional<uint16_t> admin_port;
  std::optional<uint16_t> stats_port;
  std::optional<uint32_t> concurrency;
  std::map<std::string, std::string> metadata;  // proxyMetadata; ISTIO_META_ prefixes removed
};

inline constexpr const char* kMeshConfigPath = "./etc/istio/config/mesh";
inline constexpr size_t kMaxMetadataEntries = 512;

// defaultConfig of the mesh config file, overlaid by PROXY_CONFIG. Neither need exist.
Result<ProxyConfig> read_proxy_config(const Environment& environment);

}  // namespace zt::ztunnel
