#pragma once
#include <chrono>
#include <memory>
#include <vector>

#include "base/result.h"
#include "identity/certificate.h"
#include "identity/openssl_ptr.h"
#include "identity/spiffe_id.h"
#include "identity/wall_time.h"

namespace zt::identity {

inline constexpr std::chrono::minutes kBackdate{2};              // of a new leaf, for peers whose clock is behind (as istiod)
inline constexpr std::chrono::days kSelfMadeRootLifetime{3650};  // of a root that we make ourselves

// Who signs: certificate, key, what stands between it and the root, and the roots. Immutable; any thread may
// issue.
class Issuer {
 public:
  // Checks what would otherwise only show at the peers: the key fits the certificate, the certificate is a
  // CA's and may sign certificates, it is valid now, and it leads over `chain` to one of `roots`. The text of
  // an error is the sentence's end only ("has expired (…)"): the caller knows which file it is about,
  // `subject` says which of the four.
  enum class Subject : uint8_t { kCertificate, kKey, kChain };
  struct Refusal {
    Subject subject;
    std::string text;
  };
  static std::expected<std::shared_ptr<const Issuer>, Refusal> create(X509Ptr certificate, PkeyPtr key,
                                                                      std::vector<X509Ptr> chain,
                                                                      std::shared_ptr<const TrustBundle> roots, WallTime now);

  // A leaf with a fresh P-256 key: empty subject, critical SAN `id`, client and server authentication, random
  // positive serial of 127 bits, valid from now - kBackdate for `ttl` from now, cut to what all its
  // issuers live. Fails with kIdentityUnavailable once an issuer has expired or ttl is not positive.
  [[nodiscard]] Result<CertificatePtr> issue(const SpiffeId& id, std::chrono::seconds ttl, WallTime now) const;

  [[nodiscard]] const X509* certificate() const { return certificate_.get(); }
  [[nodiscard]] const std::shared_ptr<const TrustBundle>& roots() const { return roots_; }
  [[nodiscard]] WallTime not_after() const { return not_after_; }  // of the first one on the way to the root that ends

 private:
  Issuer() = default;
  X509Ptr certificate_;
  PkeyPtr key_;
  std::vector<X509Ptr> chain_;  // intermediates that go out with a leaf: our certificate first unless it is a root
  std::shared_ptr<const TrustBundle> roots_;
  WallTime not_before_;
  WallTime not_after_;
};

// A new self-signed root and its key (P-256).
struct RootMaterial {
  X509Ptr certificate;
  PkeyPtr key;
};
[[nodiscard]] Result<RootMaterial> make_root(WallTime now);

}  // namespace zt::identity
