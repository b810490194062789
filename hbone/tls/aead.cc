#include "hbone/tls/aead.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <vector>

#include "hbone/tls/aead_backends.h"
#include "hbone/tls/tls_library.h"
#include "mesh/reason.h"

namespace zt::hbone {
namespace {

#if defined(__x86_64__)
bool cpu_has_vaes() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul") &&
         __builtin_cpu_supports("vaes") && __builtin_cpu_supports("vpclmulqdq");
}
bool cpu_has_vaes_avx512() {
  return cpu_has_vaes() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#else  // OpenSSL is fast on the others
[[maybe_unused]] bool cpu_has_vaes() { return false; }
bool cpu_has_vaes_avx512() { return false; }
#endif

// Null if this program was built without it or the CPU cannot run it.
AeadMaker maker_of(AeadBackend backend) {
  switch (backend) {
    case AeadBackend::kEvp: return make_evp_key;
    case AeadBackend::kIpsecMb:
#if ZT_HAVE_IPSEC_MB
      if (ipsec_mb_usable()) return make_ipsec_mb_key;
#endif
      return nullptr;
    case AeadBackend::kVaes:
#if ZT_HAVE_VAES_BACKEND
      if (cpu_has_vaes()) return make_vaes_key;
#endif
      return nullptr;
  }
  return nullptr;
}

// Compares a backend with OpenSSL over the sizes at which such code takes another path. A miscompiled or
// mistaken cipher would work against itself and leak against everybody else; this costs a fraction of a
// millisecond.
bool computes_correctly(AeadMaker maker) {
  static constexpr size_t kSizes[] = {0, 1, 15, 16, 17, 31, 33, 64, 97, 255, 256, 257, 511, 512, 1500, 16385};
  static constexpr size_t kAadBytes = 5;
  std::array<uint8_t, 32> key;
  std::array<uint8_t, kAeadNonceBytes> nonce;
  std::array<uint8_t, kAadBytes> aad;
  const auto fill = [](std::span<uint8_t> out, uint8_t seed) {
    for (uint8_t& byte : out) byte = seed = static_cast<uint8_t>(seed * 37 + 11);
  };
  fill(key, 1);
  fill(nonce, 2);
  fill(aad, 3);
  for (const AeadAlgorithm algorithm : {AeadAlgorithm::kAes128Gcm, AeadAlgorithm::kAes256Gcm}) {
    const auto key_bytes = std::span(key).first(aead_key_bytes(algorithm));
    const auto ours = maker(algorithm, key_bytes), theirs = make_evp_key(algorithm, key_bytes);
    if (!ours || !theirs) return false;
    for (const size_t size : kSizes) {
      std::vector<uint8_t> plain(size);
      fill(plain, static_cast<uint8_t>(size));
      std::vector<uint8_t> mine = plain, reference = plain;
      std::array<uint8_t, kAeadTagBytes> my_tag{}, reference_tag{};
      if (!ours->seal(nonce, aad, mine, my_tag) || !theirs->seal(nonce, aad, reference, reference_tag)) return false;
      if (mine != reference || my_tag != reference_tag) return false;
      if (!ours->open(nonce, aad, mine, my_tag) || mine != plain) return false;
      my_tag[size % kAeadTagBytes] ^= 0x10;
      if (ours->open(nonce, aad, reference, my_tag)) return false;
    }
  }
  return true;
}

constexpr AeadBackend kAll[] = {AeadBackend::kEvp, AeadBackend::kIpsecMb, AeadBackend::kVaes};

AeadBackend choose_automatically() {
  const AeadBackend order[] = {cpu_has_vaes_avx512() ? AeadBackend::kIpsecMb : AeadBackend::kVaes, AeadBackend::kVaes};
  for (const AeadBackend backend : order) {
    const AeadMaker maker = maker_of(backend);
    if (maker != nullptr && computes_correctly(maker)) return backend;
  }
  return AeadBackend::kEvp;
}

std::atomic<int> current = -1;  // an AeadBackend, or -1 while nothing has been selected

}  // namespace

std::string_view aead_backend_name(AeadBackend backend) {
  switch (backend) {
    case AeadBackend::kEvp: return "evp";
    case AeadBackend::kIpsecMb: return "ipsec-mb";
    case AeadBackend::kVaes: return "vaes";
  }
  return "unknown";
}

bool aead_backend_available(AeadBackend backend) { return maker_of(backend) != nullptr; }

Result<AeadBackend> select_aead_backend(std::string_view name, bool fips) {
  AeadBackend chosen = AeadBackend::kEvp;
  fips = fips || fips_module_active();
  if (name == "auto") {
    if (!fips) chosen = choose_automatically();
  } else {
    const auto* const found = std::ranges::find(kAll, name, aead_backend_name);
    if (found == std::end(kAll))
      return fail(Reason::kInvalidInput, fmt::format("unknown AEAD backend \"{}\": use auto, evp, ipsec-mb or vaes", name));
    chosen = *found;
    if (fips && chosen != AeadBackend::kEvp)
      return fail(Reason::kInvalidInput,
                  fmt::format("AEAD backend \"{}\" is not a validated module: with FIPS use auto or evp", name));
    const AeadMaker maker = maker_of(chosen);
    if (maker == nullptr)
      return fail(Reason::kInvalidInput,
                  fmt::format("AEAD backend \"{}\" is not available in this build or on this CPU: use auto, evp, "
                              "ipsec-mb or vaes",
                              name));
    if (chosen != AeadBackend::kEvp && !computes_correctly(maker))
      return fail(Reason::kInvalidInput,
                  fmt::format("AEAD backend \"{}\" does not compute AES-GCM correctly on this CPU: use auto or evp", name));
  }
  current.store(static_cast<int>(chosen), std::memory_order_release);
  return chosen;
}

AeadBackend current_aead_backend() {
  const int selected = current.load(std::memory_order_acquire);
  if (selected >= 0) return static_cast<AeadBackend>(selected);
  // Two threads may both come here; they choose the same.
  return *select_aead_backend("auto", false);
}

Result<std::unique_ptr<AeadKey>> make_aead_key(AeadBackend backend, AeadAlgorithm algorithm, std::span<const uint8_t> key) {
  if (key.size() != aead_key_bytes(algorithm))
    return fail(Reason::kInternal, fmt::format("AES-GCM key has {} bytes, not {}", key.size(), aead_key_bytes(algorithm)));
  const AeadMaker maker = maker_of(backend);
  if (maker == nullptr)
    return fail(Reason::kInvalidInput,
                fmt::format("AEAD backend \"{}\" is not available in this build or on this CPU", aead_backend_name(backend)));
  auto made = maker(algorithm, key);
  if (!made) return fail(Reason::kInternal, fmt::format("AEAD backend \"{}\" could not make a key", aead_backend_name(backend)));
  return made;
}

Result<std::unique_ptr<AeadKey>> make_aead_key(AeadAlgorithm algorithm, std::span<const uint8_t> key) {
  return make_aead_key(current_aead_backend(), algorithm, key);
}

}  // namespace zt::hbone
