#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/result.h"

namespace zt::kubernetes {

// Where the API server is and how the two prove themselves to each other.
struct ClusterConfig {
  std::string host;  // a name or an address, IPv6 without brackets
  uint16_t port = 443;
  // Both are read again for every request: kubelet rotates the one, an administrator the other.
  std::string token_file = {};
  std::string ca_file = {};

  [[nodiscard]] std::string url() const;  // "https://host:port", for people
};

inline constexpr const char* kServiceAccountFolder = "/var/run/secrets/kubernetes.io/serviceaccount";
inline constexpr size_t kMaxTokenBytes = 64 * 1024;
inline constexpr size_t kMaxCaBytes = 1024 * 1024;

// What a pod of the cluster finds: KUBERNETES_SERVICE_HOST and _PORT, and the service account's folder (another one with
// `folder`). `env`: a variable, or nothing if it is not set. kInvalidInput, naming what is missing.
using Environment = std::function<std::optional<std::string>(const char* name)>;
[[nodiscard]] Result<ClusterConfig> in_cluster(const Environment& env, const std::string& folder = kServiceAccountFolder);

}  // namespace zt::kubernetes
