#include <fmt/format.h>
#include <fmt/ranges.h>

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <map>

#include "base/json_writer.h"
#include "base/yaml/writer.h"
#include "ztunnel/config/config.h"

// The effective configuration as a small tree, printed as YAML (in the order of the members, with the peer's
// tags for alternatives) and as JSON (members sorted, as everything in config_dump is). Members carry the
// peer's names; those of our own are together under `zt`.
namespace zt::ztunnel {
namespace {

namespace json = boost::json;
using Value = json::value;
using Members = json::object;  // keeps the order of its members
using Elements = json::array;

Value null() { return nullptr; }
Value flag(bool value) { return value; }
Value count(uint64_t value) { return value; }
Value text(std::string_view value) { return json::string(value); }
Value list(Elements elements) { return elements; }
Value object(Members members) { return members; }
Value optional_text(const std::optional<std::string>& value) { return value ? text(*value) : null(); }

// One of several alternatives: `!Name value` in YAML, {"Name": value} in JSON.
constexpr char kTagMark = '!';
Value tagged(std::string_view tag, Value value) { return Members{{fmt::format("{}{}", kTagMark, tag), std::move(value)}}; }
// The tag, with its mark, if it is such.
std::string_view tag_of(const Value& value) {
  const auto* members = value.if_object();
  if (members == nullptr || members->size() != 1 || !members->begin()->key().starts_with(kTagMark)) return {};
  return members->begin()->key();
}

Value duration(std::chrono::nanoseconds value) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(value);
  return object({{"secs", count(static_cast<uint64_t>(seconds.count()))},
                 {"nanos", count(static_cast<uint64_t>((value - seconds).count()))}});
}

Value address(const ListenAddress& listen, bool ipv6) {
  if (const auto* local = std::get_if<LocalhostPort>(&listen)) {
    return tagged("Localhost", list({flag(ipv6), count(local->port)}));
  }
  return tagged("SocketAddr", text(std::get<SocketAddress>(listen).to_string()));
}

Value pod(const std::optional<PodName>& name) {
  if (!name) return null();
  return object({{"name", text(name->name)}, {"namespace", text(name->ns)}, {"serviceAccount", text(name->service_account)}});
}

Value root(const Roots& certificate) {
  switch (certificate.source) {
    case Roots::Source::kSystem: return text("Default");
    case Roots::Source::kInline: return tagged("Static", text(fmt::format("{} bytes", certificate.value.size())));
    case Roots::Source::kFile: break;
  }
  return tagged("File", text(certificate.value));
}

// Names only: values may be credentials.
Value header_names(const HeaderList& headers) {
  Elements names;
  for (const auto& [name, value] : headers) names.push_back(list({text(name), text("<hidden>")}));
  return list(std::move(names));
}

Value strings(const std::map<std::string, std::string>& map) {
  Members members;
  for (const auto& [key, value] : map) members.emplace(key, text(value));
  return object(std::move(members));
}

Value resolver_servers(const ResolverConfig& resolver) {
  Elements servers;
  for (const auto& server : resolver.name_servers) {
    const auto connection = [&](const char* protocol) {
      return object({{"port", count(server.port)}, {"protocol", object({{"type", text(protocol)}})}, {"bind_addr", null()}});
    };
    servers.push_back(object({{"ip", text(server.ip.to_string())},
                              {"trust_negative_responses", flag(true)},
                              {"connections", list({connection("udp"), connection("tcp")})}}));
  }
  return list(std::move(servers));
}

Value own_settings(const Config& config) {
  const char* token = config.control.token.source == Token::Source::kNone   ? "none"
                      : config.control.token.source == Token::Source::kFile ? "file"
                                                                            : "literal";
  return object({
      {"aead", text(config.tls.aead)},
      {"authToken", text(token)},
      {"compliancePolicy", config.tls.compliance == CompliancePolicy::kPqc ? text("pqc") : null()},
      {"connectionsPerPod", count(config.limits.connections_per_pod)},
      {"connectAnswerTimeout", duration(config.tunnel.connect_answer_timeout)},
      {"embeddedCaDir", optional_text(config.control.embedded_ca_dir)},
      {"fips", flag(config.tls.fips)},
      {"firstCertificateTimeout", duration(config.tunnel.first_certificate_timeout)},
      {"handshakeTimeout", duration(config.tunnel.handshake_timeout)},
      {"handshakes", count(config.limits.handshakes)},
      {"handshakesPerPod", count(config.limits.handshakes_per_pod)},
      {"handshakesPerSource", count(config.limits.handshakes_per_source)},
      {"localCongestionControl", text(config.socket.local_congestion_control)},
      {"localXdsPath", optional_text(config.control.local_xds_path)},
      {"logFilter", text(config.telemetry.log_filter)},
      {"memoryBudget", config.tunnel.memory_budget ? count(*config.tunnel.memory_budget) : null()},
      {"metricsLabels", text(fmt::format("{}", fmt::join(config.telemetry.labels, ",")))},
      {"metricsSeriesIdle", duration(config.telemetry.series_idle)},
      {"metricsSeriesLimit", count(config.telemetry.series_limit)},
      {"metricsSeriesPerIdentity", count(config.telemetry.series_per_identity)},
      {"policyInfoLogging", flag(config.policy.info_logging)},
      {"policyWait", duration(config.policy.unknown_wait)},
      {"preferAes128", flag(config.tls.prefer_aes128)},
      {"tls12", flag(config.tls.tls12)},
      {"trustDomainAliases", text(fmt::format("{}", fmt::join(config.tls.trust_domain_aliases, ",")))},
      {"tunnelsPerKey", count(config.tunnel.tunnels_per_key)},
      {"tunnelsPerPod", count(config.limits.tunnels_per_pod)},
      {"unknownPolicy", text(config.policy.unknown == UnknownPolicy::kDeny ? "deny" : "skip")},
  });
}

Members tree_of(const Config& config) {
  const auto& [general, listen, control, node, socket, inpod, tunnel, limits, tls, policy, telemetry, resolver, warnings] =
      config;
  Elements illegal;
  for (const uint16_t port : listen.illegal_ports) illegal.push_back(count(port));
  Elements search;
  for (const auto& domain : resolver.search) search.push_back(text(domain));
  return {
      {"proxy", flag(general.proxy)},
      {"dnsProxy", flag(general.dns_proxy)},
      {"windowSize", count(tunnel.stream_window)},
      {"connectionWindowSize", count(tunnel.connection_window)},
      {"frameSize", count(tunnel.frame_size)},
      {"poolMaxStreamsPerConn", count(tunnel.max_streams_per_tunnel)},
      {"poolUnusedReleaseTimeout", duration(tunnel.idle_release)},
      {"socks5Addr", listen.socks5 ? text(listen.socks5->to_string()) : null()},
      {"adminAddr", address(listen.admin, listen.ipv6)},
      {"statsAddr", address(listen.stats, listen.ipv6)},
      {"readinessAddr", address(listen.readiness, listen.ipv6)},
      {"inboundAddr", text(listen.inbound.to_string())},
      {"inboundPlaintextAddr", text(listen.inbound_plaintext.to_string())},
      {"outboundAddr", text(listen.outbound.to_string())},
      {"dnsProxyAddr", address(listen.dns, listen.ipv6)},
      {"illegalPorts", list(std::move(illegal))},
      {"network", text(general.network)},
      {"localNode", optional_text(general.node_name)},
      {"proxyMode", text(general.mode == ProxyMode::kShared ? "Shared" : "Dedicated")},
      {"proxyWorkloadInformation", pod(general.dedicated_workload)},
      {"clusterId", text(general.cluster_id)},
      {"clusterDomain", text(general.cluster_domain)},
      {"caAddress", optional_text(control.ca_address)},
      {"caRootCert", root(control.ca_root)},
      {"altCaHostname", optional_text(control.alt_ca_hostname)},
      {"xdsAddress", optional_text(control.xds_address)},
      {"xdsRootCert", root(control.xds_root)},
      {"altXdsHostname", optional_text(control.alt_xds_hostname)},
      {"preferedServiceNamespace", optional_text(general.preferred_service_namespace)},
      {"secretTtl", duration(control.secret_ttl)},
      {"xdsOnDemand", flag(control.xds_on_demand)},
      {"fakeCa", flag(control.fake_ca)},
      {"fakeSelfInbound", flag(false)},
      {"selfTerminationDeadline", duration(general.drain_deadline)},
      {"proxyMetadata", strings(node.proxy_metadata)},
      {"numWorkerThreads", count(general.worker_threads)},
      {"requireOriginalSource", socket.original_source ? flag(*socket.original_source) : null()},
      {"proxyArgs", text(general.arguments)},
      {"dnsResolverCfg",
       object({{"domain", null()}, {"search", list(std::move(search))}, {"name_servers", resolver_servers(resolver)}})},
      {"dnsResolverOpts", object({{"ndots", count(resolver.ndots)},
                                  {"timeout", count(resolver.timeout_seconds)},
                                  {"attempts", count(resolver.attempts)}})},
      {"inpodUds", text(inpod.uds)},
      {"inpodPortReuse", flag(inpod.port_reuse)},
      {"packetMark", socket.mark ? count(*socket.mark) : null()},
      {"socketConfig", object({{"keepaliveTime", duration(socket.keepalive_time)},
                               {"keepaliveInterval", duration(socket.keepalive_interval)},
                               {"keepaliveRetries", count(socket.keepalive_retries)},
                               {"keepaliveEnabled", flag(socket.keepalive)},
                               {"userTimeoutEnabled", flag(socket.user_timeout)}})},
      {"xdsHeaders", header_names(control.xds_headers)},
      {"caHeaders", header_names(control.ca_headers)},
      {"localhostAppTunnel", flag(general.localhost_app_tunnel)},
      {"ztunnelIdentity", optional_text(general.own_identity())},
      {"ztunnelWorkload", pod(general.own_pod)},
      {"ipv6Enabled", flag(listen.ipv6)},
      {"crlPath", optional_text(tls.crl_path)},
      {"enableEnhancedBaggage", flag(tunnel.response_baggage)},
      {"zt", own_settings(config)},
  };
}

// ---- YAML

void write_yaml(yaml::Writer& out, const Value& value, std::string_view tag = {}) {
  if (const std::string_view own = tag_of(value); !own.empty()) {
    return write_yaml(out, value.get_object().begin()->value(), own);
  }
  switch (value.kind()) {
    case json::kind::object:
      out.begin_map(tag);
      for (const auto& [key, member] : value.get_object()) {
        out.string(key);
        write_yaml(out, member);
      }
      return out.end_map();
    case json::kind::array:
      out.begin_list(tag);
      for (const Value& element : value.get_array()) write_yaml(out, element);
      return out.end_list();
    case json::kind::string: return out.string(value.get_string(), tag);
    default: return out.plain(json::serialize(value), tag);
  }
}

// ---- JSON

void write_json(JsonWriter& out, const Value& value) {
  switch (value.kind()) {
    case json::kind::object: {
      std::map<std::string_view, const Value*> sorted;
      for (const auto& [key, member] : value.get_object()) sorted.emplace(key, &member);
      out.begin_object();
      for (const auto& [key, member] : sorted) {
        out.key(key.starts_with(kTagMark) ? key.substr(1) : key);
        write_json(out, *member);
      }
      return out.end_object();
    }
    case json::kind::array:
      out.begin_array();
      for (const Value& element : value.get_array()) write_json(out, element);
      return out.end_array();
    case json::kind::string: return out.string(value.get_string());
    default: return out.raw(json::serialize(value));
  }
}

}  // namespace

std::string config_yaml(const Config& config) {
  std::string out;
  yaml::Writer writer(out);
  write_yaml(writer, tree_of(config));
  writer.finish();
  return out;
}

void write_config_json(JsonWriter& json, const Config& config) { write_json(json, tree_of(config)); }

}  // namespace zt::ztunnel
