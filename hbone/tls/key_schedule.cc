#include "hbone/tls/key_schedule.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <cstring>

#include "mesh/reason.h"

namespace zt::hbone {

std::string_view cipher_suite_name(CipherSuite suite) {
  switch (suite) {
    case CipherSuite::kAes128GcmSha256: return "TLS_AES_128_GCM_SHA256";
    case CipherSuite::kAes256GcmSha384: return "TLS_AES_256_GCM_SHA384";
  }
  return "unknown";
}

TrafficSecret::TrafficSecret(std::span<const uint8_t> bytes) : size_(static_cast<uint8_t>(std::min(bytes.size(), kMaxBytes))) {
  std::copy_n(bytes.begin(), size_, bytes_.begin());
}

void wipe(std::span<uint8_t> bytes) { OPENSSL_cleanse(bytes.data(), bytes.size()); }

Result<> hkdf_expand_label(CipherSuite suite, std::span<const uint8_t> secret, std::string_view label, std::span<uint8_t> out) {
  static constexpr std::string_view kPrefix = "tls13 ";
  static constexpr size_t kMaxLabel = 32;
  const size_t hash_bytes = suite_hash_bytes(suite);
  if (secret.size() != hash_bytes || out.size() > hash_bytes || label.size() > kMaxLabel)
    return fail(Reason::kInternal,
                fmt::format("cannot derive \"{}\": {} bytes from a secret of {}", label, out.size(), secret.size()));
  // struct HkdfLabel { uint16 length; opaque label<7..255>; opaque context<0..255>; }, then HKDF-Expand's
  // counter. With no more output than one hash, HKDF-Expand (RFC 5869 §2.3) is a single HMAC.
  std::array<uint8_t, 2 + 1 + kPrefix.size() + kMaxLabel + 1 + 1> info;
  uint8_t* at = info.data();
  *at++ = 0;
  *at++ = static_cast<uint8_t>(out.size());
  *at++ = static_cast<uint8_t>(kPrefix.size() + label.size());
  at = std::copy(kPrefix.begin(), kPrefix.end(), at);
  at = std::copy(label.begin(), label.end(), at);
  *at++ = 0;
  *at++ = 1;
  WipedBytes<EVP_MAX_MD_SIZE> block;
  unsigned int produced = 0;
  const EVP_MD* const hash = suite == CipherSuite::kAes128GcmSha256 ? EVP_sha256() : EVP_sha384();
  const bool good = HMAC(hash, secret.data(), static_cast<int>(secret.size()), info.data(), static_cast<size_t>(at - info.data()),
                         block.data(), &produced) != nullptr &&
                    produced == hash_bytes;
  if (good) std::copy_n(block.begin(), out.size(), out.begin());
  if (!good) return fail(Reason::kInternal, fmt::format("HMAC of {} failed", cipher_suite_name(suite)));
  return {};
}

Result<TrafficKey> derive_traffic_key(CipherSuite suite, const TrafficSecret& secret) {
  TrafficKey made;
  WipedBytes<32> key;
  const auto used = std::span<uint8_t>(key).first(aead_key_bytes(suite_algorithm(suite)));
  ZT_TRY(hkdf_expand_label(suite, secret.bytes(), "key", used));
  ZT_TRY(hkdf_expand_label(suite, secret.bytes(), "iv", made.iv));
  ZT_ASSIGN(made.key, make_aead_key(suite_algorithm(suite), used));
  return made;
}

Result<TrafficSecret> next_traffic_secret(CipherSuite suite, const TrafficSecret& secret) {
  WipedBytes<TrafficSecret::kMaxBytes> next;
  const auto used = std::span<uint8_t>(next).first(suite_hash_bytes(suite));
  ZT_TRY(hkdf_expand_label(suite, secret.bytes(), "traffic upd", used));
  return TrafficSecret(used);
}

}  // namespace zt::hbone
