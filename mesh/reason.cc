#include "mesh/reason.h"

#include <array>

namespace zt {

static_assert(Reason::kInternal == Fault::kInternal && Reason::kIo == Fault::kIo &&
              Reason::kInvalidInput == Fault::kInvalidInput && Reason::kNotFound == Fault::kNotFound &&
              Reason::kResourceLimit == Fault::kResourceLimit);

const ReasonInfo& reason_info(Reason reason) {
  static constexpr std::array<ReasonInfo, static_cast<size_t>(Reason::kCount_)> kTable{{
      {"internal", "CONNECT", 503},
      {"io", "CONNECT", 503},
      {"invalid_input", "CONNECT", 503},
      {"not_found", "CONNECT", 503},
      {"resource_limit", "CONNECT", 503},
      {"ok", "-", 200},
      {"drained", "-", 503},
      {"policy_denied", "DENY", 401},
      {"policy_revoked", "DENY", 401},
      {"policy_unknown", "DENY", 401},
      {"connect_failed", "CONNECT", 503},
      {"connect_timeout", "CONNECT", 503},
      {"network_policy", "NETWORK_POLICY", 503},
      {"tls_failed", "TLS_FAILURE", 503},
      {"tls_timeout", "TLS_FAILURE", 503},
      {"h2_failed", "H2_HANDSHAKE_FAILURE", 503},
      {"connect_status", "CONNECT", 503},
      {"connect_answer_timeout", "CONNECT", 503},
      {"stream_reset", "CONNECT", 503},
      {"downstream_reset", "-", 503},
      {"upstream_reset", "-", 503},
      {"peer_lost", "CONNECT", 503},
      {"identity_unavailable", "IDENTITY_ERROR", 503},
      {"identity_timeout", "IDENTITY_ERROR", 503},
      {"cert_revoked", "CERT_REVOKED", 503},
      {"no_workload", "CONNECT", 503},
      {"no_upstream", "CONNECT", 503},
      {"no_route", "CONNECT", 503},
      {"unknown_waypoint", "CONNECT", 503},
      {"unknown_gateway", "CONNECT", 503},
      {"lookup_failed", "CONNECT", 503},
      {"no_service", "CONNECT", 503},
      {"ip_mismatch", "CONNECT", 400},
      {"recursive_call", "CONNECT", 503},
      {"bad_method", "CONNECT", 400},
      {"bad_authority", "CONNECT", 400},
      {"handshake_limit", "CONNECT", 503},
      {"tunnel_limit", "CONNECT", 503},
      {"connection_limit", "CONNECT", 503},
      {"peer_flood", "H2_HANDSHAKE_FAILURE", 503},
      {"send_timeout", "CONNECT", 503},
  }};
  const auto index = static_cast<size_t>(reason);
  return kTable[index < kTable.size() ? index : static_cast<size_t>(Reason::kInternal)];
}

}  // namespace zt
