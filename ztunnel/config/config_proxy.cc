#include "ztunnel/config/config_proxy.h"

#include <fmt/format.h>

#include <limits>

#include "base/yaml/reader.h"
#include "mesh/reason.h"
#include "ztunnel/config/config_values.h"

namespace zt::ztunnel {
namespace {

using yaml::Value;

constexpr std::string_view kMetaPrefix = "ISTIO_META_";

std::unexpected<Error> refuse(std::string text) { return fail(Reason::kInvalidInput, std::move(text)); }

// The members that we know, by name: others (there are dozens) are not ours. Null is as good as absent.
std::optional<Value> member(const Value& map, std::string_view key) {
  std::optional<Value> found;
  map.each_pair([&](const Value& name, const Value& value) {
    if (name.text() == key && !value.is_null()) found.emplace(value.node());
  });
  return found;
}

Result<std::optional<std::string_view>> scalar(const Value& map, std::string_view key) {
  const auto value = member(map, key);
  if (!value) return std::nullopt;
  if (!value->is_scalar()) return refuse(fmt::format("{}: expected a scalar", key));
  return value->text();
}

Result<std::optional<uint64_t>> number(const Value& map, std::string_view key, uint64_t high) {
  ZT_ASSIGN(const auto text, scalar(map, key));
  if (!text) return std::nullopt;
  const auto value = parse_unsigned(*text, 0, high);
  if (!value) return refuse(fmt::format("{}: {}", key, value.error().text));
  return *value;
}

Result<> overlay(const Value& map, ProxyConfig& config) {
  if (map.is_null()) return {};
  if (!map.is_map()) return refuse("expected a map");
  ZT_ASSIGN(const auto address, scalar(map, "discoveryAddress"));
  if (address) config.discovery_address = std::string(*address);
  constexpr uint64_t kMaxPort = std::numeric_limits<uint16_t>::max();
  ZT_ASSIGN(const auto admin, number(map, "proxyAdminPort", kMaxPort));
  if (admin) config.admin_port = static_cast<uint16_t>(*admin);
  ZT_ASSIGN(const auto stats, number(map, "statsPort", kMaxPort));
  if (stats) config.stats_port = static_cast<uint16_t>(*stats);
  ZT_ASSIGN(const auto concurrency, number(map, "concurrency", kMaxWorkerThreads));
  if (concurrency) config.concurrency = static_cast<uint32_t>(*concurrency);

  const auto metadata = member(map, "proxyMetadata");
  if (!metadata) return {};
  if (!metadata->is_map()) return refuse("proxyMetadata: expected a map");
  bool texts = true;
  metadata->each_pair([&](const Value& name, const Value& value) {
    if (!value.is_scalar()) {
      texts = false;
      return;
    }
    std::string_view key = name.text();
    if (key.starts_with(kMetaPrefix)) key.remove_prefix(kMetaPrefix.size());
    config.metadata[std::string(key)] = value.text();
  });
  if (!texts) return refuse("proxyMetadata: expected a map of strings");
  if (config.metadata.size() > kMaxMetadataEntries) {
    return refuse(fmt::format("proxyMetadata: more than {} entries", kMaxMetadataEntries));
  }
  return {};
}

// `key`: the member of the document that is meant; empty: all of it. What is no YAML is refused with its line and column.
Result<> overlay_text(std::string_view text, std::string_view key, ProxyConfig& config) {
  return yaml::checked("not valid YAML", [&]() -> Result<> {
    yaml::TextSource source(text);
    yaml::Reader reader(source);
    const Value root = reader.whole();
    if (key.empty() || root.is_null()) return overlay(root, config);
    if (!root.is_map()) return refuse("expected a map");
    const auto part = member(root, key);
    return part ? overlay(*part, config) : Result<>{};
  });
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
    if (const auto done = overlay_text(*text, {}, config); !done) {
      return refuse(fmt::format("invalid env var PROXY_CONFIG={} ({})", *text, done.error().text));
    }
  }
  return config;
}

}  // namespace zt::ztunnel
