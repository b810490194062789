#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "ztunnel/config/config.h"

// Text of one setting to its value. An error is the reason alone ("expected true or false"); the caller knows
// the variable.
namespace zt::ztunnel {

inline constexpr unsigned kMaxWorkerThreads = 1024;

Result<bool> parse_boolean(std::string_view text);  // exactly "true" or "false"
Result<uint64_t> parse_unsigned(std::string_view text, uint64_t low, uint64_t high);

// Kubernetes quantity: "2", "1.5", "500m", "64Mi", "1G", "1e3". The result is rounded up.
Result<uint64_t> parse_quantity(std::string_view text);

// ZTUNNEL_WORKER_THREADS (§0.3): "N", "0" = `cpus`, "P%".
Result<unsigned> parse_worker_threads(std::string_view text, unsigned cpus);

// "istiod.istio-system.svc:15012" → "https://istiod.istio-system.svc:15012". Only https, with host and port;
// no path.
Result<std::string> parse_control_address(std::string_view text);

Result<PodName> parse_workload_info(std::string_view text);      // "namespace/name/service-account"
Result<ListenAddress> parse_dns_address(std::string_view text);  // "localhost:PORT" or "ip:port"
Result<std::pair<std::string, std::string>> parse_header(std::string_view name, std::string_view value);
Result<std::string> parse_domain(std::string_view text);      // DNS name, lower case
Result<std::string> parse_plain_text(std::string_view text);  // printable, at most kMaxTextBytes
inline constexpr size_t kMaxTextBytes = 4096;

}  // namespace zt::ztunnel
