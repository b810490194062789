#include "identity/csr.h"

#include <openssl/pem.h>

#include <cstring>

#include "tests/identity/support.h"

namespace zt::identity {
namespace {

using namespace test;

X509ReqPtr parse(const std::string& pem) {
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  return X509ReqPtr(PEM_read_bio_X509_REQ(bio.get(), nullptr, nullptr, nullptr));
}

TEST_CASE("a CSR has a fresh P-256 key, no subject, and one critical SAN with one URI") {
  // A comma would start another entry in OpenSSL's own SAN syntax.
  const auto id = GENERATE(SpiffeId{"cluster.local", "shop", "client"}, SpiffeId{"td", "n", "a,DNS:evil.example"},
                           SpiffeId{"td", "n", std::string(1900, 'x')});
  const CertificateRequest request = must(make_certificate_request(id));
  const X509ReqPtr csr = parse(request.csr_pem);
  REQUIRE(csr);

  CHECK(X509_REQ_verify(csr.get(), X509_REQ_get0_pubkey(csr.get())) == 1);
  CHECK(X509_REQ_get_signature_nid(csr.get()) == NID_ecdsa_with_SHA256);
  CHECK(X509_NAME_entry_count(X509_REQ_get_subject_name(csr.get())) == 0);
  CHECK(EVP_PKEY_eq(X509_REQ_get0_pubkey(csr.get()), request.key.get()) == 1);
  char group[32] = {};
  EVP_PKEY_get_group_name(request.key.get(), group, sizeof group, nullptr);
  CHECK(std::string(group) == "prime256v1");

  STACK_OF(X509_EXTENSION)* extensions = X509_REQ_get_extensions(csr.get());
  REQUIRE(sk_X509_EXTENSION_num(extensions) == 1);
  X509_EXTENSION* san = sk_X509_EXTENSION_value(extensions, 0);
  CHECK(OBJ_obj2nid(X509_EXTENSION_get_object(san)) == NID_subject_alt_name);
  CHECK(X509_EXTENSION_get_critical(san) == 1);
  const GeneralNamesPtr names(static_cast<GENERAL_NAMES*>(X509V3_EXT_d2i(san)));
  REQUIRE(sk_GENERAL_NAME_num(names.get()) == 1);
  int type = 0;
  const auto* uri = static_cast<const ASN1_IA5STRING*>(GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), 0), &type));
  CHECK(type == GEN_URI);
  CHECK(std::string(reinterpret_cast<const char*>(ASN1_STRING_get0_data(uri)), static_cast<size_t>(ASN1_STRING_length(uri))) ==
        id.to_string());
  sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
}

TEST_CASE("two requests never share a key") {
  const auto a = must(make_certificate_request(id_of("a")));
  const auto b = must(make_certificate_request(id_of("a")));
  CHECK(EVP_PKEY_eq(a.key.get(), b.key.get()) != 1);
}

}  // namespace
}  // namespace zt::identity
