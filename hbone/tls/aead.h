#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "base/result.h"

// AES-GCM as TLS 1.3 records need it (RFC 5116 §5.1, §5.2): 12-byte nonce, 16-byte tag, in place. Three ways
// to compute it, one interface; which one is a property of the process (see select_aead_backend) and every
// key made afterwards uses it.
namespace zt::hbone {

inline constexpr size_t kAeadNonceBytes = 12;
inline constexpr size_t kAeadTagBytes = 16;

enum class AeadAlgorithm : uint8_t { kAes128Gcm, kAes256Gcm };
[[nodiscard]] constexpr size_t aead_key_bytes(AeadAlgorithm algorithm) {
  return algorithm == AeadAlgorithm::kAes128Gcm ? 16 : 32;
}

enum class AeadBackend : uint8_t {
  kEvp,      // OpenSSL's default provider: always there, and the only choice where a validated module is asked
             // for
  kIpsecMb,  // libipsec-mb: fastest where the CPU has AVX-512 and VAES
  kVaes,     // our own AVX2 + VAES + VPCLMULQDQ code: for CPUs that have these but no AVX-512 (AMD Zen 3, Intel
             // Alder Lake)
};
[[nodiscard]] std::string_view aead_backend_name(AeadBackend backend);  // "evp", "ipsec-mb", "vaes"

// One key, both operations. Lives on the heap (64-byte aligned where the backend wants it) and wipes itself
// when it goes. Not for two threads at once; may move between threads.
class AeadKey {
 public:
  AeadKey() = default;
  AeadKey(const AeadKey&) = delete;
  AeadKey& operator=(const AeadKey&) = delete;
  virtual ~AeadKey() = default;

  // Encrypts `data` in place and writes the tag. False only if the library refused (EVP): then `data` must
  // not be sent. `tag` may directly follow `data`.
  [[nodiscard]] virtual bool seal(std::span<const uint8_t, kAeadNonceBytes> nonce, std::span<const uint8_t> aad,
                                  std::span<uint8_t> data, std::span<uint8_t, kAeadTagBytes> tag) noexcept = 0;
  // Decrypts `data` in place. False if the tag does not fit (compared in constant time): then `data` is
  // garbage that nobody may look at.
  [[nodiscard]] virtual bool open(std::span<const uint8_t, kAeadNonceBytes> nonce, std::span<const uint8_t> aad,
                                  std::span<uint8_t> data, std::span<const uint8_t, kAeadTagBytes> tag) noexcept = 0;
  [[nodiscard]] virtual size_t heap_bytes() const noexcept = 0;  // what one key costs, for memory accounting
};

// Makes a key with the process's backend. `key` must be aead_key_bytes() long. Errors: kInternal (library
// refused, wrong length).
Result<std::unique_ptr<AeadKey>> make_aead_key(AeadAlgorithm algorithm, std::span<const uint8_t> key);
// The same with a backend named by the caller (tests, bench). Fails with kInvalidInput if this CPU or build
// lacks it.
Result<std::unique_ptr<AeadKey>> make_aead_key(AeadBackend backend, AeadAlgorithm algorithm, std::span<const uint8_t> key);

[[nodiscard]] bool aead_backend_available(AeadBackend backend);  // built in, and this CPU can run it

// Chooses the process's backend by its configured name: "auto", "evp", "ipsec-mb" or "vaes". `fips`, or an
// openssl.cnf that makes a validated module the default, allows only auto and evp, and both mean evp. auto:
// AVX-512 + VAES -> ipsec-mb, AVX2 + VAES + VPCLMULQDQ -> vaes, else evp. The choice has to compute known
// answers correctly before it is used: with auto a backend that fails is passed over, one that was asked for
// by name is an error. Errors (kInvalidInput) name the choices. Call at start-up, before the workers run;
// without a call the first key selects "auto".
Result<AeadBackend> select_aead_backend(std::string_view name, bool fips);
[[nodiscard]] AeadBackend current_aead_backend();

}  // namespace zt::hbone
