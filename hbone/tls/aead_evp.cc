// AES-GCM by OpenSSL: whatever provider its configuration loads, a validated one included.
#include <openssl/evp.h>

#include <climits>

#include "hbone/tls/aead_backends.h"

namespace zt::hbone {
namespace {

struct FreeContext {
  void operator()(EVP_CIPHER_CTX* context) const noexcept { EVP_CIPHER_CTX_free(context); }
};

// Fetched once: an implicit fetch takes OpenSSL's locks each time. Never freed, like OpenSSL's own globals.
EVP_CIPHER* cipher_of(AeadAlgorithm algorithm) {
  static EVP_CIPHER* const aes128 = EVP_CIPHER_fetch(nullptr, "AES-128-GCM", nullptr);
  static EVP_CIPHER* const aes256 = EVP_CIPHER_fetch(nullptr, "AES-256-GCM", nullptr);
  return algorithm == AeadAlgorithm::kAes128Gcm ? aes128 : aes256;
}

class EvpKey final : public AeadKey {
 public:
  bool init(AeadAlgorithm algorithm, std::span<const uint8_t> key) {
    const EVP_CIPHER* const cipher = cipher_of(algorithm);
    context_.reset(EVP_CIPHER_CTX_new());
    return cipher != nullptr && context_ && EVP_CipherInit_ex2(context_.get(), cipher, key.data(), nullptr, 1, nullptr) == 1;
  }

  bool seal(std::span<const uint8_t, kAeadNonceBytes> nonce, std::span<const uint8_t> aad, std::span<uint8_t> data,
            std::span<uint8_t, kAeadTagBytes> tag) noexcept override {
    return run(nonce, aad, data, 1) && finish(data) &&
           EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_AEAD_GET_TAG, kAeadTagBytes, tag.data()) == 1;
  }

  bool open(std::span<const uint8_t, kAeadNonceBytes> nonce, std::span<const uint8_t> aad, std::span<uint8_t> data,
            std::span<const uint8_t, kAeadTagBytes> tag) noexcept override {
    return run(nonce, aad, data, 0) &&
           EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_AEAD_SET_TAG, kAeadTagBytes,
                               const_cast<uint8_t*>(tag.data())) == 1 &&  // only read from
           finish(data);
  }

  size_t heap_bytes() const noexcept override { return kHeapBytes; }

 private:
  static constexpr size_t kHeapBytes = 1200;  // measured: this object and both contexts of OpenSSL 3.0

  bool run(std::span<const uint8_t, kAeadNonceBytes> nonce, std::span<const uint8_t> aad, std::span<uint8_t> data,
           int encrypt) noexcept {
    EVP_CIPHER_CTX* const context = context_.get();
    int done = 0;
    if (data.size() > INT_MAX || aad.size() > INT_MAX) return false;
    if (EVP_CipherInit_ex2(context, nullptr, nullptr, nonce.data(), encrypt, nullptr) != 1) return false;
    if (!aad.empty() && EVP_CipherUpdate(context, nullptr, &done, aad.data(), static_cast<int>(aad.size())) != 1) return false;
    return data.empty() || EVP_CipherUpdate(context, data.data(), &done, data.data(), static_cast<int>(data.size())) == 1;
  }

  bool finish(std::span<uint8_t> data) noexcept {
    int done = 0;
    uint8_t none = 0;  // GCM holds nothing back, but the pointer must not be null
    return EVP_CipherFinal_ex(context_.get(), data.empty() ? &none : data.data(), &done) == 1;
  }

  std::unique_ptr<EVP_CIPHER_CTX, FreeContext> context_;  // wipes the key when it goes
};

}  // namespace

std::unique_ptr<AeadKey> make_evp_key(AeadAlgorithm algorithm, std::span<const uint8_t> key) {
  auto made = std::make_unique<EvpKey>();
  if (!made->init(algorithm, key)) return nullptr;
  return made;
}

}  // namespace zt::hbone
