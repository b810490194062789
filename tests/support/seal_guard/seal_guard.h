#pragma once
#include <cstddef>

namespace zt::hbone::testing {

// While one lives, every record that anybody in this process seals is watched: sealing a second one with the same key and the same
// nonce gives away the XOR of both plaintexts. Counts those, and refuses them. The linker puts it in front of make_aead_key(), so
// nothing in the product knows of it. One at a time; a new one has seen nothing.
class SealGuard {
 public:
  SealGuard();
  ~SealGuard();
  SealGuard(const SealGuard&) = delete;
  [[nodiscard]] static size_t sealed();
  [[nodiscard]] static size_t sealed_twice();
};

}  // namespace zt::hbone::testing
