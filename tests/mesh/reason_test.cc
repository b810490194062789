#include "mesh/reason.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <set>
#include <string>

using namespace zt;

TEST_CASE("every reason has a name of its own, a response flag the peer knows and a status") {
  const std::set<std::string_view> flags{
      "-", "DENY", "CONNECT", "TLS_FAILURE", "H2_HANDSHAKE_FAILURE", "NETWORK_POLICY", "IDENTITY_ERROR", "CERT_REVOKED"};
  std::set<std::string_view> names;
  for (size_t i = 0; i < static_cast<size_t>(Reason::kCount_); ++i) {
    const auto& info = reason_info(static_cast<Reason>(i));
    INFO(info.name);
    CHECK_FALSE(info.name.empty());
    CHECK(std::ranges::all_of(info.name, [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'; }));
    CHECK(names.insert(info.name).second);
    CHECK(flags.contains(info.response_flag));
    CHECK((info.http_status == 200 || (info.http_status >= 400 && info.http_status < 600)));
  }
}

TEST_CASE("reasons carry the flag and status of the contract's table") {
  using Row = std::tuple<Reason, const char*, int>;
  const auto [reason, flag, status] = GENERATE(table<Reason, const char*, int>({
      Row{Reason::kOk, "-", 200},
      Row{Reason::kDrained, "-", 503},
      Row{Reason::kPolicyDenied, "DENY", 401},
      Row{Reason::kPolicyUnknown, "DENY", 401},
      Row{Reason::kConnectFailed, "CONNECT", 503},
      Row{Reason::kConnectStatus, "CONNECT", 503},
      Row{Reason::kTlsFailed, "TLS_FAILURE", 503},
      Row{Reason::kH2Failed, "H2_HANDSHAKE_FAILURE", 503},
      Row{Reason::kNetworkPolicy, "NETWORK_POLICY", 503},
      Row{Reason::kIdentityUnavailable, "IDENTITY_ERROR", 503},
      Row{Reason::kCertRevoked, "CERT_REVOKED", 503},
      Row{Reason::kBadAuthority, "CONNECT", 400},
      Row{Reason::kIpMismatch, "CONNECT", 400},
  }));
  CHECK(reason_info(reason).response_flag == flag);
  CHECK(reason_info(reason).http_status == status);
}

TEST_CASE("a value outside of the enum is an internal error, not a wild read") {
  CHECK(reason_info(Reason::kCount_).name == "internal");
  CHECK(reason_info(static_cast<Reason>(255)).name == "internal");
}
