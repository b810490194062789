#include <openssl/crypto.h>
#include <openssl/rand.h>

#include <catch2/catch.hpp>
#include <optional>

#include "hbone/tls/aead.h"
#include "hbone/tls/record_layer.h"
#include "tests/hbone/tls/memory_search.h"
#include "tests/hbone/tls/tls_pki.h"

namespace zt::hbone {
namespace {

using namespace testing;

// The caller's copies are the test's own, and go.
struct OwnCopy {
  explicit OwnCopy(size_t size) : bytes(size) { REQUIRE(RAND_bytes(bytes.data(), static_cast<int>(size)) == 1); }
  ~OwnCopy() { wipe(); }
  void wipe() { OPENSSL_cleanse(bytes.data(), bytes.size()); }
  std::vector<uint8_t> bytes;
};

TEST_CASE("of an AES-GCM key that is gone nothing stays in memory") {
  for (const AeadBackend backend : {AeadBackend::kEvp, AeadBackend::kIpsecMb, AeadBackend::kVaes}) {
    if (!aead_backend_available(backend)) continue;
    for (const AeadAlgorithm algorithm : {AeadAlgorithm::kAes128Gcm, AeadAlgorithm::kAes256Gcm}) {
      INFO(aead_backend_name(backend) << " with a key of " << aead_key_bytes(algorithm));
      OwnCopy secret(aead_key_bytes(algorithm));
      const Needle needle(secret.bytes);
      auto key = make_aead_key(backend, algorithm, secret.bytes);
      REQUIRE(key);
      secret.wipe();
      std::vector<uint8_t> data(1000), tag(kAeadTagBytes), nonce(kAeadNonceBytes);
      REQUIRE((*key)->seal(std::span(nonce).first<kAeadNonceBytes>(), {}, data, std::span(tag).first<kAeadTagBytes>()));
      CHECK(needle.places() != "");  // while it lives it is found: the first round keys are the key
      key->reset();
      CHECK(needle.places() == "");
    }
  }
}

TEST_CASE("of the traffic secrets of a tunnel that is gone nothing stays in memory") {
  std::optional<Needle> sent, received;
  {
    HandshakePair pair = make_pair(mesh().client(), mesh().server(), {id_of("web")});
    pair.run(SIZE_MAX);
    REQUIRE(pair.done());
    auto client = pair.client.take();
    REQUIRE(client);
    sent.emplace(client->sealer.export_state().secret.bytes());
    received.emplace(client->opener.export_state().secret.bytes());
    CHECK(sent->places() != "");
  }
  CHECK(sent->places() == "");
  CHECK(received->places() == "");
}

TEST_CASE("of a traffic secret that was followed by another nothing stays in memory") {
  OwnCopy first(48);
  const Needle needle(first.bytes);
  RecordState state;
  state.suite = CipherSuite::kAes256GcmSha384;
  state.secret = TrafficSecret(first.bytes);
  first.wipe();
  auto sealer = RecordSealer::make(state);
  REQUIRE(sealer);
  state.secret = TrafficSecret();
  CHECK(needle.places() != "");
  std::array<uint8_t, kKeyUpdateRecord> record{};
  REQUIRE(sealer->seal_key_update(record, false));
  CHECK(needle.places() == "");
}

}  // namespace
}  // namespace zt::hbone
