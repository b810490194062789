#include "tests/support/istiod/test_pki.h"

#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <cstdlib>

#include "base/address.h"
#include "identity/csr.h"
#include "identity/x509_info.h"

namespace zt::test {
namespace {

using identity::BignumPtr;
using identity::BioPtr;
using identity::PkeyPtr;
using identity::X509ExtensionPtr;
using identity::X509Ptr;
using identity::X509ReqPtr;

constexpr std::chrono::minutes kBackdate{2};     // as istiod does
constexpr std::chrono::hours kRootAge{24 * 30};  // a root is older than what it signs

void require(bool holds) {
  if (!holds) std::abort();  // only a broken OpenSSL gets here
}

void add(X509* certificate, const X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context{};
  X509V3_set_ctx(&context, const_cast<X509*>(issuer), certificate, nullptr, nullptr, 0);
  const X509ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  require(extension && X509_add_ext(certificate, extension.get(), -1) == 1);
}

std::string key_text(EVP_PKEY* key) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  require(PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) == 1);
  char* data = nullptr;
  const long length = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<size_t>(length)};
}

}  // namespace

TestPki::TestPki(std::string_view name)
    : key_(EVP_EC_gen("P-256")), root_(start_certificate(key_.get(), std::chrono::hours(24 * 365))) {
  X509_gmtime_adj(X509_getm_notBefore(root_.get()), -std::chrono::seconds(kRootAge).count());
  X509_NAME* subject = X509_get_subject_name(root_.get());
  X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(name.data()),
                             static_cast<int>(name.size()), -1, 0);
  X509_set_issuer_name(root_.get(), subject);
  add(root_.get(), root_.get(), NID_basic_constraints, "critical,CA:TRUE");
  add(root_.get(), root_.get(), NID_key_usage, "critical,keyCertSign,cRLSign");
  require(X509_sign(root_.get(), key_.get(), EVP_sha256()) > 0);
  root_pem_ = identity::pem_of(root_.get());
}

X509Ptr TestPki::start_certificate(EVP_PKEY* key, std::chrono::seconds lifetime) const {
  X509Ptr certificate(X509_new());
  X509_set_version(certificate.get(), X509_VERSION_3);
  const BignumPtr serial(BN_new());
  require(BN_rand(serial.get(), 126, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1);
  BN_to_ASN1_INTEGER(serial.get(), X509_get_serialNumber(certificate.get()));
  const std::chrono::seconds backdate = lifetime < std::chrono::seconds::zero() ? -lifetime + std::chrono::hours(1) : kBackdate;
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -backdate.count());
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), lifetime.count());
  X509_set_pubkey(certificate.get(), key);
  if (root_) X509_set_issuer_name(certificate.get(), X509_get_subject_name(root_.get()));
  return certificate;
}

ServerIdentity TestPki::server(const std::vector<std::string>& names, std::chrono::seconds lifetime) const {
  const PkeyPtr key(EVP_EC_gen("P-256"));
  const X509Ptr certificate = start_certificate(key.get(), lifetime);
  std::string sans;
  for (const std::string& name : names)
    sans += (sans.empty() ? "" : ",") + std::string(IpAddress::parse(name) ? "IP:" : "DNS:") + name;
  add(certificate.get(), root_.get(), NID_subject_alt_name, "critical," + sans);
  add(certificate.get(), root_.get(), NID_ext_key_usage, "serverAuth,clientAuth");
  require(X509_sign(certificate.get(), key_.get(), EVP_sha256()) > 0);
  return {identity::pem_of(certificate.get()), key_text(key.get())};
}

std::string TestPki::sign(std::string_view csr_pem, const std::string& uri, std::chrono::seconds lifetime) const {
  const BioPtr bio(BIO_new_mem_buf(csr_pem.data(), static_cast<int>(csr_pem.size())));
  const X509ReqPtr csr(PEM_read_bio_X509_REQ(bio.get(), nullptr, nullptr, nullptr));
  if (!csr || X509_REQ_verify(csr.get(), X509_REQ_get0_pubkey(csr.get())) != 1) return "";
  const X509Ptr certificate = start_certificate(X509_REQ_get0_pubkey(csr.get()), lifetime);
  add(certificate.get(), root_.get(), NID_key_usage, "critical,digitalSignature,keyEncipherment");
  add(certificate.get(), root_.get(), NID_ext_key_usage, "serverAuth,clientAuth");
  add(certificate.get(), root_.get(), NID_basic_constraints, "critical,CA:FALSE");
  add(certificate.get(), root_.get(), NID_subject_alt_name, "critical,URI:" + uri);
  require(X509_sign(certificate.get(), key_.get(), EVP_sha256()) > 0);
  return identity::pem_of(certificate.get());
}

}  // namespace zt::test
