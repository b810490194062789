#include "ztunnel/config/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <set>

#include "base/duration.h"
#include "base/json_writer.h"
#include "base/log_filter.h"
#include "base/text.h"
#include "mesh/reason.h"
#include "mesh/spiffe.h"
#include "ztunnel/config/config_proxy.h"
#include "ztunnel/config/config_settings.h"
#include "ztunnel/config/config_values.h"

namespace zt::ztunnel {
namespace {

constexpr std::string_view kDefaultRoot = "./var/run/secrets/istio/root-cert.pem";
constexpr std::string_view kDefaultToken = "./var/run/secrets/tokens/istio-token";
constexpr std::string_view kIstiodInCluster = "https://istiod.istio-system.svc:15012";
constexpr std::string_view kIstiodLocal = "https://localhost:15012";
constexpr uint16_t kSocks5Port = 15080;
constexpr size_t kMaxHeaders = 64;

std::unexpected<Error> refuse(std::string text) { return fail(Reason::kInvalidInput, std::move(text)); }

// Fills one Config; each step reads variables that the table of settings leaves to code.
class Parser {
 public:
  explicit Parser(const Environment& environment) : env_(environment) {}

  Result<Config> run() {
    ZT_ASSIGN(proxy_config_, read_proxy_config(env_));
    ZT_TRY(apply_table());
    warn_unknown();
    ZT_TRY(collect_metadata());
    ZT_TRY(identify());
    ZT_TRY(listen());
    ZT_TRY(control_plane());
    ZT_TRY(headers("XDS_HEADER_", config_.control.xds_headers));
    ZT_TRY(headers("CA_HEADER_", config_.control.ca_headers));
    ZT_TRY(process());
    log_filter();
    ZT_TRY(resolver());
    ZT_TRY(check());
    return std::move(config_);
  }

 private:
  static std::unexpected<Error> invalid(std::string_view name, std::string_view value, std::string_view reason,
                                        bool secret = false) {
    return refuse(fmt::format("invalid env var {}={} ({})", name, secret ? "<hidden>" : value, reason));
  }

  // The value of a variable through `parse`; nothing if it is not set.
  template <class Parse>
  auto get(std::string_view name, Parse parse) -> Result<std::optional<typename decltype(parse(""))::value_type>> {
    const auto text = env_.find(name);
    if (!text) return std::nullopt;
    auto value = parse(*text);
    if (!value) return invalid(name, *text, value.error().text);
    return std::move(*value);
  }
  [[nodiscard]] std::optional<std::string> text_of(std::string_view name) const {
    const auto text = env_.find(name);
    if (!text || text->empty()) return std::nullopt;
    return std::string(*text);
  }

  Result<> apply_table() {
    for (const auto& setting : settings()) {
      if (setting.set == nullptr) continue;
      const auto text = env_.find(setting.name);
      if (!text) continue;
      const size_t warnings = config_.warnings.size();
      if (const auto done = setting.set(config_, *text); !done) {
        return invalid(setting.name, *text, done.error().text, setting.secret);
      }
      for (size_t i = warnings; i < config_.warnings.size(); ++i)
        config_.warnings[i] = fmt::format("{}={} {}", setting.name, *text, config_.warnings[i]);
    }
    return {};
  }

  void warn_unknown() {
    for (const auto& [name, value] : env_.variables) {
      if (!name.starts_with("ZT_")) continue;
      if (std::ranges::find(settings(), name, &Setting::name) == settings().end()) {
        config_.warnings.push_back(fmt::format("{} is not a setting of this version and does nothing", name));
      }
    }
  }

  Result<> collect_metadata() {
    auto& node = config_.node;
    node.proxy_metadata = proxy_config_.metadata;
    for (const auto& [name, value] : env_.variables) {
      constexpr std::string_view kMeta = "ISTIO_META_";
      constexpr std::string_view kMetaJson = "ISTIO_METAJSON_";
      if (name.starts_with(kMeta) && name.size() > kMeta.size()) {
        node.proxy_metadata[name.substr(kMeta.size())] = value;
      } else if (name.starts_with(kMetaJson) && name.size() > kMetaJson.size()) {
        if (const auto valid = validate_json(value); !valid) return invalid(name, value, valid.error().text);
        node.json[name.substr(kMetaJson.size())] = value;
      }
    }
    if (node.proxy_metadata.size() + node.json.size() > kMaxMetadataEntries) {
      return refuse(fmt::format("more than {} entries of node metadata (proxyMetadata, ISTIO_META_*)", kMaxMetadataEntries));
    }
    return {};
  }
  [[nodiscard]] std::optional<std::string_view> metadata(std::string_view key) const {
    const auto found = config_.node.proxy_metadata.find(std::string(key));
    if (found == config_.node.proxy_metadata.end()) return std::nullopt;
    return found->second;
  }

