#pragma once
#include <string>
#include <string_view>

namespace zt {
class JsonWriter;
}

namespace zt::ztunnel {

// What this binary was built from.
struct BuildInfo {
  std::string version;        // "0.1.0"
  std::string git_revision;   // commit, "-dirty" if the tree was changed; "unknown" outside of a checkout
  std::string rust_version;   // the member that tools expect; says the compiler
  std::string build_profile;  // "release" or "debug"
  std::string build_status;   // "Clean", "Modified" or "unknown"
  std::string istio_version;  // ISTIO_META_ISTIO_VERSION, or "unknown"
  std::string crypto_provider;
};

[[nodiscard]] BuildInfo build_info(std::string_view istio_version);

// The line of `ztunnel version` and of the log (contract §0.1): version.BuildInfo{Version:"…", …}
[[nodiscard]] std::string version_line(const BuildInfo& info);

void write_version_json(JsonWriter& json, const BuildInfo& info);

}  // namespace zt::ztunnel
