#pragma once
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/address.h"
#include "base/credential_source.h"
#include "base/log.h"
#include "base/result.h"
#include "mesh/pod_name.h"
#include "ztunnel/config/config_resolver.h"
#include "ztunnel/config/environment.h"

namespace zt {
class JsonWriter;
}

// The whole configuration as one immutable value (contract §11). Names and defaults that Istio's chart sets
// keep the peer's spelling, typos included; settings of our own begin with ZT_.
namespace zt::ztunnel {

enum class ProxyMode : uint8_t { kShared, kDedicated };

// Listens on one literal address, or on 127.0.0.1 and (if IPv6 is there) ::1.
struct LocalhostPort {
  uint16_t port = 0;
};
using ListenAddress = std::variant<SocketAddress, LocalhostPort>;

struct GeneralConfig {
  bool proxy = true;      // ENABLE_PROXY
  bool dns_proxy = true;  // unless ISTIO_META_DNS_CAPTURE says otherwise
  ProxyMode mode = ProxyMode::kShared;
  std::optional<PodName> dedicated_workload;  // PROXY_WORKLOAD_INFO
  std::optional<PodName> own_pod;             // POD_NAME, POD_NAMESPACE, SERVICE_ACCOUNT: the self listener (§1.4)
  std::string trust_domain = "cluster.local";
  std::string network;
  std::optional<std::string> node_name;
  std::string cluster_id = "Kubernetes";
  std::string cluster_domain = "cluster.local";
  std::optional<std::string> preferred_service_namespace;
  bool localhost_app_tunnel = true;
  bool local_direct = true;  // pods of this node reach each other without a tunnel
  unsigned worker_threads = 2;
  std::chrono::seconds drain_deadline{5};
  std::string arguments;

  // "spiffe://…" of own_pod, for people: certificates use the trust domain that the control plane says.
  [[nodiscard]] std::optional<std::string> own_identity() const;
};

struct ListenConfig {
  bool ipv6 = true;  // IPV6_ENABLED: wildcard is [::], otherwise 0.0.0.0
  ListenAddress admin = LocalhostPort{15000};
  ListenAddress stats;
  ListenAddress readiness;
  SocketAddress inbound, inbound_plaintext, outbound;
  ListenAddress dns = LocalhostPort{15053};
  std::optional<SocketAddress> socks5;
  std::vector<uint16_t> illegal_ports;  // §1.7
};

struct ControlPlaneConfig {
  std::optional<std::string> xds_address;  // "https://host:port"; none: no control plane
  Roots xds_root;
  std::optional<std::string> alt_xds_hostname;
  HeaderList xds_headers;
  bool xds_on_demand = false;
  std::optional<std::string> local_xds_path;
  std::optional<std::string> local_xds;  // inline YAML

  std::optional<std::string> ca_address;  // none: embedded CA
  Roots ca_root;
  std::optional<std::string> alt_ca_hostname;
  HeaderList ca_headers;
  std::chrono::seconds secret_ttl{86400};
  bool fake_ca = false;
  std::optional<std::string> embedded_ca_dir;