  Result<> identify() {
    ZT_ASSIGN(const auto name, get("POD_NAME", parse_plain_text));
    ZT_ASSIGN(const auto ns, get("POD_NAMESPACE", parse_plain_text));
    ZT_ASSIGN(const auto account, get("SERVICE_ACCOUNT", parse_plain_text));
    ZT_ASSIGN(const auto ip, get("INSTANCE_IP", parse_plain_text));
    auto& general = config_.general;
    const auto set = [](const std::optional<std::string>& text) { return text && !text->empty(); };
    if (set(name) && set(ns) && set(account)) general.own_pod = PodName{*name, *ns, *account};
    for (const char* variable : {"CLUSTER_ID", "ISTIO_META_CLUSTER_ID"}) {
      if (auto id = text_of(variable)) general.cluster_id = std::move(*id);
    }
    if (const auto version = metadata("ISTIO_VERSION"); version && !version->empty()) {
      config_.telemetry.istio_version = *version;
    }

    auto& node = config_.node;
    const std::string pod = name.value_or("");
    const std::string pod_ns = ns.value_or("");
    const std::string address = set(ip) ? *ip : "1.1.1.1";
    node.id = fmt::format("ztunnel~{}~{}.{}~{}.svc.cluster.local", address, pod, pod_ns, pod_ns);
    node.metadata = {
        {"NAME", pod}, {"NAMESPACE", pod_ns}, {"INSTANCE_IPS", address}, {"NODE_NAME", general.node_name.value_or("")}};
    for (const auto& [key, value] : node.proxy_metadata) node.metadata[key] = value;
    return {};
  }

  Result<> listen() {
    auto& listen = config_.listen;
    const IpAddress wildcard = *IpAddress::parse(listen.ipv6 ? "::" : "0.0.0.0");
    listen.admin = LocalhostPort{proxy_config_.admin_port.value_or(15000)};
    listen.stats = SocketAddress{wildcard, proxy_config_.stats_port.value_or(15020)};
    listen.readiness = SocketAddress{wildcard, 15021};
    listen.inbound = {wildcard, 15008};
    listen.inbound_plaintext = {wildcard, 15006};
    listen.outbound = {wildcard, 15001};
    listen.illegal_ports = {15001, 15006, 15008};
    ZT_ASSIGN(const auto socks5, get("UNSTABLE_ENABLE_SOCKS5", parse_boolean));
    if (socks5.value_or(false)) {
      listen.socks5 = SocketAddress{IpAddress::v4(0x7f000001), kSocks5Port};
      listen.illegal_ports.push_back(kSocks5Port);
    }
    if (const auto address = metadata("DNS_PROXY_ADDR")) {
      const auto parsed = parse_dns_address(*address);
      if (!parsed) return invalid("ISTIO_META_DNS_PROXY_ADDR", *address, parsed.error().text);
      listen.dns = *parsed;
    }
    const auto capture = metadata("DNS_CAPTURE");
    config_.general.dns_proxy = !capture || equals_ignoring_case(*capture, "true");
    return {};
  }

  static Roots root_of(std::string_view text) {
    if (text == "SYSTEM") return {Roots::Source::kSystem, {}};
    if (text.find("-----BEGIN") != std::string_view::npos) return {Roots::Source::kInline, std::string(text)};
    return {Roots::Source::kFile, std::string(text)};
  }

  // An explicit empty address means none; without a variable, `fallback` counts.
  Result<std::optional<std::string>> address(std::string_view name, const std::optional<std::string>& fallback) {
    const auto text = env_.find(name);
    if (!text && !fallback) {
      return std::string(env_.find("KUBERNETES_SERVICE_HOST") ? kIstiodInCluster : kIstiodLocal);
    }
    const std::string_view chosen = text ? *text : std::string_view(*fallback);
    if (chosen.empty()) return std::nullopt;
    auto parsed = parse_control_address(chosen);
    if (!parsed) return invalid(text ? name : std::string_view("PROXY_CONFIG"), chosen, parsed.error().text);
    return std::move(*parsed);
  }

