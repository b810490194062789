#include <catch2/catch.hpp>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "hbone/tls/aead.h"
#include "tests/hbone/tls/tls_test_support.h"

namespace zt::hbone {
namespace {

using testing::Bytes;
using testing::hex;
using testing::unhex;

struct Vector {
  int number = 0;
  bool valid = false;
  Bytes key, nonce, aad, message, cipher, tag;
};

std::vector<Vector> vectors() {
  std::ifstream file(ZT_GOLDEN_DIR "/wycheproof/aes_gcm.txt");
  std::vector<Vector> read;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with('#')) continue;
    std::istringstream words(line);
    Vector vector;
    std::string result, key, nonce, aad, message, cipher, tag;
    words >> vector.number >> result >> key >> nonce >> aad >> message >> cipher >> tag;
    REQUIRE((result == "valid" || result == "invalid"));
    vector.valid = result == "valid";
    vector.key = unhex(key), vector.nonce = unhex(nonce), vector.aad = unhex(aad);
    vector.message = unhex(message), vector.cipher = unhex(cipher), vector.tag = unhex(tag);
    REQUIRE(vector.nonce.size() == kAeadNonceBytes);
    REQUIRE(vector.tag.size() == kAeadTagBytes);
    read.push_back(std::move(vector));
  }
  return read;
}

TEST_CASE("every AEAD backend passes Wycheproof's AES-GCM vectors") {
  const std::vector<Vector> all = vectors();
  REQUIRE(all.size() == 133);
  for (const AeadBackend backend : {AeadBackend::kEvp, AeadBackend::kIpsecMb, AeadBackend::kVaes}) {
    if (!aead_backend_available(backend)) continue;
    for (const Vector& vector : all) {
      INFO(aead_backend_name(backend) << ", vector " << vector.number);
      const auto algorithm = vector.key.size() == 16 ? AeadAlgorithm::kAes128Gcm : AeadAlgorithm::kAes256Gcm;
      const auto key = make_aead_key(backend, algorithm, vector.key);
      REQUIRE(key);
      const auto nonce = std::span(vector.nonce).first<kAeadNonceBytes>();
      Bytes data = vector.cipher;
      CHECK((*key)->open(nonce, vector.aad, data, std::span(vector.tag).first<kAeadTagBytes>()) == vector.valid);
      if (vector.valid) CHECK(hex(data) == hex(vector.message));
      data = vector.message;
      Bytes tag(kAeadTagBytes);
      REQUIRE((*key)->seal(nonce, vector.aad, data, std::span(tag).first<kAeadTagBytes>()));
      CHECK((data == vector.cipher && tag == vector.tag) == vector.valid);
    }
  }
}

}  // namespace
}  // namespace zt::hbone
