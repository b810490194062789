#include "ztunnel/config/config_settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>

#include "base/duration.h"
#include "base/text.h"
#include "mesh/reason.h"
#include "mesh/spiffe.h"
#include "ztunnel/config/config_values.h"

namespace zt::ztunnel {
namespace {

using namespace std::chrono_literals;

constexpr uint64_t kMaxWindow = 0x7fffffff;  // RFC 9113 §6.9.1
constexpr uint64_t kFirstWindow = 65535;     // RFC 9113 §6.5.2
constexpr uint64_t kMinFrame = 16384;        // RFC 9113 §4.2
constexpr uint64_t kMaxFrame = 16777215;
constexpr int64_t kYearMs = 365 * int64_t{86'400'000};
constexpr int64_t kCenturyMs = 100 * kYearMs;    // for what may as well be for ever
constexpr int64_t kMaxKeepaliveMs = 32'767'000;  // the kernel's MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL

// Setters are made from a field (a lambda that returns a reference to it) and its limits.
#define ZT_FIELD(path) [](Config& config) -> auto& { return config.path; }

template <auto Field>
Result<> set_boolean(Config& config, std::string_view text) {
  ZT_ASSIGN(Field(config), parse_boolean(text));
  return {};
}

// For variables of which the peer only ever asks whether they are "true".
template <auto Field>
Result<> set_if_true(Config& config, std::string_view text) {
  Field(config) = text == "true";
  return {};
}

template <auto Field, uint64_t Low, uint64_t High>
Result<> set_number(Config& config, std::string_view text) {
  using Value = std::remove_reference_t<decltype(Field(config))>;
  ZT_ASSIGN(const uint64_t value, parse_unsigned(text, Low, High));
  Field(config) = static_cast<Value>(value);
  return {};
}

// What is outside of the bounds is refused; or, for settings of the peer, which lets them have any value, the nearest bound is
// taken with a warning: a chart that works there must not stop the node here.
enum class Outside : uint8_t { kRefuse, kTakeMost, kTakeNearest };

std::string seconds_text(int64_t ms) { return ms % 1000 == 0 ? fmt::format("{}s", ms / 1000) : fmt::format("{}ms", ms); }

// Bounds in milliseconds: std::chrono::duration is no structural type.
template <auto Field, int64_t LowMs, int64_t HighMs, Outside outside = Outside::kRefuse>
Result<> set_duration(Config& config, std::string_view text) {
  using Value = std::remove_reference_t<decltype(Field(config))>;
  constexpr std::chrono::nanoseconds kLow = std::chrono::milliseconds(LowMs);
  constexpr std::chrono::nanoseconds kHigh = std::chrono::milliseconds(HighMs);
  ZT_ASSIGN(auto value, parse_duration(text));
  if (value > kHigh && outside != Outside::kRefuse) {
    config.warnings.push_back(fmt::format("is more than can be; it is taken for {}", seconds_text(HighMs)));
    value = kHigh;
  } else if (value < kLow && outside == Outside::kTakeNearest) {
    config.warnings.push_back(fmt::format("is less than can be; it is taken for {}", seconds_text(LowMs)));
    value = kLow;
  }
  if (value < kLow || value > kHigh) {
    return fail(Reason::kInvalidInput,
                fmt::format("expected a duration from {} to {}", seconds_text(LowMs), seconds_text(HighMs)));
  }
  Field(config) = std::chrono::ceil<Value>(value);
  return {};
}

Result<> set_keepalive_retries(Config& config, std::string_view text) {
  constexpr uint64_t kMost = 127;  // the kernel's MAX_TCP_KEEPCNT
  ZT_ASSIGN(const uint64_t value, parse_unsigned(text, 1, std::numeric_limits<uint32_t>::max()));
  if (value > kMost) config.warnings.push_back(fmt::format("is more than can be; it is taken for {}", kMost));
  config.socket.keepalive_retries = static_cast<uint32_t>(std::min(value, kMost));
  return {};
}

// 0 leaves the lifetime to istiod, as with the peer. What is shorter than it takes to renew makes no sense.
Result<> set_secret_ttl(Config& config, std::string_view text) {
  ZT_ASSIGN(const auto value, parse_duration(text));
  if (value != 0s) return set_duration<ZT_FIELD(control.secret_ttl), 10'000, kCenturyMs, Outside::kTakeMost>(config, text);
  config.control.secret_ttl = 0s;
  return {};
}

// A window below what HTTP/2 begins with (RFC 9113 §6.5.2) is what it begins with.
template <auto Field>
Result<> set_window(Config& config, std::string_view text) {
  ZT_ASSIGN(const uint64_t value, parse_unsigned(text, 0, kMaxWindow));
  if (value < kFirstWindow) config.warnings.push_back(fmt::format("is less than can be; it is taken for {}", kFirstWindow));
  Field(config) = static_cast<uint32_t>(std::max(value, kFirstWindow));
  return {};
}

template <auto Field, uint64_t Low, uint64_t High>
Result<> set_bytes(Config& config, std::string_view text) {
  ZT_ASSIGN(const uint64_t value, parse_quantity(text));
  if (value < Low || value > High) {
    return fail(Reason::kInvalidInput, fmt::format("expected {}Mi to {}Mi", Low >> 20, High >> 20));
  }
  Field(config) = value;
  return {};
}

template <auto Field>
Result<> set_text(Config& config, std::string_view text) {
  ZT_ASSIGN(Field(config), parse_plain_text(text));
  return {};
}

// Empty means not set.
template <auto Field>
Result<> set_optional_text(Config& config, std::string_view text) {
  Field(config).reset();
  if (text.empty()) return {};
  ZT_ASSIGN(Field(config), parse_plain_text(text));
  return {};
}

// Empty means not set. A little less than such an address can be: while it is made it has a suffix.
template <auto Field>
Result<> set_socket_path(Config& config, std::string_view text) {
  constexpr size_t kMost = 90;
  ZT_TRY(set_optional_text<Field>(config, text));
  if (text.empty() || (text.starts_with('/') && text.size() <= kMost)) return {};
  return fail(Reason::kInvalidInput, fmt::format("expected an absolute path of at most {} bytes", kMost));
}

template <auto Field>
Result<> set_domain(Config& config, std::string_view text) {
  ZT_ASSIGN(Field(config), parse_domain(text));
  return {};
}

Result<> set_mode(Config& config, std::string_view text) {
  if (text == "shared") {
    config.general.mode = ProxyMode::kShared;
  } else if (text == "dedicated") {
    config.general.mode = ProxyMode::kDedicated;
  } else {
    return fail(Reason::kInvalidInput, "expected shared or dedicated");
  }
  return {};
}

Result<> set_workload_info(Config& config, std::string_view text) {
  ZT_ASSIGN(config.general.dedicated_workload, parse_workload_info(text));
  return {};
}

Result<> set_original_source(Config& config, std::string_view text) {
  ZT_ASSIGN(config.socket.original_source, parse_boolean(text));
  return {};
}

Result<> set_trust_domain_aliases(Config& config, std::string_view text) {
  if (text.empty()) return {};
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    const std::string_view name = text.substr(at, comma - at);
    at = comma + 1;
    if (identity_part_fault(name) != nullptr)
      return fail(Reason::kInvalidInput, fmt::format("\"{}\" is no trust domain; expected names between commas", name));
    config.tls.trust_domain_aliases.emplace_back(name);
  }
  return {};
}

Result<> set_compliance(Config& config, std::string_view text) {
  if (text == "pqc") {
    config.tls.compliance = CompliancePolicy::kPqc;
  } else if (text == "fips-140-2") {
    config.tls.fips = true;
  } else if (!text.empty()) {
    config.warnings.emplace_back("means nothing to this proxy");
  }
  return {};
}

Result<> set_log_format(Config& config, std::string_view text) {
  config.telemetry.log_format = text == "json" ? log::Format::kJson : log::Format::kPlain;
  if (text != "json" && text != "plain" && !text.empty()) {
    config.warnings.emplace_back("is neither plain nor json; plain it is");
  }
  return {};
}

Result<> set_aead(Config& config, std::string_view text) {
  for (const std::string_view known : {"auto", "evp", "ipsec-mb", "vaes"}) {
    if (text == known) {
      config.tls.aead = text;
      return {};
    }
  }
  return fail(Reason::kInvalidInput, "expected auto, evp, ipsec-mb or vaes");
}

Result<> set_unknown_policy(Config& config, std::string_view text) {
  if (text != "deny" && text != "skip") return fail(Reason::kInvalidInput, "expected deny or skip");
  config.policy.unknown = text == "deny" ? UnknownPolicy::kDeny : UnknownPolicy::kSkip;
  return {};
}

Result<> set_labels(Config& config, std::string_view text) {
  config.telemetry.labels.clear();
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    const std::string_view name = trim(text.substr(0, comma));
    text.remove_prefix(std::min(comma + 1, text.size()));
    if (name.empty() || name.find_first_not_of("abcdefghijklmnopqrstuvwxyz_") != std::string_view::npos)
      return fail(Reason::kInvalidInput, fmt::format("\"{}\" is no label; expected names between commas", name));
    config.telemetry.labels.emplace_back(name);
  }
  return {};
}

