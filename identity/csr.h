#pragma once
#include <string>

#include "base/result.h"
#include "identity/openssl_ptr.h"
#include "identity/spiffe_id.h"

namespace zt::identity {

// A fresh ECDSA P-256 key: the only type that workloads have (contract §7.2). ~20 µs.
[[nodiscard]] Result<PkeyPtr> generate_p256_key();

// The critical subjectAltName extension with `id` as its only URI, as both CSR and leaf carry it.
[[nodiscard]] Result<X509ExtensionPtr> spiffe_san_extension(const SpiffeId& id);

// What goes to the CA, and the key that stays here. Each request has a key of its own.
struct CertificateRequest {
  std::string csr_pem;
  PkeyPtr key;
};

// PKCS#10: empty subject, one critical SAN with one URI, signed with SHA-256 (contract §7.2). Any thread.
[[nodiscard]] Result<CertificateRequest> make_certificate_request(const SpiffeId& id);

}  // namespace zt::identity
