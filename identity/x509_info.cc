#include "identity/x509_info.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <ctime>

#include "identity/openssl_ptr.h"
#include "mesh/reason.h"

namespace zt::identity {
namespace {

constexpr size_t kMaxSubjectBytes = 200;

std::string bio_text(BIO* bio) {
  char* data = nullptr;
  const long length = BIO_get_mem_data(bio, &data);
  return length > 0 ? std::string(data, static_cast<size_t>(length)) : std::string();
}

Result<WallTime> time_of(const ASN1_TIME* time, std::string_view which) {
  std::tm parts{};
  if (time == nullptr || ASN1_TIME_to_tm(time, &parts) != 1)
    return fail(Reason::kInvalidInput, openssl_error_text("unreadable " + std::string(which) + " time"));
  return WallTime(std::chrono::seconds(timegm(&parts)));
}

std::string base64(std::string_view text) {
  std::string out(4 * ((text.size() + 2) / 3) + 1, '\0');  // EVP_EncodeBlock adds a NUL
  const int length = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()),
                                     reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  out.resize(static_cast<size_t>(length));
  return out;
}

}  // namespace

std::vector<std::string> uri_sans(const X509* certificate) {
  std::vector<std::string> uris;
  ERR_set_mark();  // an absent or malformed extension is an answer, not an error of the caller's next call
  const GeneralNamesPtr names(static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  ERR_pop_to_mark();
  if (!names) return uris;
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()) && uris.size() < kMaxSubjectAltNames; ++i) {
    int type = 0;
    const void* value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), i), &type);
    if (type != GEN_URI) continue;
    // By length, not to the first NUL: "spiffe://good\0.evil" must not pass for "spiffe://good".
    const auto* uri = static_cast<const ASN1_IA5STRING*>(value);
    uris.emplace_back(reinterpret_cast<const char*>(ASN1_STRING_get0_data(uri)), static_cast<size_t>(ASN1_STRING_length(uri)));
  }
  return uris;
}

std::vector<SpiffeId> spiffe_sans(const X509* certificate) {
  std::vector<SpiffeId> ids;
  for (const std::string& uri : uri_sans(certificate))
    if (auto id = SpiffeId::parse(uri)) ids.push_back(std::move(*id));
  return ids;
}

Result<Validity> validity_of(const X509* certificate) {
  Validity validity;
  ZT_ASSIGN(validity.not_before, time_of(X509_get0_notBefore(certificate), "notBefore"));
  ZT_ASSIGN(validity.not_after, time_of(X509_get0_notAfter(certificate), "notAfter"));
  return validity;
}

std::string subject_of(const X509* certificate) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (!bio || X509_NAME_print_ex(bio.get(), X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253) < 0)
    return "(unreadable subject)";
  std::string text = bio_text(bio.get());
  if (text.empty()) {
    const auto uris = uri_sans(certificate);
    text = uris.empty() ? "(no subject)" : uris.front();
  }
  if (text.size() > kMaxSubjectBytes) text.resize(kMaxSubjectBytes);
  return text;
}

std::string serial_decimal(const X509* certificate) {
  const BignumPtr number(ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), nullptr));
  char* text = number ? BN_bn2dec(number.get()) : nullptr;
  if (text == nullptr) return "0";  // istioctl needs a number, whatever the certificate holds
  std::string out(text);
  OPENSSL_free(text);
  return out;
}

std::string rfc3339_seconds(WallTime time) {
  const std::time_t seconds = std::chrono::floor<std::chrono::seconds>(time).time_since_epoch().count();
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[40];
  const size_t length = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return {text, length};
}

std::string pem_of(const X509* certificate) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (!bio || PEM_write_bio_X509(bio.get(), certificate) != 1) return {};
  return bio_text(bio.get());
}

CertificateDump dump_certificate(const X509* certificate) {
  CertificateDump dump{base64(pem_of(certificate)), serial_decimal(certificate), {}, {}};
  if (const auto validity = validity_of(certificate)) {
    dump.valid_from = rfc3339_seconds(validity->not_before);
    dump.expiration_time = rfc3339_seconds(validity->not_after);
  }
  return dump;
}

}  // namespace zt::identity
