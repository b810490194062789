#include "identity/csr.h"

#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <utility>

#include "mesh/reason.h"

namespace zt::identity {
namespace {

struct ExtensionsFree {
  void operator()(STACK_OF(X509_EXTENSION) * extensions) const noexcept {
    sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
  }
};
using ExtensionsPtr = std::unique_ptr<STACK_OF(X509_EXTENSION), ExtensionsFree>;
using GeneralNamePtr = std::unique_ptr<GENERAL_NAME, OpensslFree<GENERAL_NAME_free>>;
using Ia5StringPtr = std::unique_ptr<ASN1_IA5STRING, OpensslFree<ASN1_IA5STRING_free>>;

std::unexpected<Error> openssl_failure(std::string_view what) {
  return fail(Reason::kIdentityUnavailable, openssl_error_text(what));
}

}  // namespace

Result<PkeyPtr> generate_p256_key() {
  ERR_clear_error();
  PkeyPtr key(EVP_EC_gen("P-256"));
  if (!key) return openssl_failure("cannot generate a P-256 key");
  return key;
}

// Built from objects, not from OpenSSL's "URI:…" configuration syntax, where a comma in a name would start
// another entry.
Result<X509ExtensionPtr> spiffe_san_extension(const SpiffeId& id) {
  ERR_clear_error();
  const std::string uri = id.to_string();
  Ia5StringPtr text(ASN1_IA5STRING_new());
  GeneralNamePtr name(GENERAL_NAME_new());
  const GeneralNamesPtr names(GENERAL_NAMES_new());
  if (!text || !name || !names || ASN1_STRING_set(text.get(), uri.data(), static_cast<int>(uri.size())) != 1)
    return openssl_failure("cannot build the SAN");
  GENERAL_NAME_set0_value(name.get(), GEN_URI, text.release());
  if (sk_GENERAL_NAME_push(names.get(), name.get()) == 0) return openssl_failure("cannot build the SAN");
  std::ignore = name.release();  // now owned by names
  X509ExtensionPtr extension(X509V3_EXT_i2d(NID_subject_alt_name, /*crit=*/1, names.get()));
  if (!extension) return openssl_failure("cannot encode the SAN");
  return extension;
}

Result<CertificateRequest> make_certificate_request(const SpiffeId& id) {
  ZT_ASSIGN(PkeyPtr key, generate_p256_key());
  ZT_ASSIGN(X509ExtensionPtr san, spiffe_san_extension(id));
  const ExtensionsPtr extensions(sk_X509_EXTENSION_new_null());
  if (!extensions || sk_X509_EXTENSION_push(extensions.get(), san.get()) == 0) return openssl_failure("cannot build the CSR");
  std::ignore = san.release();  // now owned by extensions

  const X509ReqPtr request(X509_REQ_new());
  if (!request || X509_REQ_set_version(request.get(), X509_REQ_VERSION_1) != 1 ||
      X509_REQ_set_pubkey(request.get(), key.get()) != 1 || X509_REQ_add_extensions(request.get(), extensions.get()) != 1 ||
      X509_REQ_sign(request.get(), key.get(), EVP_sha256()) <= 0)
    return openssl_failure("cannot build the CSR");

  const BioPtr bio(BIO_new(BIO_s_mem()));
  char* data = nullptr;
  if (!bio || PEM_write_bio_X509_REQ(bio.get(), request.get()) != 1) return openssl_failure("cannot write the CSR");
  const long length = BIO_get_mem_data(bio.get(), &data);
  return CertificateRequest{std::string(data, static_cast<size_t>(length)), std::move(key)};
}

}  // namespace zt::identity
