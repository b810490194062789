#pragma once
#include <memory>

#include "hbone/tls/aead.h"

// The backends behind aead.h; nobody else includes this.
#if defined(__x86_64__)
#define ZT_HAVE_VAES_BACKEND 1
#else
#define ZT_HAVE_VAES_BACKEND 0
#endif
#ifndef ZT_HAVE_IPSEC_MB  // set by CMake when the library is there
#define ZT_HAVE_IPSEC_MB 0
#endif

namespace zt::hbone {

using AeadMaker = std::unique_ptr<AeadKey> (*)(AeadAlgorithm algorithm, std::span<const uint8_t> key);

// Each returns null if the library refuses. The key's length has been checked.
std::unique_ptr<AeadKey> make_evp_key(AeadAlgorithm algorithm, std::span<const uint8_t> key);
#if ZT_HAVE_IPSEC_MB
bool ipsec_mb_usable();  // before the first key
std::unique_ptr<AeadKey> make_ipsec_mb_key(AeadAlgorithm algorithm, std::span<const uint8_t> key);
#endif
#if ZT_HAVE_VAES_BACKEND
std::unique_ptr<AeadKey> make_vaes_key(AeadAlgorithm algorithm, std::span<const uint8_t> key);
#endif

}  // namespace zt::hbone
