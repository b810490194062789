#include "ztunnel/config/config_proxy.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <limits>

#include "mesh/reason.h"
#include "ztunnel/config/config_values.h"

namespace zt::ztunnel {
namespace {

constexpr std::string_view kMetaPrefix = "ISTIO_META_";

std::unexpected<Error> refuse(std::string text) { return fail(Reason::kInvalidInput, std::move(text)); }

Result<std::optional<std::string>> scalar(const YAML::Node& map, const char* key) {
  const YAML::Node node = map[key];
  if (!node || node.IsNull()) return std::nullopt;
  if (!node.IsScalar()) return refuse(fmt::format("{}: expected a scalar", key));
  return node.Scalar();
}

Result<std::optional<uint64_t>> number(const YAML::Node& map, const char* key, uint64_t high) {
  ZT_ASSIGN(const auto text, scalar(map, key));
  if (!text) return std::nullopt;
  const auto value = parse_unsigned(*text, 0, high);
  if (!value) return refuse(fmt::format("{}: {}", key, value.error().text));
  return *value;
}

Result<> overlay(const YAML::Node& map, ProxyConfig& config) {
  if (!map || map.IsNull()) return {};
  if (!map.IsMap()) return refuse("expected a map");
  ZT_ASSIGN(auto address, scalar(map, "discoveryAddress"));
  if (address) config.discovery_address = std::move(address);
  constexpr uint64_t kMaxPort = std::numeric_limits<uint16_t>::max();
  ZT_ASSIGN(const auto admin, number(map, "proxyAdminPort", kMaxPort));
  if (admin) config.admin_port = static_cast<uint16_t>(*admin);
  ZT_ASSIGN(const auto stats, number(map, "statsPort", kMaxPort));
  if (stats) config.stats_port = static_cast<uint16_t>(*stats);
  ZT_ASSIGN(const auto concurrency, number(map, "concurrency", kMaxWorkerThreads));
  if (concurrency) config.concurrency = static_cast<uint32_t>(*concurrency);

  const YAML::Node metadata = map["proxyMetadata"];
  if (!metadata || metadata.IsNull()) return {};
  if (!metadata.IsMap()) return refuse("proxyMetadata: expected a map");
  for (const auto& entry : metadata) {
    if (!entry.first.IsScalar() || !entry.second.IsScalar()) return refuse("proxyMetadata: expected a map of strings");
    std::string_view key = entry.first.Scalar();
    if (key.starts_with(kMetaPrefix)) key.remove_prefix(kMetaPrefix.size());
    config.metadata[std::string(key)] = entry.second.Scalar();
  }
  if (config.metadata.size() > kMaxMetadataEntries) {
    return refuse(fmt::format("proxyMetadata: more than {} entries", kMaxMetadataEntries));
  }
  return {};
}

// yaml-cpp reports by exception; it ends here.
Result<YAML::Node> load(const std::string& text) {
  try {
    return YAML::Load(text);
  } catch (const YAML::Exception& error) {
    return refuse(fmt::format("not valid YAML: {}", error.what()));
  }
}

Result<> overlay_text(const std::string& text, const char* member, ProxyConfig& config) {
  ZT_ASSIGN(const YAML::Node root, load(text));
  try {
    if (member == nullptr) return overlay(root, config);
    if (root.IsNull()) return {};
    if (!root.IsMap()) return refuse("expected a map");
    return overlay(root[member], config);
  } catch (const YAML::Exception& error) {
    return refuse(error.what());
  }
}

}  // namespace

Result<ProxyConfig> read_proxy_config(const Environment& environment) {
  ProxyConfig config;
  if (environment.read_file) {
    ZT_ASSIGN(const auto mesh, environment.read_file(kMeshConfigPath));
    if (mesh) {
      if (const auto done = overlay_text(*mesh, "defaultConfig", config); !done) {
        return refuse(fmt::format("invalid mesh config {}: {}", kMeshConfigPath, done.error().text));
      }
    }
  }
  if (const auto text = environment.find("PROXY_CONFIG"); text && !text->empty()) {
    if (const auto done = overlay_text(std::string(*text), nullptr, config); !done) {
      return refuse(fmt::format("invalid env var PROXY_CONFIG={} ({})", *text, done.error().text));
    }
  }
  return config;
}

}  // namespace zt::ztunnel
