#include "ztunnel/telemetry/version.h"

#include <fmt/format.h>
#include <openssl/crypto.h>

#include "base/json_writer.h"

// The build gives these; a build outside of git does not know its revision.
#ifndef ZT_VERSION
#define ZT_VERSION "0.1.0"
#endif
#ifndef ZT_GIT_REVISION
#define ZT_GIT_REVISION "unknown"
#endif

namespace zt::ztunnel {

BuildInfo build_info(std::string_view istio_version) {
  constexpr std::string_view kRevision = ZT_GIT_REVISION;
  BuildInfo info;
  info.version = ZT_VERSION;
  info.git_revision = kRevision;
#ifdef __clang__
  info.rust_version = fmt::format("C++ clang {}.{}.{}", __clang_major__, __clang_minor__, __clang_patchlevel__);
#else
  info.rust_version = fmt::format("C++ gcc {}.{}.{}", __GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__);
#endif
#ifdef NDEBUG
  info.build_profile = "release";
#else
  info.build_profile = "debug";
#endif
  info.build_status = kRevision == "unknown" ? "unknown" : kRevision.ends_with("-dirty") ? "Modified" : "Clean";
  info.istio_version = istio_version.empty() ? "unknown" : istio_version;
  info.crypto_provider = fmt::format("openssl {}", OpenSSL_version(OPENSSL_VERSION_STRING));
  return info;
}

std::string version_line(const BuildInfo& info) {
  return fmt::format(
      "version.BuildInfo{{Version:\"{}\", GitRevision:\"{}\", RustVersion:\"{}\", BuildProfile:\"{}\", "
      "BuildStatus:\"{}\", "
      "IstioVersion:\"{}\", CryptoProvider:\"{}\"}}",
      info.version, info.git_revision, info.rust_version, info.build_profile, info.build_status, info.istio_version,
      info.crypto_provider);
}

void write_version_json(JsonWriter& json, const BuildInfo& info) {
  json.begin_object();
  json.member("buildProfile", info.build_profile);
  json.member("buildStatus", info.build_status);
  json.member("cryptoProvider", info.crypto_provider);
  json.member("gitRevision", info.git_revision);
  json.member("istioVersion", info.istio_version);
  json.member("rustVersion", info.rust_version);
  json.member("version", info.version);
  json.end_object();
}

}  // namespace zt::ztunnel
