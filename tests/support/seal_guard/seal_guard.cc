#include "tests/support/seal_guard/seal_guard.h"

#include <memory>
#include <set>
#include <string>
#include <utility>

#include "hbone/tls/aead.h"

namespace zt::hbone::testing {
namespace {

struct Seen {
  bool watching = false;
  size_t sealed = 0, twice = 0;
  std::set<std::pair<std::string, std::string>> records;  // key, nonce
};
Seen seen;

class WatchedKey final : public AeadKey {
 public:
  WatchedKey(std::unique_ptr<AeadKey> key, std::span<const uint8_t> bytes)
      : key_(std::move(key)), bytes_(bytes.begin(), bytes.end()) {}
  bool seal(std::span<const uint8_t, kAeadNonceBytes> nonce, std::span<const uint8_t> aad, std::span<uint8_t> data,
            std::span<uint8_t, kAeadTagBytes> tag) noexcept override {
    if (seen.watching) {
      ++seen.sealed;
      if (!seen.records.emplace(bytes_, std::string(nonce.begin(), nonce.end())).second) {
        ++seen.twice;
        return false;
      }
    }
    return key_->seal(nonce, aad, data, tag);
  }
  bool open(std::span<const uint8_t, kAeadNonceBytes> nonce, std::span<const uint8_t> aad, std::span<uint8_t> data,
            std::span<const uint8_t, kAeadTagBytes> tag) noexcept override {
    return key_->open(nonce, aad, data, tag);
  }
  size_t heap_bytes() const noexcept override { return key_->heap_bytes(); }

 private:
  std::unique_ptr<AeadKey> key_;
  std::string bytes_;
};

}  // namespace

SealGuard::SealGuard() {
  seen = {};
  seen.watching = true;
}
SealGuard::~SealGuard() { seen = {}; }
size_t SealGuard::sealed() { return seen.sealed; }
size_t SealGuard::sealed_twice() { return seen.twice; }

// Names as the linker knows them: make_aead_key(AeadAlgorithm, std::span<const uint8_t>).
#define ZT_MAKE_AEAD_KEY "_ZN2zt5hbone13make_aead_keyENS0_13AeadAlgorithmESt4spanIKhLm18446744073709551615EE"
Result<std::unique_ptr<AeadKey>> real_make_aead_key(AeadAlgorithm algorithm,
                                                    std::span<const uint8_t> key) __asm__("__real_" ZT_MAKE_AEAD_KEY);
Result<std::unique_ptr<AeadKey>> watched_make_aead_key(AeadAlgorithm algorithm,
                                                       std::span<const uint8_t> key) __asm__("__wrap_" ZT_MAKE_AEAD_KEY);
Result<std::unique_ptr<AeadKey>> watched_make_aead_key(AeadAlgorithm algorithm, std::span<const uint8_t> key) {
  auto made = real_make_aead_key(algorithm, key);
  // Keys made before or after a guard's life are as they always are: other tests look for secrets in memory.
  if (!made || !seen.watching) return made;
  return std::make_unique<WatchedKey>(std::move(*made), key);
}

}  // namespace zt::hbone::testing
