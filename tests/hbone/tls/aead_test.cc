#include "hbone/tls/aead.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "mesh/reason.h"
#include "tests/hbone/tls/tls_test_support.h"

namespace zt::hbone {
namespace {

using testing::Bytes;
using testing::hex;
using testing::unhex;

constexpr AeadBackend kBackends[] = {AeadBackend::kEvp, AeadBackend::kIpsecMb, AeadBackend::kVaes};
constexpr AeadAlgorithm kAlgorithms[] = {AeadAlgorithm::kAes128Gcm, AeadAlgorithm::kAes256Gcm};

std::vector<AeadBackend> available() {
  std::vector<AeadBackend> found;
  std::ranges::copy_if(kBackends, std::back_inserter(found), aead_backend_available);
  return found;
}

Bytes random_bytes(std::mt19937_64& random, size_t size) {
  Bytes bytes(size);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

std::unique_ptr<AeadKey> make_key(AeadBackend backend, AeadAlgorithm algorithm, const Bytes& key) {
  auto made = make_aead_key(backend, algorithm, key);
  REQUIRE(made);
  return std::move(*made);
}

struct Sealed {
  Bytes data;
  Bytes tag;
  friend bool operator==(const Sealed&, const Sealed&) = default;
};

// In an allocation of exactly the data's size, so that the sanitizer sees a read or write beyond it.
Sealed seal(AeadKey& key, const Bytes& nonce, const Bytes& aad, const Bytes& plain) {
  Sealed out{plain, Bytes(kAeadTagBytes)};
  out.data.shrink_to_fit();
  REQUIRE(key.seal(std::span(nonce).first<kAeadNonceBytes>(), aad, out.data, std::span(out.tag).first<kAeadTagBytes>()));
  return out;
}

bool open(AeadKey& key, const Bytes& nonce, const Bytes& aad, Bytes& data, const Bytes& tag) {
  return key.open(std::span(nonce).first<kAeadNonceBytes>(), aad, data, std::span<const uint8_t>(tag).first<kAeadTagBytes>());
}

// The GCM specification's test cases 1-4 and 13-16 (12-byte nonces), which NIST took over.
struct Vector {
  const char* name;
  const char* key;
  const char* nonce;
  const char* aad;
  const char* plain;
  const char* cipher;
  const char* tag;
};
constexpr const char* kPlain60 =
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525"
    "b16aedf5aa0de657ba637b39";
constexpr const char* kPlain64 =
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525"
    "b16aedf5aa0de657ba637b391aafd255";
constexpr const char* kZero12 = "000000000000000000000000";
constexpr Vector kVectors[] = {
    {"case 1", "00000000000000000000000000000000", kZero12, "", "", "", "58e2fccefa7e3061367f1d57a4e7455a"},
    {"case 2", "00000000000000000000000000000000", kZero12, "", "00000000000000000000000000000000",
     "0388dace60b6a392f328c2b971b2fe78", "ab6e47d42cec13bdf53a67b21257bddf"},
    {"case 3", "feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888", "", kPlain64,
     "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa05"
     "1ba30b396a0aac973d58e091473f5985",
     "4d5c2af327cd64a62cf35abd2ba6fab4"},
    {"case 4", "feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888", "feedfacedeadbeeffeedfacedeadbeefabaddad2",
     kPlain60,
     "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa05"
     "1ba30b396a0aac973d58e091",
     "5bc94fbc3221a5db94fae95ae7121a47"},
    {"case 13", "0000000000000000000000000000000000000000000000000000000000000000", kZero12, "", "", "",
     "530f8afbc74536b9a963b4f1c4cb738b"},
    {"case 14", "0000000000000000000000000000000000000000000000000000000000000000", kZero12, "",
     "00000000000000000000000000000000", "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"},
    {"case 15", "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888", "", kPlain64,
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838"
     "c5f61e6393ba7a0abcc9f662898015ad",
     "b094dac5d93471bdec1a502270e3cc6c"},
    {"case 16", "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
     "feedfacedeadbeeffeedfacedeadbeefabaddad2", kPlain60,
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838"
     "c5f61e6393ba7a0abcc9f662",
     "76fc6ece0f4e1768cddf8853bb2d551b"},
};

TEST_CASE("every AEAD backend computes the GCM specification's test cases") {
  for (const AeadBackend backend : available()) {
    for (const Vector& vector : kVectors) {
      INFO(aead_backend_name(backend) << " " << vector.name);
      const Bytes key_bytes = unhex(vector.key), nonce = unhex(vector.nonce), aad = unhex(vector.aad);
      const auto algorithm = key_bytes.size() == 16 ? AeadAlgorithm::kAes128Gcm : AeadAlgorithm::kAes256Gcm;
      const auto key = make_key(backend, algorithm, key_bytes);
      Sealed sealed = seal(*key, nonce, aad, unhex(vector.plain));
      CHECK(hex(sealed.data) == vector.cipher);
      CHECK(hex(sealed.tag) == vector.tag);
      CHECK(open(*key, nonce, aad, sealed.data, sealed.tag));
      CHECK(hex(sealed.data) == vector.plain);
    }
  }
}

TEST_CASE("AEAD backends agree with OpenSSL for every size up to 600 bytes and every additional data up to 32") {
  std::mt19937_64 random(1);
  for (const AeadAlgorithm algorithm : kAlgorithms) {
    const Bytes key_bytes = random_bytes(random, aead_key_bytes(algorithm));
    const auto reference = make_key(AeadBackend::kEvp, algorithm, key_bytes);
    for (const AeadBackend backend : available()) {
      if (backend == AeadBackend::kEvp) continue;
      const auto key = make_key(backend, algorithm, key_bytes);
      size_t wrong = 0;
      for (size_t size = 0; size <= 600; ++size) {
        const Bytes plain = random_bytes(random, size), nonce = random_bytes(random, kAeadNonceBytes);
        for (size_t aad_size = 0; aad_size <= 32; ++aad_size) {
          const Bytes aad = random_bytes(random, aad_size);
          const Sealed expected = seal(*reference, nonce, aad, plain);
          Sealed sealed = seal(*key, nonce, aad, plain);
          const bool same = sealed == expected;
          const bool opened = open(*key, nonce, aad, sealed.data, sealed.tag) && sealed.data == plain;
          if (same && opened) continue;
          ++wrong;
          UNSCOPED_INFO(aead_backend_name(backend) << " size " << size << " aad " << aad_size << " same " << same);
        }
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("AEAD backends agree with OpenSSL for big data at odd addresses") {
  std::mt19937_64 random(2);
  for (const AeadAlgorithm algorithm : kAlgorithms) {
    const Bytes key_bytes = random_bytes(random, aead_key_bytes(algorithm));
    const auto reference = make_key(AeadBackend::kEvp, algorithm, key_bytes);
    for (const AeadBackend backend : available()) {
      const auto key = make_key(backend, algorithm, key_bytes);
      for (int i = 0; i < 60; ++i) {
        const size_t size = i == 0 ? 300'000 : random() % 70'000, offset = random() % 64;
        const Bytes plain = random_bytes(random, size), nonce = random_bytes(random, kAeadNonceBytes);
        const Bytes aad = random_bytes(random, random() % 20);
        const Sealed expected = seal(*reference, nonce, aad, plain);
        Bytes buffer(offset + size + kAeadTagBytes);
        std::ranges::copy(plain, buffer.begin() + static_cast<ptrdiff_t>(offset));
        const auto data = std::span(buffer).subspan(offset, size);
        const auto tag = std::span(buffer).subspan(offset + size).first<kAeadTagBytes>();
        const auto nonce_span = std::span<const uint8_t>(nonce).first<kAeadNonceBytes>();
        REQUIRE(key->seal(nonce_span, aad, data, tag));
        INFO(aead_backend_name(backend) << " size " << size << " offset " << offset);
        CHECK(std::ranges::equal(data, expected.data));
        CHECK(std::ranges::equal(tag, expected.tag));
        CHECK(key->open(nonce_span, aad, data, tag));
        CHECK(std::ranges::equal(data, plain));
      }
    }
  }
}

TEST_CASE("AEAD counters wrap within their 32 bits only") {
  // 16 blocks an iteration from counter 2: these sizes cross 2^8 and 2^16 blocks.
  std::mt19937_64 random(3);
  const Bytes key_bytes = random_bytes(random, 16), nonce(kAeadNonceBytes, 0xff);
  const auto reference = make_key(AeadBackend::kEvp, AeadAlgorithm::kAes128Gcm, key_bytes);
  for (const AeadBackend backend : available()) {
    const auto key = make_key(backend, AeadAlgorithm::kAes128Gcm, key_bytes);
    for (const size_t size : {size_t{254 * 16}, size_t{256 * 16 + 1}, size_t{65536 * 16 + 33}}) {
      const Bytes plain = random_bytes(random, size);
      CHECK(seal(*key, nonce, {}, plain) == seal(*reference, nonce, {}, plain));
    }
  }
}

TEST_CASE("an AEAD backend refuses data, additional data, nonces and tags of which one bit is wrong") {
  std::mt19937_64 random(4);
  for (const AeadBackend backend : available()) {
    for (const AeadAlgorithm algorithm : kAlgorithms) {
      const auto key = make_key(backend, algorithm, random_bytes(random, aead_key_bytes(algorithm)));
      for (const size_t size : {0u, 1u, 40u, 256u, 1000u}) {
        const Bytes plain = random_bytes(random, size), nonce = random_bytes(random, kAeadNonceBytes);
        const Bytes aad = random_bytes(random, 5);
        const Sealed sealed = seal(*key, nonce, aad, plain);
        const auto accepted = [&](auto spoil) {
          Sealed copy = sealed;
          Bytes used_nonce = nonce, used_aad = aad;
          spoil(copy, used_nonce, used_aad);
          return open(*key, used_nonce, used_aad, copy.data, copy.tag);
        };
        INFO(aead_backend_name(backend) << " size " << size);
        CHECK(accepted([](Sealed&, Bytes&, Bytes&) {}));
        for (size_t i = 0; i < kAeadTagBytes * 8; ++i)
          CHECK_FALSE(accepted([&](Sealed& s, Bytes&, Bytes&) { s.tag[i / 8] ^= static_cast<uint8_t>(1 << i % 8); }));
        for (size_t i = 0; i < size; ++i) CHECK_FALSE(accepted([&](Sealed& s, Bytes&, Bytes&) { s.data[i] ^= 0x80; }));
        for (size_t i = 0; i < kAeadNonceBytes; ++i) CHECK_FALSE(accepted([&](Sealed&, Bytes& n, Bytes&) { n[i] ^= 1; }));
        for (size_t i = 0; i < aad.size(); ++i) CHECK_FALSE(accepted([&](Sealed&, Bytes&, Bytes& a) { a[i] ^= 1; }));
        CHECK_FALSE(accepted([](Sealed&, Bytes&, Bytes& a) { a.pop_back(); }));
        if (size > 0) CHECK_FALSE(accepted([](Sealed& s, Bytes&, Bytes&) { s.data.pop_back(); }));
      }
    }
  }
}

TEST_CASE("a key of the wrong length is refused") {
  for (const size_t size : {0u, 15u, 24u, 33u}) {
    const auto made = make_aead_key(AeadBackend::kEvp, AeadAlgorithm::kAes128Gcm, Bytes(size));
    REQUIRE_FALSE(made);
    CHECK(made.error().reason == Reason::kInternal);
  }
}

TEST_CASE("the AEAD backend is chosen by name and errors name the choices") {
  struct Row {
    const char* name;
    bool fips;
    const char* error;  // part of it; null = works wherever the backend is there
  };
  const Row rows[] = {
      {"evp", false, nullptr},
      {"evp", true, nullptr},
      {"auto", false, nullptr},
      {"auto", true, nullptr},
      {"openssl", false, "unknown AEAD backend \"openssl\": use auto, evp, ipsec-mb or vaes"},
      {"", false, "use auto, evp, ipsec-mb or vaes"},
      {"vaes", true, "with FIPS use auto or evp"},
      {"ipsec-mb", true, "with FIPS use auto or evp"},
  };
  for (const Row& row : rows) {
    INFO(row.name << (row.fips ? " with FIPS" : ""));
    const auto chosen = select_aead_backend(row.name, row.fips);
    if (row.error == nullptr) {
      REQUIRE(chosen);
      CHECK(current_aead_backend() == *chosen);
      if (row.fips) CHECK(*chosen == AeadBackend::kEvp);
    } else {
      REQUIRE_FALSE(chosen);
      CHECK(chosen.error().reason == Reason::kInvalidInput);
      CHECK_THAT(chosen.error().text, Catch::Contains(row.error));
    }
  }
  for (const AeadBackend backend : kBackends) {
    const auto chosen = select_aead_backend(aead_backend_name(backend), false);
    CHECK(chosen.has_value() == aead_backend_available(backend));
    if (!chosen) CHECK_THAT(chosen.error().text, Catch::Contains("not available in this build or on this CPU"));
  }
  REQUIRE(select_aead_backend("auto", false));
}

TEST_CASE("a key costs what it says and stays under a kilobyte and a half") {
  for (const AeadBackend backend : available()) {
    const auto key = make_key(backend, AeadAlgorithm::kAes256Gcm, Bytes(32));
    INFO(aead_backend_name(backend) << " " << key->heap_bytes());
    CHECK(key->heap_bytes() >= 256);
    CHECK(key->heap_bytes() <= 1536);
  }
}

}  // namespace
}  // namespace zt::hbone
