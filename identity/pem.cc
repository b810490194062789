#include "identity/pem.h"

#include <openssl/err.h>
#include <openssl/pem.h>

#include <limits>

#include "mesh/reason.h"

namespace zt::identity {
namespace {

constexpr std::string_view kBegin = "-----BEGIN ";
constexpr std::string_view kEnd = "-----END ";
constexpr std::string_view kDashes = "-----";

BioPtr memory_bio(std::string_view text) {
  if (text.size() > static_cast<size_t>(std::numeric_limits<int>::max())) return nullptr;
  return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// Without this OpenSSL would ask for the password on the terminal and hang the start.
int no_password(char*, int, int, void*) { return -1; }

}  // namespace

std::vector<PemBlock> split_pem(std::string_view pem) {
  std::vector<PemBlock> blocks;
  size_t at = 0;
  while ((at = pem.find(kBegin, at)) != std::string_view::npos) {
    const size_t label_at = at + kBegin.size();
    const size_t label_end = pem.find(kDashes, label_at);
    if (label_end == std::string_view::npos) break;
    const std::string_view label = pem.substr(label_at, label_end - label_at);
    if (label.find('\n') != std::string_view::npos) {  // the line ends before the marker does: no block begins here
      at = label_at;
      continue;
    }
    // A block that lost its end must not swallow the next one.
    const size_t next = pem.find(kBegin, label_end);
    size_t end = pem.find(kEnd, label_end);
    if (end == std::string_view::npos || end > next) {
      end = std::min(next, pem.size());
    } else {
      const size_t close = pem.find(kDashes, end + kEnd.size());
      end = close == std::string_view::npos ? pem.size() : close + kDashes.size();
    }
    blocks.push_back({label, pem.substr(at, end - at)});
    at = end;
  }
  return blocks;
}

bool is_certificate_label(std::string_view label) {
  return label == "CERTIFICATE" || label == "X509 CERTIFICATE" || label == "TRUSTED CERTIFICATE";
}

Result<X509Ptr> parse_certificate(std::string_view pem_block) {
  ERR_clear_error();
  const BioPtr bio = memory_bio(pem_block);
  X509Ptr certificate(bio ? PEM_read_bio_X509(bio.get(), nullptr, no_password, nullptr) : nullptr);
  if (!certificate) return fail(Reason::kInvalidInput, openssl_error_text("not a PEM certificate"));
  return certificate;
}

Result<std::vector<X509Ptr>> parse_certificates(std::string_view pem, size_t limit) {
  std::vector<X509Ptr> certificates;
  for (const PemBlock& block : split_pem(pem)) {
    if (!is_certificate_label(block.label)) continue;
    if (certificates.size() == limit) return fail(Reason::kInvalidInput, "more than " + std::to_string(limit) + " certificates");
    auto certificate = parse_certificate(block.text);
    if (!certificate)
      return fail(Reason::kInvalidInput,
                  "certificate " + std::to_string(certificates.size() + 1) + ": " + certificate.error().text);
    certificates.push_back(std::move(*certificate));
  }
  if (certificates.empty()) return fail(Reason::kInvalidInput, "holds no PEM certificate");
  return certificates;
}

Result<PkeyPtr> parse_private_key(std::string_view pem) {
  for (const PemBlock& block : split_pem(pem)) {
    if (!block.label.ends_with("PRIVATE KEY")) continue;
    if (block.label == "ENCRYPTED PRIVATE KEY" || block.text.find("Proc-Type: 4,ENCRYPTED") != std::string_view::npos)
      return fail(Reason::kInvalidInput, "the private key is encrypted; give it without a password (openssl pkey)");
    ERR_clear_error();
    const BioPtr bio = memory_bio(block.text);
    PkeyPtr key(bio ? PEM_read_bio_PrivateKey(bio.get(), nullptr, no_password, nullptr) : nullptr);
    if (!key) return fail(Reason::kInvalidInput, openssl_error_text("not a readable PEM private key"));
    return key;
  }
  return fail(Reason::kInvalidInput, "holds no PEM private key");
}

}  // namespace zt::identity
