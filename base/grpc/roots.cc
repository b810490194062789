#include <openssl/err.h>
#include <openssl/pem.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>

#include "base/file.h"
#include "base/grpc/endpoint.h"

// What an endpoint reads from files.
namespace zt::rpc {
namespace {

// Where distributions keep the system's roots.
constexpr const char* kSystemBundles[] = {
    "/etc/ssl/certs/ca-certificates.crt",                 // Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",                   // Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",                             // SUSE
    "/etc/pki/tls/cacert.pem",                            // older RHEL
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  // newer RHEL
    "/etc/ssl/cert.pem",                                  // BSD, Alpine
};

// gRPC would only say that its handshake failed.
bool has_certificate(const std::string& pem) {
  const std::unique_ptr<BIO, decltype(&BIO_free_all)> bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())),
                                                          BIO_free_all);
  const std::unique_ptr<X509, decltype(&X509_free)> first(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr), X509_free);
  ERR_clear_error();
  return first != nullptr;
}

Result<std::string> system_bundle() {
  if (const char* path = std::getenv("SSL_CERT_FILE")) return std::string(path);
  const auto* found = std::ranges::find_if(kSystemBundles, [](const char* path) { return std::ifstream(path).good(); });
  if (found != std::end(kSystemBundles)) return std::string(*found);
  return fail(Fault::kInvalidInput, "no file with the system's roots found; SSL_CERT_FILE can name one");
}

}  // namespace

Result<std::string> Endpoint::read_roots() const {
  std::string pem = options_.roots.value;
  std::string where = "the root given inline";
  if (options_.roots.source != Roots::Source::kInline) {
    std::string path = options_.roots.value;
    if (options_.roots.source == Roots::Source::kSystem) {
      ZT_ASSIGN(path, system_bundle());
    }
    ZT_ASSIGN(pem, read_file(path, kMaxRootBytes, "the root file"));
    where = "the root file " + path;
  }
  if (!has_certificate(pem)) return fail(Fault::kInvalidInput, where + " holds no certificate that can be read");
  return pem;
}

Result<HeaderList> Endpoint::call_headers() const {
  HeaderList headers;
  const auto& [credential, with_token] = options_.credentials;
  if (credential.source != Token::Source::kNone) {
    std::string token = credential.value;
    std::string where = "the token";
    if (credential.source == Token::Source::kFile) {
      where = "the token file " + credential.value;
      ZT_ASSIGN(token, read_file(credential.value, kMaxTokenBytes, "the token file"));
    }
    const auto last = token.find_last_not_of(" \t\r\n");
    token.resize(last == std::string::npos ? 0 : last + 1);
    if (token.empty()) return fail(Fault::kInvalidInput, where + " is empty");
    // gRPC would end the process over a header with other characters.
    if (!std::ranges::all_of(token, [](char c) { return c > 0x20 && c < 0x7f; }))
      return fail(Fault::kInvalidInput, where + " holds characters that no token has");
    headers.emplace_back("authorization", "Bearer " + token);
    headers.insert(headers.end(), with_token.begin(), with_token.end());
  }
  headers.insert(headers.end(), options_.headers.begin(), options_.headers.end());
  return headers;
}

}  // namespace zt::rpc
