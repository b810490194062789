#include "base/grpc/host_verifier.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <functional>
#include <utility>

#include "base/address.h"

namespace zt::rpc {
namespace {

constexpr size_t kMaxNamesInError = 8;

using X509Ptr = std::unique_ptr<X509, decltype(&X509_free)>;
using BioPtr = std::unique_ptr<BIO, decltype(&BIO_free_all)>;

std::vector<std::string> names_of(const X509* certificate) {
  std::vector<std::string> out;
  auto* names = static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; i < sk_GENERAL_NAME_num(names) && out.size() < kMaxNamesInError; ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names, i);
    if (name->type == GEN_DNS || name->type == GEN_URI) {
      const ASN1_STRING* text = name->d.ia5;
      out.emplace_back(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)), static_cast<size_t>(ASN1_STRING_length(text)));
    } else if (name->type == GEN_IPADD) {
      const ASN1_STRING* bytes = name->d.iPAddress;
      const auto ip = IpAddress::from_bytes(std::string_view(reinterpret_cast<const char*>(ASN1_STRING_get0_data(bytes)),
                                                             static_cast<size_t>(ASN1_STRING_length(bytes))));
      if (ip) out.push_back(ip->to_string());
    }
  }
  GENERAL_NAMES_free(names);
  return out;
}

class HostVerifier final : public grpc::experimental::ExternalCertificateVerifier {
 public:
  explicit HostVerifier(std::vector<std::string> names) : names_(std::move(names)) {}

  bool Verify(grpc::experimental::TlsCustomVerificationCheckRequest* request, std::function<void(grpc::Status)>,
              grpc::Status* status) override {
    const auto certificate = request->peer_cert();
    const auto checked = check_host({certificate.data(), certificate.size()}, names_);
    *status = checked ? grpc::Status::OK : grpc::Status(grpc::StatusCode::UNAUTHENTICATED, checked.error().text);
    return true;  // done already
  }
  void Cancel(grpc::experimental::TlsCustomVerificationCheckRequest*) override {}

 private:
  const std::vector<std::string> names_;
};

}  // namespace

Result<> check_host(std::string_view certificate_pem, const std::vector<std::string>& names) {
  const BioPtr bio(BIO_new_mem_buf(certificate_pem.data(), static_cast<int>(certificate_pem.size())), BIO_free_all);
  const X509Ptr certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr), X509_free);
  if (!certificate) {
    ERR_clear_error();
    return fail(Fault::kInvalidInput, "the server's certificate cannot be read");
  }
  constexpr unsigned kFlags = X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS;
  for (const std::string& name : names) {
    const int matches = IpAddress::parse(name) ? X509_check_ip_asc(certificate.get(), name.c_str(), kFlags)
                                               : X509_check_host(certificate.get(), name.data(), name.size(), kFlags, nullptr);
    if (matches == 1) return {};
  }
  return fail(Fault::kInvalidInput, fmt::format("the server's certificate is for [{}], not for {}",
                                                fmt::join(names_of(certificate.get()), ", "), fmt::join(names, " or ")));
}

std::shared_ptr<grpc::experimental::CertificateVerifier> make_host_verifier(std::vector<std::string> names) {
  return grpc::experimental::ExternalCertificateVerifier::Create<HostVerifier>(std::move(names));
}

}  // namespace zt::rpc