  Result<> control_plane() {
    auto& control = config_.control;
    ZT_ASSIGN(control.xds_address, address("XDS_ADDRESS", proxy_config_.discovery_address));
    control.xds_root = root_of(text_of("XDS_ROOT_CA").value_or(std::string(kDefaultRoot)));
    control.ca_root = root_of(text_of("CA_ROOT_CA").value_or(std::string(kDefaultRoot)));
    control.local_xds = text_of("LOCAL_XDS");
    if (control.local_xds && control.local_xds_path)
      return refuse("LOCAL_XDS and LOCAL_XDS_PATH are both set; only one can count");

    if (control.embedded_ca_dir) {
      if (text_of("CA_ADDRESS")) return refuse("CA_ADDRESS and EMBEDDED_CA_DIR are both set; only one can sign certificates");
    } else if (!control.fake_ca) {
      ZT_ASSIGN(control.ca_address, address("CA_ADDRESS", std::nullopt));
      if (!control.ca_address && config_.general.proxy) {
        return refuse("CA_ADDRESS is empty and EMBEDDED_CA_DIR is not set: nobody would sign certificates");
      }
    }

    const auto token = env_.find("AUTH_TOKEN");
    const std::string path(token.value_or(kDefaultToken));
    if (path.empty()) return {};
    if (file_exists(path)) {
      control.token = {Token::Source::kFile, path};
    } else if (token) {
      control.token = {Token::Source::kLiteral, path};
    }
    return {};
  }

  // A file that exists but cannot be read is a file: its error belongs to whoever reads it.
  [[nodiscard]] bool file_exists(const std::string& path) const {
    if (!env_.read_file) return false;
    const auto content = env_.read_file(path);
    return !content || content->has_value();
  }

  Result<> headers(std::string_view prefix, HeaderList& list) {
    for (const auto& [name, value] : env_.variables) {
      if (!name.starts_with(prefix)) continue;
      auto header = parse_header(std::string_view(name).substr(prefix.size()), value);
      if (!header) return invalid(name, value, header.error().text, true);
      if (list.size() == kMaxHeaders) return refuse(fmt::format("more than {} variables {}*", kMaxHeaders, prefix));
      list.push_back(std::move(*header));
    }
    return {};
  }

  Result<> process() {
    auto& general = config_.general;
    general.arguments = env_.arguments;
    ZT_TRY(worker_threads());

    constexpr auto kLongest = std::chrono::seconds(std::chrono::years(100));  // may as well be for ever
    const auto seconds = [](std::string_view text) { return parse_unsigned(text, 0, std::numeric_limits<uint64_t>::max()); };
    ZT_ASSIGN(const auto deadline, get("CONNECTION_TERMINATION_DEADLINE", parse_duration));
    ZT_ASSIGN(const auto grace, get("TERMINATION_GRACE_PERIOD_SECONDS", seconds));
    if (deadline) {
      general.drain_deadline = std::min(std::chrono::ceil<std::chrono::seconds>(*deadline), kLongest);
    } else if (grace) {
      const auto period = static_cast<int64_t>(std::min(*grace, static_cast<uint64_t>(kLongest.count())));
      general.drain_deadline = std::chrono::seconds(std::max<int64_t>(1, period > 10 ? period - 5 : period - 1));
    }

    const auto mark = [](std::string_view text) { return parse_unsigned(text, 0, 0xffffffff); };
    ZT_ASSIGN(const auto packet_mark, get("PACKET_MARK", mark));
    if (packet_mark) {
      config_.socket.mark = static_cast<uint32_t>(*packet_mark);
    } else if (general.mode == ProxyMode::kDedicated) {
      config_.socket.mark.reset();
    }
    return {};
  }

  // Contract §0.3, first rule that matches.
  Result<> worker_threads() {
    const auto cpus_of = [](std::string_view text) { return parse_unsigned(text, 1, kMaxWorkerThreads); };
    ZT_ASSIGN(const auto limit, get("ZTUNNEL_RESOURCE_CPU_LIMIT", parse_quantity));
    ZT_ASSIGN(const auto request, get("ZTUNNEL_RESOURCE_CPU_REQUEST", parse_quantity));
    ZT_ASSIGN(const auto node, get("ZTUNNEL_CPU_LIMIT", cpus_of));
    const uint64_t counted = limit ? *limit : node.value_or(env_.logical_cores);
    const auto cpus = static_cast<unsigned>(std::clamp<uint64_t>(counted, 1, kMaxWorkerThreads));
    ZT_ASSIGN(const auto asked,
              get("ZTUNNEL_WORKER_THREADS", [&](std::string_view text) { return parse_worker_threads(text, cpus); }));
    uint64_t threads = 0;
    if (asked) {
      threads = *asked;
    } else if (proxy_config_.concurrency) {
      threads = *proxy_config_.concurrency == 0 ? cpus : *proxy_config_.concurrency;
    } else if (limit) {
      threads = std::max(*limit, request.value_or(0));
    } else {
      threads = std::max<uint64_t>({(cpus + 3) / 4, request.value_or(0), 2});
    }
    config_.general.worker_threads = static_cast<unsigned>(std::clamp<uint64_t>(threads, 1, kMaxWorkerThreads));
    return {};
  }

