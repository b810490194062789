#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "identity/openssl_ptr.h"
#include "identity/x509_info.h"

namespace zt::identity {

inline constexpr size_t kMaxTrustBundleBytes = 1 << 20;  // PEM text of one bundle
inline constexpr size_t kMaxTrustBundleRoots = 512;

// The roots that a CA vouches for: what peers are verified against. Immutable; shared between threads by
// shared_ptr.
class TrustBundle {
 public:
  // Concatenated PEM blocks. A block that is no certificate is skipped with a warning (contract §7.3); none
  // left is an error, and so is a text over the limits above (kIdentityUnavailable).
  static Result<std::shared_ptr<const TrustBundle>> from_pem(std::string_view pem);
  static Result<std::shared_ptr<const TrustBundle>> create(std::vector<X509Ptr> roots);

  [[nodiscard]] std::span<const X509Ptr> roots() const { return roots_; }
  // Same set of certificates, whatever their order.
  [[nodiscard]] bool same_roots(const TrustBundle& other) const { return fingerprint_ == other.fingerprint_; }
  // A new store that trusts exactly these roots. CRLs and flags are up to the caller.
  [[nodiscard]] Result<X509StorePtr> make_store() const;
  [[nodiscard]] std::vector<CertificateDump> dump() const;

 private:
  TrustBundle() = default;
  std::vector<X509Ptr> roots_;
  std::array<uint8_t, 32> fingerprint_{};  // SHA-256 over the sorted SHA-256 of each root
};

}  // namespace zt::identity
