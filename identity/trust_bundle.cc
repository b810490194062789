#include "identity/trust_bundle.h"

#include <openssl/err.h>

#include <algorithm>

#include "base/log.h"
#include "identity/log_scope.h"
#include "identity/pem.h"
#include "mesh/reason.h"

namespace zt::identity {
namespace {

using Digest = std::array<uint8_t, 32>;

std::unexpected<Error> refuse(std::string text) { return fail(Reason::kIdentityUnavailable, "root bundle: " + std::move(text)); }

}  // namespace

Result<std::shared_ptr<const TrustBundle>> TrustBundle::from_pem(std::string_view pem) {
  if (pem.size() > kMaxTrustBundleBytes) return refuse("larger than " + std::to_string(kMaxTrustBundleBytes) + " bytes");
  std::vector<X509Ptr> roots;
  size_t number = 0;
  for (const PemBlock& block : split_pem(pem)) {
    ++number;
    if (roots.size() == kMaxTrustBundleRoots)
      return refuse("more than " + std::to_string(kMaxTrustBundleRoots) + " certificates");
    auto root = is_certificate_label(block.label) ? parse_certificate(block.text)
                                                  : fail(Reason::kInvalidInput, "a PEM block, but not a certificate");
    if (!root) {
      ZT_LOG(log_scope, kWarn, "skipping an entry of the root bundle", Field::count("entry", static_cast<int64_t>(number)),
             Field::string("error", root.error().text));
      continue;
    }
    roots.push_back(std::move(*root));
  }
  return create(std::move(roots));
}

Result<std::shared_ptr<const TrustBundle>> TrustBundle::create(std::vector<X509Ptr> roots) {
  if (roots.empty()) return refuse("holds no usable certificate");
  std::vector<Digest> digests(roots.size());
  for (size_t i = 0; i < roots.size(); ++i)
    if (X509_digest(roots[i].get(), EVP_sha256(), digests[i].data(), nullptr) != 1)
      return refuse(openssl_error_text("cannot digest a certificate"));
  std::ranges::sort(digests);
  const auto duplicates = std::ranges::unique(digests);
  digests.erase(duplicates.begin(), duplicates.end());

  std::shared_ptr<TrustBundle> bundle(new TrustBundle);
  if (EVP_Digest(digests.data(), digests.size() * sizeof(Digest), bundle->fingerprint_.data(), nullptr, EVP_sha256(), nullptr) !=
      1)
    return refuse(openssl_error_text("cannot digest the set"));
  bundle->roots_ = std::move(roots);
  return bundle;
}

Result<X509StorePtr> TrustBundle::make_store() const {
  ERR_clear_error();
  X509StorePtr store(X509_STORE_new());
  if (!store) return refuse(openssl_error_text("cannot make a store"));
  for (const X509Ptr& root : roots_)
    if (X509_STORE_add_cert(store.get(), root.get()) != 1)
      return refuse(openssl_error_text("cannot add a certificate to a store"));
  return store;
}

std::vector<CertificateDump> TrustBundle::dump() const {
  std::vector<CertificateDump> out;
  out.reserve(roots_.size());
  for (const X509Ptr& root : roots_) out.push_back(dump_certificate(root.get()));
  return out;
}

}  // namespace zt::identity
