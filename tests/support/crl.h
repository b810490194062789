#pragma once
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <catch2/catch.hpp>
#include <initializer_list>
#include <string>
#include <utility>

#include "identity/openssl_ptr.h"

namespace zt::identity::test {

// A revocation list of `issuer` that names `revoked`, signed with `key`. next_update: seconds from now.
inline X509CrlPtr make_crl(X509* issuer, EVP_PKEY* key, std::initializer_list<X509*> revoked, long next_update = 3600,
                           int reason = -1) {
  X509CrlPtr list(X509_CRL_new());
  REQUIRE(X509_CRL_set_version(list.get(), X509_CRL_VERSION_2) == 1);
  X509_CRL_set_issuer_name(list.get(), X509_get_subject_name(issuer));
  ASN1_TIME* const time = X509_gmtime_adj(nullptr, -60);
  X509_CRL_set1_lastUpdate(list.get(), time);
  for (X509* const certificate : revoked) {
    X509_REVOKED* const entry = X509_REVOKED_new();
    X509_REVOKED_set_serialNumber(entry, X509_get_serialNumber(certificate));
    X509_REVOKED_set_revocationDate(entry, time);
    if (reason >= 0) {
      ASN1_ENUMERATED* const value = ASN1_ENUMERATED_new();
      ASN1_ENUMERATED_set(value, reason);
      X509_REVOKED_add1_ext_i2d(entry, NID_crl_reason, value, 0, 0);
      ASN1_ENUMERATED_free(value);
    }
    X509_CRL_add0_revoked(list.get(), entry);
  }
  X509_gmtime_adj(time, next_update);
  X509_CRL_set1_nextUpdate(list.get(), time);
  ASN1_TIME_free(time);
  REQUIRE(X509_CRL_sign(list.get(), key, EVP_sha256()) > 0);
  return list;
}

inline std::string pem_of(X509_CRL* list) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  REQUIRE(PEM_write_bio_X509_CRL(bio.get(), list) == 1);
  char* data = nullptr;
  const long length = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<size_t>(length)};
}

inline std::string der_of(X509_CRL* list) {
  unsigned char* data = nullptr;
  const int length = i2d_X509_CRL(list, &data);
  REQUIRE(length > 0);
  std::string out(reinterpret_cast<char*>(data), static_cast<size_t>(length));
  OPENSSL_free(data);
  return out;
}

}  // namespace zt::identity::test
