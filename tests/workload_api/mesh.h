#pragma once
#include <catch2/catch.hpp>

#include <string>
#include <string_view>

#include "workload_api/store/store.h"
#include "workload_api/yaml/yaml_source.h"

// Small meshes for tests, written in the local file's YAML.
namespace zt::workload_api {

inline Batch batch_of(std::string_view yaml) {
  auto parsed = parse_local_config(yaml, "test.yaml");
  if (!parsed) FAIL(parsed.error().text);
  return std::move(*parsed);
}

inline SnapshotPtr snapshot_of(std::string_view yaml, std::optional<std::string> node_name = std::nullopt) {
  Store store({.node_name = std::move(node_name)});
  REQUIRE(store.apply(batch_of(yaml)).empty());
  return store.snapshot();
}

inline IpAddress ip(std::string_view text) {
  const auto parsed = IpAddress::parse(text);
  REQUIRE(parsed);
  return *parsed;
}

inline std::string key_of(const ServiceEntry* entry) { return entry == nullptr ? "none" : entry->service().key.str(); }
inline std::string uid_of(const Workload* workload) { return workload == nullptr ? "none" : workload->uid.str(); }

}  // namespace zt::workload_api
