#include "identity/issuer.h"

#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "identity/chain_verify.h"
#include "identity/csr.h"
#include "mesh/reason.h"

namespace zt::identity {
namespace {

std::unexpected<Error> openssl_failure(std::string_view what) {
  return fail(Reason::kIdentityUnavailable, openssl_error_text(what));
}

std::time_t to_time_t(WallTime time) { return std::chrono::floor<std::chrono::seconds>(time).time_since_epoch().count(); }

// 127 random bits with the highest set: never zero, never negative, always as long (RFC 5280 §4.1.2.2 allows
// 20 bytes).
Result<> set_random_serial(X509* certificate) {
  const BignumPtr number(BN_new());
  if (!number || BN_rand(number.get(), 127, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) != 1 ||
      BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) == nullptr)
    return openssl_failure("cannot make a serial number");
  return {};
}

Result<> set_validity(X509* certificate, WallTime not_before, WallTime not_after) {
  if (ASN1_TIME_set(X509_getm_notBefore(certificate), to_time_t(not_before)) == nullptr ||
      ASN1_TIME_set(X509_getm_notAfter(certificate), to_time_t(not_after)) == nullptr)
    return openssl_failure("cannot set the validity");
  return {};
}

// Constant texts only: nothing from outside goes through OpenSSL's configuration syntax.
Result<> add_extension(X509* certificate, X509* issuer, int nid, const char* value) {
  X509V3_CTX context{};
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const X509ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value));
  if (!extension || X509_add_ext(certificate, extension.get(), -1) != 1)
    return openssl_failure(std::string("cannot add extension ") + OBJ_nid2sn(nid));
  return {};
}

// Ed25519 and the like bring their own digest and take none.
const EVP_MD* digest_for(EVP_PKEY* key) {
  std::array<char, 64> name{};
  const bool mandatory = EVP_PKEY_get_default_digest_name(key, name.data(), name.size()) == 2;
  return mandatory && std::string_view(name.data()) == "UNDEF" ? nullptr : EVP_sha256();
}

}  // namespace

std::expected<std::shared_ptr<const Issuer>, Issuer::Refusal> Issuer::create(X509Ptr certificate, PkeyPtr key,
                                                                             std::vector<X509Ptr> chain,
                                                                             std::shared_ptr<const TrustBundle> roots,
                                                                             WallTime now) {
  const auto refuse = [](Subject subject, std::string text) { return std::unexpected(Refusal{subject, std::move(text)}); };
  if (!certificate || !key || !roots) return refuse(Subject::kCertificate, "is incomplete");
  ERR_clear_error();
  if (X509_check_private_key(certificate.get(), key.get()) != 1)
    return refuse(Subject::kKey, openssl_error_text("does not belong to the certificate"));
  if ((X509_get_key_usage(certificate.get()) & KU_KEY_CERT_SIGN) == 0)  // all bits are set if it has none
    return refuse(Subject::kCertificate, "may not sign certificates (its keyUsage lacks keyCertSign)");
  // 1 = basicConstraints CA:TRUE; the other positive answers are for certificates from before that existed.
  if (X509_check_ca(certificate.get()) != 1)
    return refuse(Subject::kCertificate, "is not a CA certificate (needs basicConstraints CA:TRUE)");
  const auto own = validity_of(certificate.get());
  if (!own) return refuse(Subject::kCertificate, own.error().text);
  if (now >= own->not_after) return refuse(Subject::kCertificate, "has expired (" + rfc3339_seconds(own->not_after) + ")");
  if (now < own->not_before) return refuse(Subject::kCertificate, "is not valid before " + rfc3339_seconds(own->not_before));
  auto path = verify_chain(certificate.get(), chain, *roots, now);
  if (!path) return refuse(Subject::kChain, "does not lead to a root: " + path.error());

  std::shared_ptr<Issuer> issuer(new Issuer);
  issuer->not_before_ = own->not_before;
  issuer->not_after_ = own->not_after;
  for (X509Ptr& link : *path) {
    if (const auto validity = validity_of(link.get())) {
      issuer->not_before_ = std::max(issuer->not_before_, validity->not_before);
      issuer->not_after_ = std::min(issuer->not_after_, validity->not_after);
    }
    issuer->chain_.push_back(std::move(link));
  }
  issuer->chain_.pop_back();  // the trust anchor: peers have it
  issuer->certificate_ = std::move(certificate);
  issuer->key_ = std::move(key);
  issuer->roots_ = std::move(roots);
  return issuer;
}