  // A filter that we cannot read must not keep the proxy from starting: it says what is wrong and logs at
  // info.
  void log_filter() {
    auto& filter = config_.telemetry.log_filter;
    filter = kDefaultLogFilter;
    const auto text = env_.find("RUST_LOG");
    if (!text || text->empty()) return;
    if (const auto parsed = log::FilterSpec::parse(*text); !parsed) {
      config_.warnings.push_back(fmt::format("RUST_LOG={} is ignored: {}", *text, parsed.error().text));
      return;
    }
    filter.append(",").append(*text);
  }

  Result<> resolver() {
    if (!env_.read_file) return {};
    const auto text = env_.read_file(kResolvConf);
    if (!text) {
      config_.warnings.push_back(fmt::format("no upstream resolvers: {}", text.error().text));
    } else if (*text) {
      config_.resolver = parse_resolv_conf(**text);
    }
    return {};
  }

  Result<> check() {
    const auto& general = config_.general;
    if (!general.proxy && !general.dns_proxy) {
      return refuse("ENABLE_PROXY=false and ISTIO_META_DNS_CAPTURE is not true: there is nothing to do");
    }
    if (general.mode == ProxyMode::kDedicated && !general.dedicated_workload) {
      return refuse("PROXY_MODE=dedicated needs PROXY_WORKLOAD_INFO=namespace/name/service-account");
    }
    if (config_.control.xds_on_demand && general.dns_proxy) {
      return refuse("XDS_ON_DEMAND=true cannot answer DNS queries: set ISTIO_META_DNS_CAPTURE=false");
    }
    return {};
  }

  const Environment& env_;
  ProxyConfig proxy_config_;
  Config config_;
};

}  // namespace

std::optional<std::string> GeneralConfig::own_identity() const {
  if (!own_pod) return std::nullopt;
  return spiffe_id(trust_domain, own_pod->ns, own_pod->service_account);
}

uint64_t memory_budget(const TunnelConfig& tunnel, std::optional<uint64_t> memory_limit) {
  constexpr uint64_t kLeast = 8u << 20, kMost = 256u << 20;
  if (tunnel.memory_budget) return *tunnel.memory_budget;
  return memory_limit ? std::clamp(*memory_limit / 4, kLeast, kMost) : kMost;
}

Result<Config> parse_config(const Environment& environment) { return Parser(environment).run(); }

std::vector<std::string> unsupported(const Config& config, const BuildFeatures& features) {
  std::vector<std::string> sentences;
  const auto need = [&](bool wanted, bool there, const char* sentence) {
    if (wanted && !there) sentences.emplace_back(sentence);
  };
  const auto& control = config.control;
  need(control.xds_address.has_value(), features.xds,
       "this build has no control plane client: set XDS_ADDRESS to nothing and LOCAL_XDS_PATH to a file");
  need(control.ca_address.has_value(), features.ca_client,
       "this build has no client for a certificate authority: set EMBEDDED_CA_DIR");
  need(control.fake_ca, false, "FAKE_CA=true is for the peer's tests: set EMBEDDED_CA_DIR instead");
  need(control.xds_on_demand, features.on_demand, "this build does not support XDS_ON_DEMAND=true");
  // Unset means "answer if asked"; without capture rules nobody asks. Who sets it has such rules.
  need(config.general.dns_proxy && config.node.proxy_metadata.contains("DNS_CAPTURE"), features.dns_proxy,
       "this build has no DNS proxy: set ISTIO_META_DNS_CAPTURE=false, and no DNS capture in the node agent");
  need(config.general.mode == ProxyMode::kDedicated, features.dedicated_mode, "this build does not support PROXY_MODE=dedicated");
  need(config.listen.socks5.has_value(), features.socks5, "this build does not support UNSTABLE_ENABLE_SOCKS5=true");
  need(config.tls.crl_path.has_value(), features.crl,
       "this build does not check revocation lists: CRL_PATH would be ignored, so it must not be set");
  need(config.tls.tls12, features.tls12, "this proxy speaks TLS 1.3 only: TLS12_ENABLED=true is not supported");
  return sentences;
}

}  // namespace zt::ztunnel
