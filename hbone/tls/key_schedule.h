#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "base/result.h"
#include "hbone/tls/aead.h"

// The part of TLS 1.3's key schedule that comes after the handshake (RFC 8446 §7): traffic secrets, their
// keys and successors.
namespace zt::hbone {

// The suites we speak (contract §2.1), by their numbers on the wire.
enum class CipherSuite : uint16_t { kAes128GcmSha256 = 0x1301, kAes256GcmSha384 = 0x1302 };
[[nodiscard]] std::string_view cipher_suite_name(CipherSuite suite);  // "TLS_AES_128_GCM_SHA256"
[[nodiscard]] constexpr AeadAlgorithm suite_algorithm(CipherSuite suite) {
  return suite == CipherSuite::kAes128GcmSha256 ? AeadAlgorithm::kAes128Gcm : AeadAlgorithm::kAes256Gcm;
}
[[nodiscard]] constexpr size_t suite_hash_bytes(CipherSuite suite) { return suite == CipherSuite::kAes128GcmSha256 ? 32 : 48; }

void wipe(std::span<uint8_t> bytes);  // cannot be optimised away

// Bytes that wipe themselves when they go. Copies are allowed (a hand-over needs one); each wipes itself.
template <size_t kSize>
struct WipedBytes : std::array<uint8_t, kSize> {
  WipedBytes() : std::array<uint8_t, kSize>{} {}
  WipedBytes(const WipedBytes&) = default;
  WipedBytes& operator=(const WipedBytes&) = default;
  ~WipedBytes() { wipe(*this); }
};

// A fixed piece of memory for a secret of up to 48 bytes.
class TrafficSecret {
 public:
  static constexpr size_t kMaxBytes = 48;
  TrafficSecret() = default;
  explicit TrafficSecret(std::span<const uint8_t> bytes);  // at most kMaxBytes are taken

  [[nodiscard]] std::span<const uint8_t> bytes() const { return {bytes_.data(), size_}; }
  [[nodiscard]] bool empty() const { return size_ == 0; }

 private:
  WipedBytes<kMaxBytes> bytes_;
  uint8_t size_ = 0;
};

// HKDF-Expand-Label(secret, label, "", out.size()) of RFC 8446 §7.1 with the suite's hash. `label` without
// "tls13 ". out.size() is at most one hash, which is all that record protection needs. Fails with kInternal
// if the library refuses.
Result<> hkdf_expand_label(CipherSuite suite, std::span<const uint8_t> secret, std::string_view label, std::span<uint8_t> out);

// Key and IV of a traffic secret (RFC 8446 §7.3). The key goes straight into an AeadKey.
struct TrafficKey {
  std::unique_ptr<AeadKey> key;
  WipedBytes<kAeadNonceBytes> iv;
};
Result<TrafficKey> derive_traffic_key(CipherSuite suite, const TrafficSecret& secret);

// The next generation's secret (RFC 8446 §7.2).
Result<TrafficSecret> next_traffic_secret(CipherSuite suite, const TrafficSecret& secret);

}  // namespace zt::hbone
