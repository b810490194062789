// Sealing a second record with the same key and the same nonce gives away the XOR of both plaintexts, and a hand-over is a chance for two
// processes to do that. This stands in front of make_aead_key() in a proxy under test and refuses it. The processes that are to know of each
// other share a file, ZT_SEAL_LEDGER: two u64, records sealed and records refused, then a table of hashes of (key, nonce).
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "hbone/tls/aead.h"

namespace zt::hbone {
namespace {

constexpr uint64_t kSlots = uint64_t{1} << 21;

struct Ledger {
  std::atomic<uint64_t> sealed, twice;
  std::atomic<uint64_t> slots[kSlots];
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

Ledger* open_ledger() {
  const char* path = std::getenv("ZT_SEAL_LEDGER");
  if (!path) return nullptr;
  const int fd = ::open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || ::ftruncate(fd, sizeof(Ledger)) != 0) {
    if (fd >= 0) ::close(fd);
    return nullptr;  // a program that sees another file system than its test
  }
  void* map = ::mmap(nullptr, sizeof(Ledger), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  return map == MAP_FAILED ? nullptr : static_cast<Ledger*>(map);
}

Ledger* ledger() {
  static Ledger* const only = open_ledger();
  return only;
}

uint64_t mix(uint64_t hash, std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    uint64_t word = 0;
    const auto some = bytes.first(std::min<size_t>(8, bytes.size()));
    std::memcpy(&word, some.data(), some.size());
    bytes = bytes.subspan(some.size());
    // The finalizer of SplitMix64, as a chain.
    hash = (hash ^ word) + 0x9e3779b97f4a7c15;
    hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9;
    hash = (hash ^ (hash >> 27)) * 0x94d049bb133111eb;
    hash ^= hash >> 31;
  }
  return hash;
}

// False if it is there already. A table that is three quarters full takes no more, and finds what it has.
bool enter(Ledger& all, uint64_t hash) {
  if (hash == 0) hash = 1;
  const bool full = all.sealed.fetch_add(1, std::memory_order_relaxed) > kSlots / 4 * 3;
  for (uint64_t at = hash % kSlots;; at = (at + 1) % kSlots) {
    uint64_t there = all.slots[at].load(std::memory_order_relaxed);
    if (there == 0) {
      if (full || all.slots[at].compare_exchange_strong(there, hash)) return true;
    }
    if (there == hash) {
      all.twice.fetch_add(1);
      return false;
    }
  }
}

class WatchedKey final : public AeadKey {
 public:
  WatchedKey(std::unique_ptr<AeadKey> key, uint64_t hash) : key_(std::move(key)), hash_(hash) {}
  bool seal(std::span<const uint8_t, kAeadNonceBytes> nonce, std::span<const uint8_t> aad, std::span<uint8_t> data,
            std::span<uint8_t, kAeadTagBytes> tag) noexcept override {
    return enter(*ledger(), mix(hash_, nonce)) && key_->seal(nonce, aad, data, tag);
  }
  bool open(std::span<const uint8_t, kAeadNonceBytes> nonce, std::span<const uint8_t> aad, std::span<uint8_t> data,
            std::span<const uint8_t, kAeadTagBytes> tag) noexcept override {
    return key_->open(nonce, aad, data, tag);
  }
  size_t heap_bytes() const noexcept override { return key_->heap_bytes(); }

 private:
  std::unique_ptr<AeadKey> key_;
  const uint64_t hash_;
};

}  // namespace

// Names as the linker knows them: make_aead_key(AeadAlgorithm, std::span<const uint8_t>).
#define ZT_MAKE_AEAD_KEY "_ZN2zt5hbone13make_aead_keyENS0_13AeadAlgorithmESt4spanIKhLm18446744073709551615EE"
Result<std::unique_ptr<AeadKey>> real_make_aead_key(AeadAlgorithm algorithm,
                                                    std::span<const uint8_t> key) __asm__("__real_" ZT_MAKE_AEAD_KEY);
Result<std::unique_ptr<AeadKey>> watched_make_aead_key(AeadAlgorithm algorithm,
                                                       std::span<const uint8_t> key) __asm__("__wrap_" ZT_MAKE_AEAD_KEY);
Result<std::unique_ptr<AeadKey>> watched_make_aead_key(AeadAlgorithm algorithm, std::span<const uint8_t> key) {
  auto made = real_make_aead_key(algorithm, key);
  if (!made || !ledger()) return made;
  return std::make_unique<WatchedKey>(std::move(*made), mix(0, key));
}

}  // namespace zt::hbone
