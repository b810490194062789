#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "identity/openssl_ptr.h"

namespace zt::identity {

inline constexpr size_t kMaxRevocationBytes = 16 << 20;  // of a file: some 400 000 entries
inline constexpr size_t kMaxRevocationLists = 256;

// The certificate revocation lists of one file (contract §2.11). Immutable; any thread.
//
// A certificate is revoked if a list of its issuer's name names its serial number and that issuer signed the
// list. So a list of somebody else with our issuer's name, or with a forged entry, revokes nothing, and a
// certificate without a list is good. Whatever the scope of a list (delta, one distribution point, an unknown
// extension) and however old it is, an entry that it has counts: revoking too little would be the worse
// error.
class RevocationLists {
 public:
  // PEM with any number of lists, other blocks ignored, or one list in DER. Nothing at all is no revocations.
  // kInvalidInput: a list is damaged, which one and how; too large, too many.
  static Result<std::shared_ptr<const RevocationLists>> parse(std::string_view content);

  // The first certificate of `chain` that is revoked, or nullptr. Leaf first; each is issued by the next; the
  // last one is the trust anchor, which nobody can revoke. Costs a look-up for each certificate, and a
  // signature's check only where a serial number is listed.
  [[nodiscard]] const X509* revoked_in(std::span<const X509Ptr> chain) const;

  [[nodiscard]] size_t lists() const { return lists_.size(); }
  [[nodiscard]] size_t entries() const { return entries_; }

 private:
  RevocationLists() = default;
  std::vector<X509CrlPtr> lists_;
  size_t entries_ = 0;
};

using RevocationListsPtr = std::shared_ptr<const RevocationLists>;  // nothing: nothing is revoked

// "certificate CN=…, serial number 42, is revoked"
[[nodiscard]] std::string revoked_text(const X509* certificate);

}  // namespace zt::identity
