#pragma once
#include <openssl/x509v3.h>

#include <string>

#include "tests/identity/support.h"

namespace zt::identity::test {

// CA certificates with what a test wants wrong in them.
struct CaSpec {
  std::string name = "test CA";
  const char* constraints = "critical,CA:TRUE";  // nullptr: none
  const char* usage = "critical,keyCertSign,cRLSign";
  WallTime not_before = wall_of(2026, 1, 1);
  WallTime not_after = wall_of(2027, 1, 1);
  const EVP_MD* digest = EVP_sha256();
};

inline X509Ptr make_ca_certificate(const CaSpec& spec, EVP_PKEY* key, const X509* issuer, EVP_PKEY* issuer_key) {
  X509Ptr certificate(X509_new());
  X509* self = certificate.get();
  X509_set_version(self, X509_VERSION_3);
  static long serial = 1000;
  ASN1_INTEGER_set(X509_get_serialNumber(self), ++serial);
  const auto set_time = [](ASN1_TIME* field, WallTime time) {
    ASN1_TIME_set(field, std::chrono::floor<std::chrono::seconds>(time).time_since_epoch().count());
  };
  set_time(X509_getm_notBefore(self), spec.not_before);
  set_time(X509_getm_notAfter(self), spec.not_after);
  X509_set_pubkey(self, key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(self), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(spec.name.c_str()), -1, -1, 0);
  X509_set_issuer_name(self, X509_get_subject_name(issuer != nullptr ? issuer : self));
  X509V3_CTX context{};
  X509V3_set_ctx(&context, issuer != nullptr ? const_cast<X509*>(issuer) : self, self, nullptr, nullptr, 0);
  const auto add = [&](int nid, const char* value) {
    if (value == nullptr) return;
    const X509ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value));
    X509_add_ext(self, extension.get(), -1);
  };
  add(NID_basic_constraints, spec.constraints);
  add(NID_key_usage, spec.usage);
  add(NID_subject_key_identifier, "hash");
  if (issuer != nullptr) add(NID_authority_key_identifier, "keyid:always");
  EVP_PKEY* signer = issuer_key != nullptr ? issuer_key : key;
  X509_sign(self, signer, EVP_PKEY_is_a(signer, "ED25519") ? nullptr : spec.digest);
  return certificate;
}

// Istio's four plug-in files: an intermediate below a root.
struct PluginCa {
  PkeyPtr root_key, ca_key;
  X509Ptr root, ca;

  static PluginCa make(PkeyPtr root_key, PkeyPtr ca_key, const CaSpec& spec = {}, CaSpec root_spec = {.name = "test root"}) {
    PluginCa out;
    out.root_key = std::move(root_key);
    out.ca_key = std::move(ca_key);
    out.root = make_ca_certificate(root_spec, out.root_key.get(), nullptr, nullptr);
    out.ca = make_ca_certificate(spec, out.ca_key.get(), out.root.get(), out.root_key.get());
    return out;
  }
  static PluginCa make(const CaSpec& spec = {}) { return make(PkeyPtr(EVP_EC_gen("P-256")), PkeyPtr(EVP_EC_gen("P-256")), spec); }

  void write(const std::string& directory) const {
    write_file(directory + "/ca-cert.pem", pem_of(ca.get()));
    write_file(directory + "/ca-key.pem", key_pem(ca_key.get()));
    write_file(directory + "/cert-chain.pem",
               pem_of(ca.get()) + pem_of(root.get()));  // as Istio's makefile does
    write_file(directory + "/root-cert.pem", pem_of(root.get()));
  }
  // As a Kubernetes TLS secret.
  void write_tls_secret(const std::string& directory) const {
    write_file(directory + "/tls.crt", pem_of(ca.get()) + pem_of(root.get()));
    write_file(directory + "/tls.key", key_pem(ca_key.get()));
    write_file(directory + "/ca.crt", pem_of(root.get()));
  }
};

}  // namespace zt::identity::test
