#pragma once
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "identity/openssl_ptr.h"
#include "identity/spiffe_id.h"
#include "identity/trust_bundle.h"
#include "identity/wall_time.h"
#include "identity/x509_info.h"

namespace zt::identity {

inline constexpr size_t kMaxChainParts = 32;             // elements of a CA's answer
inline constexpr size_t kMaxChainPartBytes = 256 << 10;  // PEM text of one element (the root bundle has its own limit)
inline constexpr size_t kMaxIntermediates = 16;

// A workload's certificate with its private key, its intermediates and the roots that came with it.
// Immutable, shared between threads by shared_ptr<const>; the OpenSSL objects may be given to an SSL_CTX of
// any thread (they are reference counted and nobody modifies them). The key is wiped when the last owner
// goes, and no member turns it into text.
class WorkloadCertificate {
 public:
  // A CA's answer (contract §7.3): [0] leaf, then intermediates, last the root bundle; `key` belongs to the
  // leaf. An element may hold several PEM blocks: what follows the leaf in element 0 counts as intermediates.
  // With `expected`, the leaf's first URI SAN must be that identity. Every failure is kIdentityUnavailable
  // and says which element and why.
  static Result<std::shared_ptr<const WorkloadCertificate>> from_pem(std::span<const std::string> chain, PkeyPtr key,
                                                                     const std::optional<SpiffeId>& expected);
  // From parsed parts; the same checks on key and identity.
  static Result<std::shared_ptr<const WorkloadCertificate>> create(X509Ptr leaf, std::vector<X509Ptr> intermediates,
                                                                   std::shared_ptr<const TrustBundle> roots, PkeyPtr key,
                                                                   const std::optional<SpiffeId>& expected);

  // Borrowed for as long as this object lives; OpenSSL's functions want them non-const to count references.
  [[nodiscard]] X509* leaf() const { return leaf_.get(); }
  [[nodiscard]] std::span<const X509Ptr> intermediates() const { return intermediates_; }  // never holds a root
  [[nodiscard]] EVP_PKEY* private_key() const { return key_.get(); }
  [[nodiscard]] const std::shared_ptr<const TrustBundle>& roots() const { return roots_; }

  // First SPIFFE URI SAN of the leaf; a certificate without one has no identity.
  [[nodiscard]] const std::optional<SpiffeId>& identity() const { return identity_; }
  [[nodiscard]] WallTime not_before() const { return validity_.not_before; }
  [[nodiscard]] WallTime not_after() const { return validity_.not_after; }
  [[nodiscard]] bool expired(WallTime now) const { return now >= validity_.not_after; }
  [[nodiscard]] std::string serial() const { return serial_decimal(leaf_.get()); }
  [[nodiscard]] std::vector<CertificateDump> dump_chain() const;  // leaf, then intermediates

 private:
  WorkloadCertificate() = default;
  X509Ptr leaf_;
  std::vector<X509Ptr> intermediates_;
  std::shared_ptr<const TrustBundle> roots_;
  PkeyPtr key_;
  std::optional<SpiffeId> identity_;
  Validity validity_;
};

using CertificatePtr = std::shared_ptr<const WorkloadCertificate>;

// What a handshake needs: our certificate, and the newest roots of its CA. The roots may be newer than those
// that came with the certificate: a root change takes effect for all identities as soon as any certificate
// brings it (contract §14 #25). Both are set, or (in change notices only) neither.
struct Credentials {
  CertificatePtr certificate;
  std::shared_ptr<const TrustBundle> trust;
};

}  // namespace zt::identity
