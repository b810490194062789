#include "ztunnel/config/config.h"
#include "mesh/reason.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <sstream>

#include "base/json_writer.h"
#include "ztunnel/config/config_proxy.h"
#include "ztunnel/config/config_settings.h"
#include "ztunnel/config/config_values.h"

using namespace zt;
using namespace zt::ztunnel;
using namespace std::chrono_literals;

namespace {

using Variables = std::map<std::string, std::string, std::less<>>;
using Files = std::map<std::string, std::string>;

Environment environment(Variables variables, Files files = {}, unsigned cores = 8) {
  Environment env;
  env.variables = std::move(variables);
  env.arguments = "proxy ztunnel";
  env.logical_cores = cores;
  env.read_file = [files = std::move(files)](const std::string& path) -> Result<std::optional<std::string>> {
    const auto found = files.find(path);
    if (found == files.end()) return std::nullopt;
    return found->second;
  };
  return env;
}

Config parse(Variables variables, Files files = {}, unsigned cores = 8) {
  auto config = parse_config(environment(std::move(variables), std::move(files), cores));
  INFO((config ? "" : config.error().text));
  REQUIRE(config);
  return std::move(*config);
}

std::string error_of(Variables variables, Files files = {}) {
  const auto config = parse_config(environment(std::move(variables), std::move(files)));
  REQUIRE_FALSE(config);
  return config.error().text;
}

std::string read_golden(const std::string& name) {
  std::ifstream file(std::string(ZT_GOLDEN_DIR "/ztunnel/") + name);
  REQUIRE(file);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// What Istio's chart sets, in the run that the golden files were recorded from.
Variables chart_variables() {
  return {{"ISTIO_META_DNS_CAPTURE", "true"},
          {"ISTIO_META_CLUSTER_ID", "Kubernetes"},
          {"ISTIO_META_ISTIO_VERSION", "1.32-alpha"},
          {"ISTIO_META_ENABLE_HBONE", "true"},
          {"XDS_ADDRESS", "localhost:15012"},
          {"CA_ADDRESS", "localhost:15012"},
          {"XDS_ROOT_CA", "/var/run/secrets/istio/root-cert.pem"},
          {"CA_ROOT_CA", "/var/run/secrets/istio/root-cert.pem"},
          {"NODE_NAME", "node-a"},
          {"POD_NAME", "ztunnel-a"},
          {"POD_NAMESPACE", "istio-system"},
          {"SERVICE_ACCOUNT", "ztunnel"},
          {"INSTANCE_IP", "10.240.1.2"},
          {"TERMINATION_GRACE_PERIOD_SECONDS", "30"},
          {"ZTUNNEL_CPU_LIMIT", "2"},
          {"ZTUNNEL_RESOURCE_CPU_REQUEST", "200m"},
          {"INPOD_ENABLED", "true"},
          {"RUST_BACKTRACE", "1"}};
}
const Files kWithResolvConf{{"/etc/resolv.conf",
                             "nameserver 10.240.0.1\nsearch istio-system.svc.cluster.local svc.cluster.local cluster.local\n"
                             "options ndots:5\n"}};

// `text` without the block that starts with the line `first` and goes on with deeper lines (and its closing
// bracket).
std::string without_block(const std::string& text, const std::string& first) {
  std::istringstream lines(text);
  std::string out;
  bool inside = false;
  size_t indent = 0;
  for (std::string line; std::getline(lines, line);) {
    const size_t depth = line.find_first_not_of(' ');
    if (inside) {
      const bool more = depth > indent || line.substr(depth).starts_with("}") || line.substr(depth).starts_with("]") ||
                        line.substr(depth).starts_with("- ");
      inside = depth > indent || (more && line.substr(depth).starts_with("- "));
      if (more) continue;
    }
    if (line.substr(depth).starts_with(first)) {
      inside = true;
      indent = depth;
      continue;
    }
    out += line + "\n";
  }
  return out;
}

}  // namespace

TEST_CASE("nothing set gives the documented defaults") {
  const auto config = parse({});
  CHECK(config.general.proxy);
  CHECK(config.general.dns_proxy);
  CHECK(config.general.mode == ProxyMode::kShared);
  CHECK(config.general.cluster_id == "Kubernetes");
  CHECK(config.general.worker_threads == 2);
  CHECK(config.general.drain_deadline == 5s);
  CHECK(config.control.xds_address == "https://localhost:15012");
  CHECK(config.control.ca_address == "https://localhost:15012");
  CHECK(config.control.xds_root.value == "./var/run/secrets/istio/root-cert.pem");
  CHECK(config.control.token.source == Token::Source::kNone);
  CHECK(config.socket.mark == 1337);
  CHECK_FALSE(config.socket.original_source);
  CHECK(config.node.id == "ztunnel~1.1.1.1~.~.svc.cluster.local");
  CHECK(config.telemetry.log_filter == "hickory_server::server=off,info");
  CHECK(config.telemetry.istio_version == "unknown");
  CHECK(config.listen.illegal_ports == std::vector<uint16_t>{15001, 15006, 15008});
  CHECK(config.warnings.empty());
}

TEST_CASE("the default that the table shows is the default") {
  const auto expected = config_yaml(parse({}));
  for (const auto& setting : settings()) {
    INFO(setting.name);
    if (setting.set == nullptr || setting.default_text.empty() || setting.default_text.starts_with('(')) continue;
    CHECK(config_yaml(parse({{std::string(setting.name), std::string(setting.default_text)}})) == expected);
  }
}

TEST_CASE("help names every setting once, with its default") {
  const auto help = config_help();
  for (const auto& setting : settings()) {
    INFO(setting.name);
    const auto line = "\n  " + std::string(setting.name) + " ";
    const auto at = ("\n" + help).find(line);
    CHECK(at != std::string::npos);
    CHECK(("\n" + help).find(line, at + 1) == std::string::npos);
  }
  CHECK_THAT(help, Catch::Contains("POOL_UNUSED_RELEASE_TIMEOUT       close a tunnel that was unused this long [5m]"));
}

TEST_CASE("the effective configuration in JSON is the peer's, member for member") {
  std::string out;
  JsonWriter json(out);
  write_config_json(json, parse(chart_variables(), kWithResolvConf, 2));
  CHECK(validate_json(out));
  std::string golden = read_golden("config_dump.json");
  const auto begin = golden.find("\n  \"config\": {\n") + 1;
  golden = golden.substr(begin, golden.find("\n  },\n", begin) - begin);
  std::string expected;
  std::istringstream lines(golden + "\n  }");
  for (std::string line; std::getline(lines, line);) expected += line.substr(2) + "\n";
  expected.replace(0, expected.find('{'), "");
  for (const char* block : {"\"dnsResolverOpts\"", "\"illegalPorts\"", "\"zt\""}) {
    expected = without_block(expected, block);
    out = without_block(out, block);
  }
  CHECK(out == expected);
}

TEST_CASE("the effective configuration in YAML is the peer's, line for line") {
  const std::string golden = read_golden("log.plain.txt");
  constexpr std::string_view kStart = "running with config: ";
  const auto begin = golden.find(kStart) + kStart.size();
  std::string expected = golden.substr(begin, golden.find("\n\t", begin) + 1 - begin);
  std::string yaml = config_yaml(parse(chart_variables(), kWithResolvConf, 2));
  // These members are in an order of chance in the peer, or say what only its library has.
  for (const char* block : {"dnsResolverOpts", "illegalPorts", "proxyMetadata", "zt:"}) {
    expected = without_block(expected, block);
    yaml = without_block(yaml, block);
  }
  CHECK(yaml == expected);
}

TEST_CASE("bad values stop the start with name, value and reason") {
  using Row = std::tuple<const char*, const char*, const char*>;
  const auto [name, value, reason] = GENERATE(table<const char*, const char*, const char*>({
      Row{"ENABLE_PROXY", "True", "expected true or false"},
      Row{"IPV6_ENABLED", "1", "expected true or false"},
      Row{"PROXY_MODE", "sidecar", "expected shared or dedicated"},
      Row{"PROXY_WORKLOAD_INFO", "shop/client", "expected namespace/name/service-account"},
      Row{"SECRET_TTL", "1 days ago", "expected a duration such as 10s, 5m or 1h30m"},
      Row{"SECRET_TTL", "1s", "expected a duration from 10s to 3153600000s"},
      Row{"SECRET_TTL", "2h*3+1", "expected a sum such as 1h+30m or a product such as 1m*10, not both"},
      Row{"KEEPALIVE_TIME", "0s", "expected a duration from 1s to 32767s"},
      Row{"ZT_HANDSHAKE_TIMEOUT", "1h", "expected a duration from 100ms to 600s"},
      Row{"POOL_UNUSED_RELEASE_TIMEOUT", "", "expected a duration such as 10s, 5m or 1h30m"},
      Row{"POOL_MAX_STREAMS_PER_CONNECTION", "0", "expected a whole number from 1 to 65535"},
      Row{"HTTP2_FRAME_SIZE", "16777216", "expected a whole number from 16384 to 16777215"},
      Row{"HTTP2_STREAM_WINDOW_SIZE", "-1", "expected a whole number from 0 to 2147483647"},
      Row{"PACKET_MARK", "0x539", "expected a whole number from 0 to 4294967295"},
      Row{"XDS_ADDRESS", "istiod", "expected host:port"},
      Row{"XDS_ADDRESS", "http://istiod:15010", "expected https://host:port: the control plane is reached over TLS only"},
      Row{"CA_ADDRESS", "https://istiod:0", "expected host:port"},
      Row{"ISTIO_META_DNS_PROXY_ADDR", "bad", "expected localhost:port or ip:port"},
      Row{"ISTIO_META_DNS_PROXY_ADDR", "localhost", "expected localhost:port or ip:port"},
      Row{"ISTIO_META_DNS_PROXY_ADDR", "localhost:0", "expected a whole number from 1 to 65535"},
      Row{"ISTIO_META_DNS_PROXY_ADDR", "::1:15053:x", "expected localhost:port or ip:port"},
      Row{"ISTIO_META_DNS_PROXY_ADDR", "tcp://10.96.0.10:53",
          "expected localhost:port or ip:port; Kubernetes sets such a value for a service of that name (enableServiceLinks)"},
      Row{"ISTIO_METAJSON_LABELS", "{\"a\":}", "not valid JSON at byte 5"},
      Row{"ZTUNNEL_WORKER_THREADS", "many", "expected a number of threads, 0, or a percentage such as 50%"},
      Row{"ZTUNNEL_RESOURCE_CPU_LIMIT", "2 cores", "expected a quantity such as 2, 1.5, 500m or 256Mi"},
      Row{"CONNECTION_TERMINATION_DEADLINE", "5 parsecs", "expected a duration such as 10s, 5m or 1h30m"},
      Row{"ZT_AEAD", "fast", "expected auto, evp, ipsec-mb or vaes"},
      Row{"ZT_MEMORY_BUDGET", "1Mi", "expected 16Mi to 1048576Mi"},
      Row{"ZT_HANDSHAKES_PER_SOURCE", "0", "expected a whole number from 1 to 1000000"},
      Row{"ZT_HANDSHAKES_PER_POD", "many", "expected a whole number from 1 to 1000000"},
      Row{"ZT_HANDSHAKES", "-1", "expected a whole number from 1 to 1000000"},
      Row{"ZT_TUNNELS_PER_POD", "", "expected a whole number from 1 to 1000000"},
      Row{"ZT_CONNECTIONS_PER_POD", "10000001", "expected a whole number from 1 to 10000000"},
      Row{"ZT_LOOKUPS_PER_POD", "15", "expected a whole number from 16 to 16384"},
      Row{"ZT_UNKNOWN_POLICY", "allow", "expected deny or skip"},
      Row{"ZT_LOCAL_CONGESTION_CONTROL", "cubic; rm", "expected the name of a congestion control, or nothing for the system's"},
      Row{"CLUSTER_DOMAIN", "cluster local", "expected a domain name"},
      Row{"NETWORK", "a\nb", "contains control characters"},
      Row{"PROXY_CONFIG", "concurrency: many", "concurrency: expected a whole number from 0 to 1024"},
      Row{"PROXY_CONFIG", "proxyMetadata: [a]", "proxyMetadata: expected a map"},
  }));
  CHECK(error_of({{name, value}}) == "invalid env var " + std::string(name) + "=" + value + " (" + reason + ")");
}

TEST_CASE("an error about a secret does not quote it") {
  CHECK(error_of({{"XDS_HEADER_authorization", "Bearer s3cr\x01t"}}) ==
        "invalid env var XDS_HEADER_authorization=<hidden> (not a header value)");
}

TEST_CASE("settings that contradict each other are refused") {
  using Row = std::tuple<const char*, Variables, const char*>;
  const auto [name, variables, text] = GENERATE(table<const char*, Variables, const char*>({
      Row{"nothing to do", {{"ENABLE_PROXY", "false"}, {"ISTIO_META_DNS_CAPTURE", "false"}}, "there is nothing to do"},
      Row{"dedicated without a workload", {{"PROXY_MODE", "dedicated"}}, "needs PROXY_WORKLOAD_INFO"},
      Row{"on-demand with DNS", {{"XDS_ON_DEMAND", "true"}}, "set ISTIO_META_DNS_CAPTURE=false"},
      Row{"two local sources", {{"LOCAL_XDS", "{}"}, {"LOCAL_XDS_PATH", "/x"}}, "LOCAL_XDS and LOCAL_XDS_PATH are both set"},
      Row{"two CAs", {{"CA_ADDRESS", "ca:1"}, {"EMBEDDED_CA_DIR", "/x"}}, "CA_ADDRESS and EMBEDDED_CA_DIR are both set"},
      Row{"no CA", {{"CA_ADDRESS", ""}}, "nobody would sign certificates"},
  }));
  INFO(name);
  CHECK_THAT(error_of(variables), Catch::Contains(text));
}

TEST_CASE("worker threads: the first rule that matches") {
  struct Row {
    const char* name;
    Variables variables;
    unsigned cores;
    unsigned threads;
  };
  const auto row = GENERATE(values<Row>({
      {"a number", {{"ZTUNNEL_WORKER_THREADS", "3"}}, 8, 3},
      {"0 is one per core", {{"ZTUNNEL_WORKER_THREADS", "0"}}, 8, 8},
      {"a percentage rounds up", {{"ZTUNNEL_WORKER_THREADS", "30%"}}, 8, 3},
      {"a percentage of the limit", {{"ZTUNNEL_WORKER_THREADS", "50%"}, {"ZTUNNEL_RESOURCE_CPU_LIMIT", "3500m"}}, 64, 2},
      {"a tiny percentage is one", {{"ZTUNNEL_WORKER_THREADS", "1%"}}, 2, 1},
      {"concurrency of the proxy config", {{"PROXY_CONFIG", "concurrency: 5"}}, 8, 5},
      {"concurrency 0", {{"PROXY_CONFIG", "concurrency: 0"}, {"ZTUNNEL_CPU_LIMIT", "6"}}, 8, 6},
      {"the limit may say one", {{"ZTUNNEL_RESOURCE_CPU_LIMIT", "500m"}}, 8, 1},
      {"limit and request", {{"ZTUNNEL_RESOURCE_CPU_LIMIT", "1"}, {"ZTUNNEL_RESOURCE_CPU_REQUEST", "3"}}, 8, 3},
      {"a quarter of the cores", {}, 32, 8},
      {"a quarter rounds up", {}, 33, 9},
      {"at least two", {}, 4, 2},
      {"the request counts too", {{"ZTUNNEL_CPU_LIMIT", "8"}, {"ZTUNNEL_RESOURCE_CPU_REQUEST", "3500m"}}, 64, 4},
      {"what the chart sets", {{"ZTUNNEL_CPU_LIMIT", "2"}, {"ZTUNNEL_RESOURCE_CPU_REQUEST", "200m"}}, 64, 2},
  }));
  INFO(row.name);
  CHECK(parse(row.variables, {}, row.cores).general.worker_threads == row.threads);
}

TEST_CASE("bad worker threads are refused") {
  for (const char* text : {"0%", "101%", "-1", "50 %", "1.5", "99999", "%", ""}) {
    INFO(text);
    CHECK_FALSE(parse_worker_threads(text, 8));
  }
}

TEST_CASE("the drain deadline follows the grace period, unless set itself") {
  using Row = std::tuple<const char*, int>;
  const auto [grace, deadline] =
      GENERATE(table<const char*, int>({Row{"30", 25}, Row{"11", 6}, Row{"10", 9}, Row{"2", 1}, Row{"1", 1}, Row{"0", 1}}));
  INFO(grace);
  CHECK(parse({{"TERMINATION_GRACE_PERIOD_SECONDS", grace}}).general.drain_deadline == std::chrono::seconds(deadline));
  CHECK(
      parse({{"TERMINATION_GRACE_PERIOD_SECONDS", grace}, {"CONNECTION_TERMINATION_DEADLINE", "1m30s"}}).general.drain_deadline ==
      90s);
}

TEST_CASE("durations in the peer's notation start the proxy and mean the same") {
  CHECK(parse({{"SECRET_TTL", "1day"}}).control.secret_ttl == 24h);
  CHECK(parse({{"SECRET_TTL", "1w"}}).control.secret_ttl == 168h);
  CHECK(parse({{"SECRET_TTL", "0s"}}).control.secret_ttl == 0s);  // istiod's own
  CHECK(parse({{"KEEPALIVE_TIME", "2min"}}).socket.keepalive_time == 120s);
  CHECK(parse({{"KEEPALIVE_INTERVAL", "30S"}}).socket.keepalive_interval == 30s);
  CHECK(parse({{"POOL_UNUSED_RELEASE_TIMEOUT", "1m*10"}}).tunnel.idle_release == 10min);
  CHECK(parse({{"CONNECTION_TERMINATION_DEADLINE", "30"}}).general.drain_deadline == 30s);
  CHECK(parse({{"CONNECTION_TERMINATION_DEADLINE", "500y"}}).general.drain_deadline > 24h * 365);
}

TEST_CASE("a value of the peer's that the kernel or HTTP/2 cannot have is taken for the nearest with a warning") {
  using Row = std::tuple<const char*, const char*, const char*>;
  const auto [name, value, warning] = GENERATE(table<const char*, const char*, const char*>({
      Row{"KEEPALIVE_TIME", "12h", "is more than can be; it is taken for 32767s"},
      Row{"KEEPALIVE_RETRIES", "1000", "is more than can be; it is taken for 127"},
      Row{"POOL_UNUSED_RELEASE_TIMEOUT", "0s", "is less than can be; it is taken for 1s"},
      Row{"POOL_UNUSED_RELEASE_TIMEOUT", "500y", "is more than can be; it is taken for 3153600000s"},
      Row{"HTTP2_STREAM_WINDOW_SIZE", "1000", "is less than can be; it is taken for 65535"},
      Row{"HTTP2_CONNECTION_WINDOW_SIZE", "0", "is less than can be; it is taken for 65535"},
  }));
  CHECK(parse({{name, value}}).warnings == std::vector<std::string>{std::string(name) + "=" + value + " " + warning});
}

TEST_CASE("a number as Helm renders it is refused with a hint") {
  CHECK(error_of({{"HTTP2_STREAM_WINDOW_SIZE", "4.194304e+06"}}) ==
        "invalid env var HTTP2_STREAM_WINDOW_SIZE=4.194304e+06 (expected a whole number from 0 to 2147483647; Helm writes large "
        "numbers so: put it in quotes in its values, \"4194304\")");
  CHECK(error_of({{"HTTP2_FRAME_SIZE", "1.5e0"}}) ==
        "invalid env var HTTP2_FRAME_SIZE=1.5e0 (expected a whole number from 16384 to 16777215)");
  CHECK(parse({{"HTTP2_FRAME_SIZE", "+16384"}}).tunnel.frame_size == 16384);
}

TEST_CASE("quantities round up") {
  using Row = std::tuple<const char*, uint64_t>;
  const auto [text, value] =
      GENERATE(table<const char*, uint64_t>({Row{"2", 2}, Row{"1.5", 2}, Row{"500m", 1}, Row{"2000m", 2}, Row{"2001m", 3},
                                             Row{"64Mi", 64u << 20}, Row{"1k", 1000}, Row{"1e3", 1000}, Row{"0", 0}}));
  INFO(text);
  CHECK(parse_quantity(text) == value);
  for (const char* bad : {"", "m", "-1", "1.5x", "nan", "inf", "1e30", "0x10", " 1"}) {
    INFO(bad);
    CHECK_FALSE(parse_quantity(bad));
  }
}

TEST_CASE("where the control plane is") {
  struct Row {
    const char* name;
    Variables variables;
    std::optional<std::string> xds, ca;
  };
  const std::string cluster = "https://istiod.istio-system.svc:15012";
  const std::string local = "https://localhost:15012";
  const auto row = GENERATE_REF(values<Row>({
      {"outside of a cluster", {}, local, local},
      {"inside of one", {{"KUBERNETES_SERVICE_HOST", "10.0.0.1"}}, cluster, cluster},
      {"the proxy config's address", {{"PROXY_CONFIG", "discoveryAddress: istiod.x.svc:1"}}, "https://istiod.x.svc:1", local},
      {"the variable goes first", {{"PROXY_CONFIG", "discoveryAddress: a:1"}, {"XDS_ADDRESS", "b:2"}}, "https://b:2", local},
      {"no control plane", {{"XDS_ADDRESS", ""}}, std::nullopt, local},
      {"a literal IPv6 address", {{"XDS_ADDRESS", "https://[fd00::1]:15012"}}, "https://[fd00::1]:15012", local},
      {"embedded CA", {{"EMBEDDED_CA_DIR", "/tmp/ca"}}, local, std::nullopt},
  }));
  INFO(row.name);
  const auto config = parse(row.variables);
  CHECK(config.control.xds_address == row.xds);
  CHECK(config.control.ca_address == row.ca);
}

TEST_CASE("token and roots: path, literal, SYSTEM, PEM text") {
  const Files files{{"./var/run/secrets/tokens/istio-token", "t"}, {"/my/token", "t"}};
  CHECK(parse({}, files).control.token.source == Token::Source::kFile);
  CHECK(parse({}, files).control.token.value == "./var/run/secrets/tokens/istio-token");
  CHECK(parse({{"AUTH_TOKEN", "/my/token"}}, files).control.token.source == Token::Source::kFile);
  CHECK(parse({{"AUTH_TOKEN", "abc"}}, files).control.token.source == Token::Source::kLiteral);
  CHECK(parse({{"AUTH_TOKEN", ""}}, files).control.token.source == Token::Source::kNone);
  CHECK(parse({{"XDS_ROOT_CA", "SYSTEM"}}).control.xds_root.source == Roots::Source::kSystem);
  CHECK(parse({{"CA_ROOT_CA", "-----BEGIN CERTIFICATE-----"}}).control.ca_root.source == Roots::Source::kInline);
  CHECK(parse({{"CA_ROOT_CA", "/x.pem"}}).control.ca_root.source == Roots::Source::kFile);
}

TEST_CASE("no secret is printed") {
  const auto config = parse({{"AUTH_TOKEN", "s3cret-token"},
                             {"XDS_HEADER_X-Key", "s3cret-header"},
                             {"CA_HEADER_X-Key", "s3cret-header"},
                             {"CA_ROOT_CA", "-----BEGIN CERTIFICATE-----\ns3cret"}});
  CHECK(config.control.xds_headers == HeaderList{{"x-key", "s3cret-header"}});
  std::string json;
  JsonWriter writer(json);
  write_config_json(writer, config);
  CHECK_THAT(json, !Catch::Contains("s3cret"));
  CHECK_THAT(config_yaml(config), !Catch::Contains("s3cret"));
}

TEST_CASE("node id and metadata are what istiod expects") {
  auto variables = chart_variables();
  variables["ISTIO_METAJSON_LABELS"] = R"({"a":"b"})";
  variables["PROXY_CONFIG"] = "proxyMetadata: {ISTIO_META_DNS_CAPTURE: \"false\", X: y}";
  const auto config = parse(variables);
  CHECK(config.node.id == "ztunnel~10.240.1.2~ztunnel-a.istio-system~istio-system.svc.cluster.local");
  CHECK(config.node.metadata == std::map<std::string, std::string>{{"NAME", "ztunnel-a"},
                                                                   {"NAMESPACE", "istio-system"},
                                                                   {"INSTANCE_IPS", "10.240.1.2"},
                                                                   {"NODE_NAME", "node-a"},
                                                                   {"DNS_CAPTURE", "true"},
                                                                   {"CLUSTER_ID", "Kubernetes"},
                                                                   {"ISTIO_VERSION", "1.32-alpha"},
                                                                   {"ENABLE_HBONE", "true"},
                                                                   {"X", "y"}});
  CHECK(config.node.json == std::map<std::string, std::string>{{"LABELS", R"({"a":"b"})"}});
  CHECK(config.general.own_identity() == "spiffe://cluster.local/ns/istio-system/sa/ztunnel");
  CHECK(config.telemetry.istio_version == "1.32-alpha");
}

TEST_CASE("mesh config file, overlaid by PROXY_CONFIG") {
  const Files files{{kMeshConfigPath,
                     "trustDomain: ignored\ndefaultConfig:\n  discoveryAddress: file:1\n  proxyAdminPort: 16000\n"
                     "  proxyMetadata: {A: file, B: file}\n"}};
  const auto config = parse({{"PROXY_CONFIG", R"({"statsPort": 16020, "proxyMetadata": {"B": "env"}})"}}, files);
  CHECK(config.control.xds_address == "https://file:1");
  CHECK(std::get<LocalhostPort>(config.listen.admin).port == 16000);
  CHECK(std::get<SocketAddress>(config.listen.stats).port == 16020);
  CHECK(config.node.proxy_metadata.at("A") == "file");
  CHECK(config.node.proxy_metadata.at("B") == "env");
  CHECK(parse({{"PROXY_CONFIG", ""}}, {{kMeshConfigPath, ""}}).control.xds_address == "https://localhost:15012");
  for (const char* bad : {"defaultConfig: 3", "a: b: c", "[1]", "defaultConfig: {concurrency: [1]}", "\"unfinished"}) {
    INFO(bad);
    CHECK_THAT(error_of({}, {{kMeshConfigPath, bad}}), Catch::StartsWith("invalid mesh config ./etc/istio/config/mesh: "));
  }
}

TEST_CASE("a configuration file that cannot be read stops the start") {
  auto env = environment({});
  env.read_file = [](const std::string& path) -> Result<std::optional<std::string>> {
    return fail(Reason::kInvalidInput, path + ": Permission denied");
  };
  const auto config = parse_config(env);
  REQUIRE_FALSE(config);
  CHECK(config.error().text == "./etc/istio/config/mesh: Permission denied");
}

TEST_CASE("listeners follow IPv6, metadata and SOCKS5") {
  CHECK(parse({}).listen.inbound.to_string() == "[::]:15008");
  CHECK(parse({{"IPV6_ENABLED", "false"}}).listen.inbound.to_string() == "0.0.0.0:15008");
  CHECK(std::get<LocalhostPort>(parse({{"ISTIO_META_DNS_PROXY_ADDR", "localhost:5353"}}).listen.dns).port == 5353);
  CHECK(std::get<LocalhostPort>(parse({{"ISTIO_META_DNS_PROXY_ADDR", "LocalHost:5353"}}).listen.dns).port == 5353);
  CHECK(std::get<SocketAddress>(parse({{"ISTIO_META_DNS_PROXY_ADDR", "127.0.0.5:53"}}).listen.dns).to_string() == "127.0.0.5:53");
  CHECK(std::get<SocketAddress>(parse({{"ISTIO_META_DNS_PROXY_ADDR", "[::]:53"}}).listen.dns).to_string() == "[::]:53");
  const auto socks = parse({{"UNSTABLE_ENABLE_SOCKS5", "true"}});
  CHECK(socks.listen.socks5->to_string() == "127.0.0.1:15080");
  CHECK(socks.listen.illegal_ports.back() == 15080);
}

TEST_CASE("DNS capture is on unless metadata says otherwise") {
  using Row = std::tuple<const char*, bool>;
  const auto [text, on] = GENERATE(
      table<const char*, bool>({Row{"true", true}, Row{"TRUE", true}, Row{"false", false}, Row{"", false}, Row{"yes", false}}));
  INFO(text);
  CHECK(parse({{"ISTIO_META_DNS_CAPTURE", text}}).general.dns_proxy == on);
}

TEST_CASE("dedicated mode names its workload and marks no packets") {
  const auto config = parse({{"PROXY_MODE", "dedicated"}, {"PROXY_WORKLOAD_INFO", "shop/client-0/client"}});
  CHECK(config.general.dedicated_workload->name == "client-0");
  CHECK(config.general.dedicated_workload->ns == "shop");
  CHECK(config.general.dedicated_workload->service_account == "client");
  CHECK_FALSE(config.socket.mark);
}

TEST_CASE("aliases of the trust domain are names between commas") {
  CHECK(parse({}).tls.trust_domain_aliases.empty());
  CHECK(parse({{"ZT_TRUST_DOMAIN_ALIASES", ""}}).tls.trust_domain_aliases.empty());
  CHECK(parse({{"ZT_TRUST_DOMAIN_ALIASES", "old.example,td2"}}).tls.trust_domain_aliases ==
        std::vector<std::string>{"old.example", "td2"});
  for (const char* const wrong : {"a/b", "a,,b", "a,", "a b"}) {
    INFO(wrong);
    CHECK_THAT(error_of({{"ZT_TRUST_DOMAIN_ALIASES", wrong}}), Catch::Contains("is no trust domain"));
  }
}

TEST_CASE("odd values that the peer tolerates are warnings") {
  using Row = std::tuple<const char*, const char*>;
  const auto [name, value] = GENERATE(table<const char*, const char*>(
      {Row{"ZT_TYPO", "1"}, Row{"LOG_FORMAT", "xml"}, Row{"RUST_LOG", "h2=loud"}, Row{"COMPLIANCE_POLICY", "none"}}));
  INFO(name);
  const auto config = parse({{name, value}});
  REQUIRE(config.warnings.size() == 1);
  CHECK_THAT(config.warnings.front(), Catch::Contains(name));
}

TEST_CASE("RUST_LOG is added to the default filter") {
  CHECK(parse({{"RUST_LOG", "access=debug"}}).telemetry.log_filter == "hickory_server::server=off,info,access=debug");
}

TEST_CASE("what a build cannot do is said, never ignored") {
  const auto config = parse(
      {{"UNSTABLE_ENABLE_SOCKS5", "true"}, {"CRL_PATH", "/crl"}, {"TLS12_ENABLED", "true"}, {"ISTIO_META_DNS_CAPTURE", "true"}});
  CHECK(unsupported(config, {}).size() == 6);  // and control plane, CA
  // Nobody has asked for DNS capture here, so nobody misses it.
  CHECK(unsupported(parse({}), {}).size() == 2);
  BuildFeatures all;
  all.xds = all.ca_client = all.on_demand = all.dns_proxy = all.socks5 = all.crl = all.tls12 = all.dedicated_mode = true;
  CHECK(unsupported(config, all).empty());
  CHECK(unsupported(parse({{"FAKE_CA", "true"}}), all) ==
        std::vector<std::string>{"FAKE_CA=true is for the peer's tests: set EMBEDDED_CA_DIR instead"});
}

TEST_CASE("resolv.conf is read as resolvers read it") {
  const auto config = parse_resolv_conf(
      "# a comment\n; another\nnameserver 10.0.0.10\nnameserver fd00::53\r\nnameserver not-an-ip\n"
      "domain old\nsearch a.svc.cluster.local.  cluster.local\noptions ndots:99 timeout:2 attempts:x "
      "rotate\nsortlist 1\nnameserver");
  REQUIRE(config.name_servers.size() == 2);
  CHECK(config.name_servers[1].to_string() == "[fd00::53]:53");
  CHECK(config.search == std::vector<std::string>{"a.svc.cluster.local", "cluster.local"});
  CHECK(config.ndots == 15);
  CHECK(config.timeout_seconds == 2);
  CHECK(config.attempts == 2);
  CHECK(parse_resolv_conf("").name_servers.empty());
}
