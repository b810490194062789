#include "identity/certificate.h"

#include <openssl/err.h>

#include "identity/pem.h"
#include "mesh/reason.h"

namespace zt::identity {
namespace {

std::unexpected<Error> refuse(std::string text) {
  return fail(Reason::kIdentityUnavailable, "certificate from the CA: " + std::move(text));
}

bool self_signed(const X509* certificate) { return (X509_get_extension_flags(const_cast<X509*>(certificate)) & EXFLAG_SS) != 0; }

Result<> check_identity(const X509* leaf, const std::optional<SpiffeId>& expected) {
  if (!expected) return {};
  const std::vector<std::string> uris = uri_sans(leaf);
  if (uris.empty()) return refuse("has no URI SAN, expected " + expected->to_string());
  const auto id = SpiffeId::parse(uris.front());
  if (!id) return refuse("expected " + expected->to_string() + ", but: " + id.error().text);
  if (*id != *expected) return refuse("is for " + id->to_string() + ", expected " + expected->to_string());
  return {};
}

}  // namespace

Result<CertificatePtr> WorkloadCertificate::from_pem(std::span<const std::string> chain, PkeyPtr key,
                                                     const std::optional<SpiffeId>& expected) {
  if (chain.empty()) return refuse("the answer holds no certificates");
  if (chain.size() == 1) return refuse("the answer holds a leaf but no roots to verify peers with");
  if (chain.size() > kMaxChainParts) return refuse("the answer has more than " + std::to_string(kMaxChainParts) + " elements");

  std::vector<X509Ptr> certificates;
  for (size_t i = 0; i + 1 < chain.size(); ++i) {
    const std::string where = "element " + std::to_string(i) + (i == 0 ? " (leaf): " : " (intermediate): ");
    if (chain[i].size() > kMaxChainPartBytes)
      return refuse(where + "larger than " + std::to_string(kMaxChainPartBytes) + " bytes");
    auto part = parse_certificates(chain[i], 1 + kMaxIntermediates);
    if (!part) return refuse(where + part.error().text);
    for (X509Ptr& certificate : *part) certificates.push_back(std::move(certificate));
  }
  ZT_ASSIGN(auto roots, TrustBundle::from_pem(chain.back()));

  X509Ptr leaf = std::move(certificates.front());
  certificates.erase(certificates.begin());
  return create(std::move(leaf), std::move(certificates), std::move(roots), std::move(key), expected);
}

Result<CertificatePtr> WorkloadCertificate::create(X509Ptr leaf, std::vector<X509Ptr> intermediates,
                                                   std::shared_ptr<const TrustBundle> roots, PkeyPtr key,
                                                   const std::optional<SpiffeId>& expected) {
  if (!leaf || !key || !roots) return refuse("leaf, key and roots are all needed");
  // A root on the wire only costs bytes: peers trust their own copy (contract §15 #19).
  std::erase_if(intermediates, [](const X509Ptr& certificate) { return self_signed(certificate.get()); });
  if (intermediates.size() > kMaxIntermediates)
    return refuse("more than " + std::to_string(kMaxIntermediates) + " intermediates");
  ZT_TRY(check_identity(leaf.get(), expected));
  ERR_clear_error();
  if (X509_check_private_key(leaf.get(), key.get()) != 1)
    return refuse(openssl_error_text("does not belong to the key of the request"));
  auto validity = validity_of(leaf.get());
  if (!validity) return refuse(validity.error().text);
  if (validity->not_after <= validity->not_before) return refuse("ends before it begins");

  std::shared_ptr<WorkloadCertificate> certificate(new WorkloadCertificate);
  if (auto ids = spiffe_sans(leaf.get()); !ids.empty()) certificate->identity_ = std::move(ids.front());
  certificate->leaf_ = std::move(leaf);
  certificate->intermediates_ = std::move(intermediates);
  certificate->roots_ = std::move(roots);
  certificate->key_ = std::move(key);
  certificate->validity_ = *validity;
  return certificate;
}

std::vector<CertificateDump> WorkloadCertificate::dump_chain() const {
  std::vector<CertificateDump> out;
  out.reserve(1 + intermediates_.size());
  out.push_back(dump_certificate(leaf_.get()));
  for (const X509Ptr& certificate : intermediates_) out.push_back(dump_certificate(certificate.get()));
  return out;
}

}  // namespace zt::identity
