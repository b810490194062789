#pragma once
#include <string_view>
#include <vector>

#include "base/result.h"
#include "identity/openssl_ptr.h"

// PEM text to objects. All functions are pure; errors are kInvalidInput and never quote the input, which may
// hold a key.
namespace zt::identity {

// The text of each "-----BEGIN x-----…-----END x-----" block, markers included, in order. Text around blocks
// is ignored, as RFC 7468 §5.2 allows; a block without its end is given up to the end of the text, so that
// parsing it reports the damage.
struct PemBlock {
  std::string_view label;  // "CERTIFICATE"
  std::string_view text;
};
[[nodiscard]] std::vector<PemBlock> split_pem(std::string_view pem);
[[nodiscard]] bool is_certificate_label(std::string_view label);

// One block.
[[nodiscard]] Result<X509Ptr> parse_certificate(std::string_view pem_block);
// Every certificate of the text, at least one, at most `limit`; any damaged one fails the whole. Other blocks
// are ignored.
[[nodiscard]] Result<std::vector<X509Ptr>> parse_certificates(std::string_view pem, size_t limit);
// First private key of the text: PKCS#8, PKCS#1 or SEC1. An encrypted one is refused (nobody is there to type
// a password).
[[nodiscard]] Result<PkeyPtr> parse_private_key(std::string_view pem);

}  // namespace zt::identity
