#include "identity/revocation.h"

#include <openssl/err.h>
#include <openssl/pem.h>

#include <algorithm>

#include "identity/pem.h"
#include "identity/x509_info.h"
#include "mesh/reason.h"

namespace zt::identity {
namespace {

std::unexpected<Error> refuse(std::string text) { return fail(Reason::kInvalidInput, std::move(text)); }

Result<X509CrlPtr> parse_pem_list(std::string_view block) {
  const BioPtr bio(BIO_new_mem_buf(block.data(), static_cast<int>(block.size())));
  X509CrlPtr list(bio ? PEM_read_bio_X509_CRL(bio.get(), nullptr, nullptr, nullptr) : nullptr);
  if (!list) return refuse(openssl_error_text("not a certificate revocation list"));
  return list;
}

Result<X509CrlPtr> parse_der_list(std::string_view content) {
  const auto* at = reinterpret_cast<const unsigned char*>(content.data());
  X509CrlPtr list(d2i_X509_CRL(nullptr, &at, static_cast<long>(content.size())));
  if (!list) return refuse(openssl_error_text("neither PEM nor a certificate revocation list in DER"));
  if (at != reinterpret_cast<const unsigned char*>(content.data()) + content.size())
    return refuse("something follows the certificate revocation list");
  return list;
}

// Whether `list` has an entry of `certificate`. An entry that takes back an earlier one (removeFromCRL, which
// the look-up answers with 2) is none.
bool names(X509_CRL* list, X509* certificate) {
  X509_REVOKED* entry = nullptr;
  return X509_CRL_get0_by_cert(list, &entry, certificate) == 1;
}

bool issued_by(X509_CRL* list, const X509* issuer) {
  ERR_set_mark();
  EVP_PKEY* const key = X509_get0_pubkey(issuer);
  const bool good = key != nullptr && X509_CRL_verify(list, key) == 1;
  ERR_pop_to_mark();
  return good;
}

}  // namespace

Result<std::shared_ptr<const RevocationLists>> RevocationLists::parse(std::string_view content) {
  if (content.size() > kMaxRevocationBytes) return refuse("larger than " + std::to_string(kMaxRevocationBytes) + " bytes");
  ERR_clear_error();
  std::shared_ptr<RevocationLists> made(new RevocationLists);
  if (content.contains("-----BEGIN")) {
    size_t number = 0;
    for (const PemBlock& block : split_pem(content)) {
      ++number;
      if (block.label != "X509 CRL") continue;
      if (made->lists_.size() == kMaxRevocationLists)
        return refuse("more than " + std::to_string(kMaxRevocationLists) + " revocation lists");
      auto list = parse_pem_list(block.text);
      if (!list) return refuse("PEM block " + std::to_string(number) + ": " + list.error().text);
      made->lists_.push_back(std::move(*list));
    }
  } else if (content.find_first_not_of(" \t\r\n") != std::string_view::npos) {
    ZT_ASSIGN(auto list, parse_der_list(content));
    made->lists_.push_back(std::move(list));
  }
  for (const X509CrlPtr& list : made->lists_) {
    const STACK_OF(X509_REVOKED)* const entries = X509_CRL_get_REVOKED(list.get());
    if (entries != nullptr) made->entries_ += static_cast<size_t>(sk_X509_REVOKED_num(entries));
    // OpenSSL sorts the entries for the first look-up; do it before the list is shared.
    X509_REVOKED* none = nullptr;
    const std::unique_ptr<ASN1_INTEGER, OpensslFree<ASN1_INTEGER_free>> zero(ASN1_INTEGER_new());
    if (zero) (void)X509_CRL_get0_by_serial(list.get(), &none, zero.get());
  }
  ERR_clear_error();
  return made;
}

const X509* RevocationLists::revoked_in(std::span<const X509Ptr> chain) const {
  for (size_t i = 0; i + 1 < chain.size(); ++i) {
    X509* const certificate = chain[i].get();
    const X509* const issuer = chain[i + 1].get();
    const auto revokes = [&](const X509CrlPtr& list) {
      return X509_NAME_cmp(X509_CRL_get_issuer(list.get()), X509_get_issuer_name(certificate)) == 0 &&
             names(list.get(), certificate) && issued_by(list.get(), issuer);
    };
    if (std::ranges::any_of(lists_, revokes)) return certificate;
  }
  return nullptr;
}

std::string revoked_text(const X509* certificate) {
  return "certificate " + subject_of(certificate) + ", serial number " + serial_decimal(certificate) + ", is revoked";
}

}  // namespace zt::identity
