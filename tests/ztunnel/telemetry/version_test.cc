#include "ztunnel/telemetry/version.h"

#include <catch2/catch.hpp>
#include <regex>

#include "base/json_writer.h"

using namespace zt;
using namespace zt::ztunnel;

TEST_CASE("the version line has the peer's form") {
  const BuildInfo info{"1", "abc-dirty", "C++", "release", "Modified", "1.32-alpha", "openssl"};
  CHECK(version_line(info) ==
        "version.BuildInfo{Version:\"1\", GitRevision:\"abc-dirty\", RustVersion:\"C++\", "
        "BuildProfile:\"release\", "
        "BuildStatus:\"Modified\", IstioVersion:\"1.32-alpha\", CryptoProvider:\"openssl\"}");
  const std::regex form(
      R"re(version\.BuildInfo\{Version:"[^"]+", GitRevision:"[^"]+", RustVersion:"[^"]+", BuildProfile:"(release|debug)", )re"
      R"re(BuildStatus:"(Clean|Modified|unknown)", IstioVersion:"unknown", CryptoProvider:"[^"]+"\})re");
  CHECK(std::regex_match(version_line(build_info("")), form));
}

TEST_CASE("the version in the dump has the peer's members, sorted") {
  std::string out;
  JsonWriter json(out);
  write_version_json(json, {"1", "abc", "C++", "release", "Clean", "1.32-alpha", "openssl"});
  CHECK(out ==
        "{\n  \"buildProfile\": \"release\",\n  \"buildStatus\": \"Clean\",\n  \"cryptoProvider\": "
        "\"openssl\",\n"
        "  \"gitRevision\": \"abc\",\n  \"istioVersion\": \"1.32-alpha\",\n  \"rustVersion\": \"C++\",\n  "
        "\"version\": \"1\"\n}");
}
