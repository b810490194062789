#pragma once
#include <openssl/x509.h>

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "identity/spiffe_id.h"
#include "identity/wall_time.h"

// What we read out of a certificate, ours or a peer's. Pure functions of an immutable X509; any thread.
namespace zt::identity {

// Names looked at in one certificate; a hostile one could carry thousands, and each costs a parse.
inline constexpr size_t kMaxSubjectAltNames = 256;

// URI entries of the subject alternative name, in order, as they stand (also those that are no SPIFFE id).
[[nodiscard]] std::vector<std::string> uri_sans(const X509* certificate);
// Those that are SPIFFE ids of workloads, in order. The first one is who the holder is (contract §2.2 #4).
[[nodiscard]] std::vector<SpiffeId> spiffe_sans(const X509* certificate);

// Validity. An unreadable time is an error (kInvalidInput).
struct Validity {
  WallTime not_before;
  WallTime not_after;
};
[[nodiscard]] Result<Validity> validity_of(const X509* certificate);

// Whose certificate it is, for error texts, at most 200 bytes: "CN=…, O=…" (RFC 2253 style), or the first URI
// where there is no such name, as in workloads' certificates, or "(no subject)".
[[nodiscard]] std::string subject_of(const X509* certificate);

[[nodiscard]] std::string serial_decimal(const X509* certificate);
[[nodiscard]] std::string rfc3339_seconds(WallTime time);  // "2026-11-24T02:52:05Z"
[[nodiscard]] std::string pem_of(const X509* certificate);

// A certificate as /config_dump shows it (contract §10.6). Holds nothing secret.
struct CertificateDump {
  std::string pem;              // base64 of the PEM text
  std::string serial_number;    // decimal
  std::string valid_from;       // RFC 3339, seconds, Z
  std::string expiration_time;  // RFC 3339, seconds, Z
};
[[nodiscard]] CertificateDump dump_certificate(const X509* certificate);

}  // namespace zt::identity