constexpr size_t kMaxCongestionControlName = 15;  // TCP_CA_NAME_MAX - 1

Result<> set_congestion_control(Config& config, std::string_view text) {
  const bool good = text.size() <= kMaxCongestionControlName &&
                    text.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_-") == std::string_view::npos;
  if (!good) return fail(Reason::kInvalidInput, "expected the name of a congestion control, or nothing for the system's");
  config.socket.local_congestion_control = text;
  return {};
}

constexpr Setting kSettings[] = {
    // What it does
    {"ENABLE_PROXY", "true", "capture and tunnel traffic", set_boolean<ZT_FIELD(general.proxy)>, false, "true or false"},
    {"PROXY_MODE", "shared", "shared (all pods of the node) or dedicated (one workload)", set_mode},
    {"PROXY_WORKLOAD_INFO", "", "namespace/name/service-account of a dedicated proxy's workload", set_workload_info},
    {"NETWORK", "", "network this node belongs to", set_text<ZT_FIELD(general.network)>},
    {"NODE_NAME", "", "node whose workloads are ours", set_optional_text<ZT_FIELD(general.node_name)>},
    {"CLUSTER_ID", "Kubernetes", "cluster this node belongs to; ISTIO_META_CLUSTER_ID goes first"},
    {"CLUSTER_DOMAIN", "cluster.local", "DNS suffix of the cluster", set_domain<ZT_FIELD(general.cluster_domain)>},
    {"TRUST_DOMAIN", "cluster.local", "trust domain of our own identity, for people", set_domain<ZT_FIELD(general.trust_domain)>},
    {"POD_NAME", "", "own pod, for the node id and the listener on our own address"},
    {"POD_NAMESPACE", "", "namespace of the own pod"},
    {"SERVICE_ACCOUNT", "", "service account of the own pod"},
    {"INSTANCE_IP", "1.1.1.1", "own address, for the node id"},
    {"PREFERED_SERVICE_NAMESPACE", "", "DNS: namespace whose service wins when several have the name",
     set_optional_text<ZT_FIELD(general.preferred_service_namespace)>},
    {"LOCALHOST_APP_TUNNEL", "true", "reach tunnelling applications over loopback",
     set_boolean<ZT_FIELD(general.localhost_app_tunnel)>, false, "true or false"},
    {"ZT_LOCAL_DIRECT", "true", "two pods of this node reach each other without a tunnel",
     set_boolean<ZT_FIELD(general.local_direct)>, false, "true or false"},
    {"IPV6_ENABLED", "true", "listen on and answer with IPv6", set_boolean<ZT_FIELD(listen.ipv6)>, false, "true or false"},
    {"UNSTABLE_ENABLE_SOCKS5", "false", "SOCKS5 listener on 127.0.0.1:15080 of each pod", nullptr, false, "true or false"},

    // Where workloads, services and policies come from
    {"XDS_ADDRESS", "(istiod)", "control plane, host:port; empty: none"},
    {"XDS_ROOT_CA", "./var/run/secrets/istio/root-cert.pem", "roots of the control plane: path, SYSTEM, or PEM text"},
    {"ALT_XDS_HOSTNAME", "", "another name that the control plane's certificate may have",
     set_optional_text<ZT_FIELD(control.alt_xds_hostname)>},
    {"XDS_HEADER_*", "", "additional gRPC metadata for the control plane", nullptr, true},
    {"XDS_ON_DEMAND", "false", "ask for single workloads instead of all", set_boolean<ZT_FIELD(control.xds_on_demand)>, false,
     "true or false"},
    {"LOCAL_XDS_PATH", "", "YAML file of workloads, services and policies", set_optional_text<ZT_FIELD(control.local_xds_path)>},
    {"LOCAL_XDS", "", "the same as text"},

    // Certificates
    {"CA_ADDRESS", "(istiod)", "certificate authority, host:port"},
    {"CA_ROOT_CA", "./var/run/secrets/istio/root-cert.pem", "roots of the certificate authority: path, SYSTEM, or PEM text"},
    {"ALT_CA_HOSTNAME", "", "another name that the certificate authority's certificate may have",
     set_optional_text<ZT_FIELD(control.alt_ca_hostname)>},
    {"CA_HEADER_*", "", "additional gRPC metadata for the certificate authority", nullptr, true},
    {"AUTH_TOKEN", "(./var/run/secrets/tokens/istio-token, if it exists)", "token for both: path, or its text", nullptr, true},
    {"SECRET_TTL", "24h", "lifetime of certificates to ask for; 0: what istiod gives", set_secret_ttl, false, "duration"},
    {"FAKE_CA", "false", "the peer's test builds know it; use EMBEDDED_CA_DIR", set_boolean<ZT_FIELD(control.fake_ca)>, false,
     "true or false"},
    {"EMBEDDED_CA_DIR", "", "sign certificates here, with the CA in this directory (made on first use)",
     set_optional_text<ZT_FIELD(control.embedded_ca_dir)>},
    {"CRL_PATH", "", "file of certificate revocation lists", set_optional_text<ZT_FIELD(tls.crl_path)>},

    // Sockets and pods
    {"ENABLE_ORIG_SRC", "(as far as possible)", "keep the client's address towards the application", set_original_source},
    {"PACKET_MARK", "(1337 if shared)", "mark of the proxy's packets; 0: none"},
    {"KEEPALIVE_ENABLED", "true", "TCP keepalive", set_boolean<ZT_FIELD(socket.keepalive)>, false, "true or false"},
    {"KEEPALIVE_TIME", "180s", "first keepalive probe",
     set_duration<ZT_FIELD(socket.keepalive_time), 1000, kMaxKeepaliveMs, Outside::kTakeMost>, false, "duration"},
    {"KEEPALIVE_INTERVAL", "180s", "further keepalive probes",
     set_duration<ZT_FIELD(socket.keepalive_interval), 1000, kMaxKeepaliveMs, Outside::kTakeMost>, false, "duration"},
    {"KEEPALIVE_RETRIES", "9", "unanswered probes that end a connection", set_keepalive_retries, false, "count"},
    {"USER_TIMEOUT_ENABLED", "false", "end connections whose data is not acknowledged either",
     set_boolean<ZT_FIELD(socket.user_timeout)>, false, "true or false"},
    {"INPOD_UDS", "/var/run/ztunnel/ztunnel.sock", "socket of the node agent", set_text<ZT_FIELD(inpod.uds)>},
    {"INPOD_PORT_REUSE", "true", "SO_REUSEPORT, so that two proxies can overlap", set_boolean<ZT_FIELD(inpod.port_reuse)>, false,
     "true or false"},
    {"ZT_HAND_OVER", "true", "give live connections to the proxy that replaces this one, and take them from the one before",
     set_boolean<ZT_FIELD(inpod.hand_over)>, false, "true or false"},
    {"ZT_HAND_OVER_PATH", "(INPOD_UDS.successor if shared)",
     "socket where this proxy and the next one of the same network namespace meet, for services that are restarted in place",
     set_socket_path<ZT_FIELD(inpod.hand_over_path)>},
    {"ZT_LOCAL_CONGESTION_CONTROL", "cubic", "congestion control of legs that stay on the node; empty: the system's",
     set_congestion_control},

    // Tunnels
    {"POOL_MAX_STREAMS_PER_CONNECTION", "100", "connections that share a tunnel",
     set_number<ZT_FIELD(tunnel.max_streams_per_tunnel), 1, 65535>, false, "count"},
    {"POOL_UNUSED_RELEASE_TIMEOUT", "5m", "close a tunnel that was unused this long",
     set_duration<ZT_FIELD(tunnel.idle_release), 1000, kCenturyMs, Outside::kTakeNearest>, false, "duration"},
    {"HTTP2_STREAM_WINDOW_SIZE", "4194304", "largest window of a connection in a tunnel, bytes",
     set_window<ZT_FIELD(tunnel.stream_window)>, false, "bytes"},
    {"HTTP2_CONNECTION_WINDOW_SIZE", "16777216", "window of a tunnel, bytes", set_window<ZT_FIELD(tunnel.connection_window)>,
     false, "bytes"},
    {"HTTP2_FRAME_SIZE", "1048576", "largest frame accepted, bytes",
     set_number<ZT_FIELD(tunnel.frame_size), kMinFrame, kMaxFrame>, false, "bytes"},
    {"ENABLE_RESPONSE_BAGGAGE", "true", "exchange workload names with peers", set_boolean<ZT_FIELD(tunnel.response_baggage)>,
     false, "true or false"},
    {"ZT_TUNNELS_PER_KEY", "4", "tunnels between the same two workloads on one worker",
     set_number<ZT_FIELD(tunnel.tunnels_per_key), 1, 64>, false, "count"},
    {"ZT_HANDSHAKE_TIMEOUT", "10s", "TLS handshake of a tunnel, either side",
     set_duration<ZT_FIELD(tunnel.handshake_timeout), 100, 600'000>, false, "duration"},
    {"ZT_CONNECT_ANSWER_TIMEOUT", "20s", "peer's answer to CONNECT",
     set_duration<ZT_FIELD(tunnel.connect_answer_timeout), 100, 600'000>, false, "duration"},
    {"ZT_FIRST_CERTIFICATE_TIMEOUT", "10s", "how long a connection waits for its workload's first certificate",
     set_duration<ZT_FIELD(tunnel.first_certificate_timeout), 100, 600'000>, false, "duration"},
    {"ZT_MEMORY_BUDGET", "(a quarter of the container's memory limit, at most 256Mi)",
     "what is held for peers and applications, all together",
     set_bytes<ZT_FIELD(tunnel.memory_budget), 16u << 20, uint64_t{1} << 40>, false, "bytes"},
    {"ZT_HANDSHAKES_PER_SOURCE", "256", "handshakes in flight from one address to one pod",
     set_number<ZT_FIELD(limits.handshakes_per_source), 1, 1'000'000>, false, "count"},
    {"ZT_HANDSHAKES_PER_POD", "1024", "handshakes in flight to one pod",
     set_number<ZT_FIELD(limits.handshakes_per_pod), 1, 1'000'000>, false, "count"},
    {"ZT_HANDSHAKES", "4096", "handshakes in flight to all pods", set_number<ZT_FIELD(limits.handshakes), 1, 1'000'000>, false,
     "count"},
    {"ZT_TUNNELS_PER_POD", "10000", "tunnels that peers may have to one pod",
     set_number<ZT_FIELD(limits.tunnels_per_pod), 1, 1'000'000>, false, "count"},
    {"ZT_CONNECTIONS_PER_POD", "100000", "connections of one pod, both directions",
     set_number<ZT_FIELD(limits.connections_per_pod), 1, 10'000'000>, false, "count"},
    {"ZT_LOOKUPS_PER_POD", "1024", "on demand: what one pod may be waiting for from the control plane",
     set_number<ZT_FIELD(limits.lookups_per_pod), 16, 16'384>, false, "count"},
    {"ZT_SEND_TIMEOUT", "60s", "how long the peer of a tunnel may take nothing of what there is for it",
     set_duration<ZT_FIELD(limits.send_timeout), 1000, 600'000>, false, "duration"},

    // Cryptography
    {"COMPLIANCE_POLICY", "", "pqc: post-quantum key exchange only; fips-140-2: as ZT_FIPS", set_compliance},
    {"TLS12_ENABLED", "false", "also accept TLS 1.2", set_if_true<ZT_FIELD(tls.tls12)>, false, "true or false"},
    {"ZT_FIPS", "false", "only what OpenSSL's validated module does", set_boolean<ZT_FIELD(tls.fips)>, false, "true or false"},
    {"ZT_AEAD", "auto", "AES-GCM by auto, evp, ipsec-mb or vaes", set_aead},
    {"ZT_PREFER_AES128", "false", "AES-128 before AES-256: a sixth less CPU per byte", set_boolean<ZT_FIELD(tls.prefer_aes128)>,
     false, "true or false"},

    {"ZT_TRUST_DOMAIN_ALIASES", "", "other names of our trust domain that peers' certificates may have, by comma",
     set_trust_domain_aliases},

    // Authorization
    {"AUTHZ_POLICY_INFO_LOGGING", "false", "log each decision at info", set_if_true<ZT_FIELD(policy.info_logging)>, false,
     "true or false"},
    {"ZT_POLICY_WAIT", "2s", "how long a connection waits for a policy that its workload names and that has not come",
     set_duration<ZT_FIELD(policy.unknown_wait), 0, 60'000>, false, "duration"},
    {"ZT_UNKNOWN_POLICY", "deny", "then: deny, or skip the policy as the peer does", set_unknown_policy},

    // Process
    {"CONNECTION_TERMINATION_DEADLINE", "(from the next)", "time to drain at shutdown", nullptr, false, "duration"},
    {"TERMINATION_GRACE_PERIOD_SECONDS", "", "the pod's grace period: drains 5 s less (1 s less up to 10 s)", nullptr, false,
     "seconds"},
    {"ZTUNNEL_WORKER_THREADS", "(a quarter of the CPUs, at least 2)", "N, 0 for one per CPU, or a percentage of the CPUs",
     nullptr, false, "threads"},
    {"ZTUNNEL_CPU_LIMIT", "(cores of the machine)", "CPUs to count with", nullptr, false, "CPUs"},
    {"ZTUNNEL_RESOURCE_CPU_LIMIT", "", "the container's CPU limit; goes before ZTUNNEL_CPU_LIMIT", nullptr, false, "CPUs"},
    {"ZTUNNEL_RESOURCE_CPU_REQUEST", "", "the container's CPU request", nullptr, false, "CPUs"},
    {"PROXY_CONFIG", "", "Istio ProxyConfig in YAML: discoveryAddress, proxyAdminPort, statsPort, concurrency, proxyMetadata"},
    {"ISTIO_META_*", "", "node metadata; DNS_CAPTURE and DNS_PROXY_ADDR also act here"},
    {"ISTIO_METAJSON_*", "", "node metadata in JSON"},
    {"LOG_FORMAT", "plain", "plain or json", set_log_format},
    {"RUST_LOG", "info", "log levels: comma list of level and target=level"},
    {"ZT_METRICS_SERIES_LIMIT", "10000", "label sets of traffic metrics; more are counted together",
     set_number<ZT_FIELD(telemetry.series_limit), 100, 10'000'000>, false, "count"},
    {"ZT_METRICS_SERIES_PER_IDENTITY", "500", "of them, those that one peer's baggage may make; all peers' at most half",
     set_number<ZT_FIELD(telemetry.series_per_identity), 1, 10'000'000>, false, "count"},
    {"ZT_METRICS_LABELS", "(all)",
     "labels of traffic metrics that are shown, by comma; series that differ in others only become one", set_labels},
    {"ZT_METRICS_SERIES_IDLE", "15m", "forget series that were idle for so long and whose workload is gone; 0: never",
     set_duration<ZT_FIELD(telemetry.series_idle), 0, kYearMs>, false, "duration"},
};

#undef ZT_FIELD

}  // namespace

std::span<const Setting> settings() { return kSettings; }

std::string config_help() {
  std::string text;
  for (const auto& setting : kSettings) {
    text += fmt::format("  {:<34}{}", setting.name, setting.help);
    if (!setting.default_text.empty()) text += fmt::format(" [{}]", setting.default_text);
    text += '\n';
  }
  return text;
}

}  // namespace zt::ztunnel