Result<CertificatePtr> Issuer::issue(const SpiffeId& id, std::chrono::seconds ttl, WallTime now) const {
  if (ttl <= ttl.zero()) return fail(Reason::kIdentityUnavailable, "the lifetime of certificates must be positive");
  if (now >= not_after_)
    return fail(Reason::kIdentityUnavailable, "the CA certificate or its root has expired (" + rfc3339_seconds(not_after_) +
                                                  "): replace it to get certificates again");
  const bool cut = ttl > std::chrono::floor<std::chrono::seconds>(not_after_ - now);  // no overflow for a huge ttl
  const WallTime not_after = cut ? not_after_ : now + ttl;
  const WallTime not_before = std::max(WallTime(now - kBackdate), not_before_);

  ZT_ASSIGN(PkeyPtr key, generate_p256_key());
  ZT_ASSIGN(const X509ExtensionPtr san, spiffe_san_extension(id));
  X509Ptr leaf(X509_new());
  if (!leaf || X509_set_version(leaf.get(), X509_VERSION_3) != 1 ||
      X509_set_issuer_name(leaf.get(), X509_get_subject_name(certificate_.get())) != 1 ||
      X509_set_pubkey(leaf.get(), key.get()) != 1)
    return openssl_failure("cannot build a certificate");
  ZT_TRY(set_random_serial(leaf.get()));
  ZT_TRY(set_validity(leaf.get(), not_before, not_after));
  ZT_TRY(add_extension(leaf.get(), certificate_.get(), NID_key_usage, "critical,digitalSignature"));
  ZT_TRY(add_extension(leaf.get(), certificate_.get(), NID_ext_key_usage, "serverAuth,clientAuth"));
  ZT_TRY(add_extension(leaf.get(), certificate_.get(), NID_basic_constraints, "critical,CA:FALSE"));
  if (X509_get0_subject_key_id(certificate_.get()) != nullptr)
    ZT_TRY(add_extension(leaf.get(), certificate_.get(), NID_authority_key_identifier, "keyid:always"));
  if (X509_add_ext(leaf.get(), san.get(), -1) != 1) return openssl_failure("cannot add the SAN");
  if (X509_sign(leaf.get(), key_.get(), digest_for(key_.get())) <= 0) return openssl_failure("cannot sign a certificate");

  std::vector<X509Ptr> intermediates;
  for (const X509Ptr& link : chain_) intermediates.push_back(share(link.get()));
  return WorkloadCertificate::create(std::move(leaf), std::move(intermediates), roots_, std::move(key), id);
}

Result<RootMaterial> make_root(WallTime now) {
  ZT_ASSIGN(PkeyPtr key, generate_p256_key());
  X509Ptr root(X509_new());
  if (!root || X509_set_version(root.get(), X509_VERSION_3) != 1 || X509_set_pubkey(root.get(), key.get()) != 1)
    return openssl_failure("cannot build a root");
  X509_NAME* name = X509_get_subject_name(root.get());
  const auto add = [name](const char* field, const char* text) {
    return X509_NAME_add_entry_by_txt(name, field, MBSTRING_ASC, reinterpret_cast<const unsigned char*>(text), -1, -1, 0) == 1;
  };
  if (!add("O", "ztunnel") || !add("CN", "ztunnel embedded root") || X509_set_issuer_name(root.get(), name) != 1)
    return openssl_failure("cannot name a root");
  ZT_TRY(set_random_serial(root.get()));
  ZT_TRY(set_validity(root.get(), now - kBackdate, now + kSelfMadeRootLifetime));
  ZT_TRY(add_extension(root.get(), root.get(), NID_basic_constraints, "critical,CA:TRUE"));
  ZT_TRY(add_extension(root.get(), root.get(), NID_key_usage, "critical,keyCertSign,cRLSign"));
  ZT_TRY(add_extension(root.get(), root.get(), NID_subject_key_identifier, "hash"));
  if (X509_sign(root.get(), key.get(), EVP_sha256()) <= 0) return openssl_failure("cannot sign a root");
  return RootMaterial{std::move(root), std::move(key)};
}

}  // namespace zt::identity
