// AES-GCM by Intel's libipsec-mb, through its direct (not its job) interface.
#include "hbone/tls/aead_backends.h"

#if ZT_HAVE_IPSEC_MB
#include <intel-ipsec-mb.h>
#include <openssl/crypto.h>

namespace zt::hbone {
namespace {

// One manager for the process, never freed: the direct interface uses nothing of it but its table of
// functions, which does not change after init_mb_mgr_auto().
IMB_MGR* manager() {
  static IMB_MGR* const made = []() -> IMB_MGR* {
    IMB_MGR* const fresh = alloc_mb_mgr(0);
    if (fresh == nullptr) return nullptr;
    init_mb_mgr_auto(fresh, nullptr);
    if (imb_get_errno(fresh) == 0 && (fresh->features & IMB_FEATURE_AESNI) != 0) return fresh;
    free_mb_mgr(fresh);
    return nullptr;
  }();
  return made;
}

class IpsecMbKey final : public AeadKey {
 public:
  IpsecMbKey(AeadAlgorithm algorithm, std::span<const uint8_t> key)
      : seal_(algorithm == AeadAlgorithm::kAes128Gcm ? manager()->gcm128_enc : manager()->gcm256_enc),
        open_(algorithm == AeadAlgorithm::kAes128Gcm ? manager()->gcm128_dec : manager()->gcm256_dec) {
    const auto precompute = algorithm == AeadAlgorithm::kAes128Gcm ? manager()->gcm128_pre : manager()->gcm256_pre;
    precompute(key.data(), &schedule_);
  }
  ~IpsecMbKey() override { OPENSSL_cleanse(&schedule_, sizeof schedule_); }

  bool seal(std::span<const uint8_t, kAeadNonceBytes> nonce, std::span<const uint8_t> aad, std::span<uint8_t> data,
            std::span<uint8_t, kAeadTagBytes> tag) noexcept override {
    gcm_context_data scratch;
    seal_(&schedule_, &scratch, data.data(), data.data(), data.size(), nonce.data(), aad.data(), aad.size(), tag.data(),
          tag.size());
    return true;
  }

  bool open(std::span<const uint8_t, kAeadNonceBytes> nonce, std::span<const uint8_t> aad, std::span<uint8_t> data,
            std::span<const uint8_t, kAeadTagBytes> tag) noexcept override {
    gcm_context_data scratch;
    uint8_t expected[kAeadTagBytes] = {};
    open_(&schedule_, &scratch, data.data(), data.data(), data.size(), nonce.data(), aad.data(), aad.size(), expected,
          sizeof expected);
    return CRYPTO_memcmp(expected, tag.data(), kAeadTagBytes) == 0;
  }

  size_t heap_bytes() const noexcept override { return sizeof *this; }

 private:
  alignas(64) gcm_key_data schedule_;  // read with aligned loads; the header says so only where LINUX is defined
  aes_gcm_enc_dec_t seal_, open_;
};

}  // namespace

bool ipsec_mb_usable() { return manager() != nullptr; }

std::unique_ptr<AeadKey> make_ipsec_mb_key(AeadAlgorithm algorithm, std::span<const uint8_t> key) {
  return std::make_unique<IpsecMbKey>(algorithm, key);
}

}  // namespace zt::hbone
#endif