  Token token;
};

// What the control plane is told about us (§6.2).
struct NodeConfig {
  std::string id;                                     // "ztunnel~IP~POD.NS~NS.svc.cluster.local"
  std::map<std::string, std::string> metadata;        // string members, overlaid by proxy metadata
  std::map<std::string, std::string> json;            // ISTIO_METAJSON_*: valid JSON texts, overlay the strings
  std::map<std::string, std::string> proxy_metadata;  // ProxyConfig.proxyMetadata and ISTIO_META_*, without prefix
};

struct SocketConfig {
  std::optional<bool> original_source;  // ENABLE_ORIG_SRC; none: best effort
  std::optional<uint32_t> mark = 1337;  // PACKET_MARK
  bool keepalive = true;
  std::chrono::seconds keepalive_time{180};
  std::chrono::seconds keepalive_interval{180};
  uint32_t keepalive_retries = 9;
  bool user_timeout = false;
  std::string local_congestion_control = "cubic";  // for legs that stay on the node; "" = the system's
};

struct InpodConfig {
  std::string uds = "/var/run/ztunnel/ztunnel.sock";
  bool port_reuse = true;
  bool hand_over = true;  // live connections, to the process that replaces us
  // Where the two meet. None: beside `uds` if shared, nowhere if dedicated. Set: they are in one network namespace, and share its ports.
  std::optional<std::string> hand_over_path;
};

struct TunnelConfig {
  uint32_t stream_window = 4u << 20;
  uint32_t connection_window = 16u << 20;
  uint32_t frame_size = 1u << 20;
  uint32_t max_streams_per_tunnel = 100;
  std::chrono::seconds idle_release{300};
  uint32_t tunnels_per_key = 4;
  std::chrono::milliseconds handshake_timeout{10'000};
  std::chrono::milliseconds connect_answer_timeout{20'000};
  std::chrono::milliseconds first_certificate_timeout{10'000};
  // Bytes that are held for others, the whole process. None: it follows the container's memory limit, memory_budget().
  std::optional<uint64_t> memory_budget;
  bool response_baggage = true;  // ENABLE_RESPONSE_BAGGAGE
};

// What is set, else a quarter of `memory_limit` (bytes; none: the container has no limit), from 8 MiB to 256 MiB: the rest is for
// what the budget does not count: the program itself, what is known of the mesh, and the kernel's socket buffers, which count against the
// container too.
[[nodiscard]] uint64_t memory_budget(const TunnelConfig& tunnel, std::optional<uint64_t> memory_limit);

// What a source, a pod, or all of them together may have of us. Who is refused is told so by a Reason, and counted in zt_limit_reached.
struct LimitsConfig {
  // In flight: accepted, and the handshake not ended.
  uint32_t handshakes_per_source = 256;  // source address and pod
  uint32_t handshakes_per_pod = 1024;
  uint32_t handshakes = 4096;
  uint32_t tunnels_per_pod = 10'000;  // that peers opened to it
  uint32_t connections_per_pod = 100'000;
  uint32_t lookups_per_pod = 1024;                 // on demand, that wait for the control plane
  std::chrono::milliseconds send_timeout{60'000};  // how long a tunnel's peer may take nothing of what there is for it
};

enum class CompliancePolicy : uint8_t { kNone, kPqc };

struct TlsConfig {
  CompliancePolicy compliance = CompliancePolicy::kNone;
  bool tls12 = false;
  bool fips = false;
  bool prefer_aes128 = false;
  std::string aead = "auto";
  std::vector<std::string> trust_domain_aliases;  // other names of our own, in certificates only
  std::optional<std::string> crl_path;
};

enum class UnknownPolicy : uint8_t { kDeny, kSkip };

struct PolicyConfig {
  bool info_logging = false;                     // AUTHZ_POLICY_INFO_LOGGING
  UnknownPolicy unknown = UnknownPolicy::kDeny;  // a workload names a policy that has not come in time
  std::chrono::milliseconds unknown_wait{2'000};
};

// Before what RUST_LOG says. As the peer's, whose DNS server is noisy: tools show it (contract §10.5).
inline constexpr std::string_view kDefaultLogFilter = "hickory_server::server=off,info";

struct TelemetryConfig {
  log::Format log_format = log::Format::kPlain;
  std::string log_filter;  // complete, for log::set_filter
  std::string istio_version = "unknown";
  uint32_t series_limit = 10'000;
  uint32_t series_per_identity = 500;
  std::chrono::seconds series_idle{900};
  std::vector<std::string> labels;  // of traffic metrics; empty: all
};

struct Config {
  GeneralConfig general;
  ListenConfig listen;
  ControlPlaneConfig control;
  NodeConfig node;
  SocketConfig socket;
  InpodConfig inpod;
  TunnelConfig tunnel;
  LimitsConfig limits;
  TlsConfig tls;
  PolicyConfig policy;
  TelemetryConfig telemetry;
  ResolverConfig resolver;
  std::vector<std::string> warnings;  // sentences to log once logging runs
};

// Pure. An error names the variable: `invalid env var NAME=VALUE (reason)`.
Result<Config> parse_config(const Environment& environment);

// What this build can do; the program's main says.
struct BuildFeatures {
  bool xds = false;
  bool ca_client = false;
  bool on_demand = false;
  bool dns_proxy = false;
  bool socks5 = false;
  bool crl = false;
  bool tls12 = false;
  bool dedicated_mode = false;
};
// A sentence for each thing that the configuration asks for and this build cannot do; never ignore them.
[[nodiscard]] std::vector<std::string> unsupported(const Config& config, const BuildFeatures& features);

// Every variable with default and meaning, for `ztunnel help`.
[[nodiscard]] std::string config_help();

// The effective configuration without secrets: as YAML for the log, as JSON for config_dump (contract §10.6).
[[nodiscard]] std::string config_yaml(const Config& config);
void write_config_json(JsonWriter& json, const Config& config);

}  // namespace zt::ztunnel
