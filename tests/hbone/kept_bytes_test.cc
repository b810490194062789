#include "hbone/kept_bytes.h"

#include <catch2/catch.hpp>
#include <random>
#include <string>

using zt::hbone::KeptBytes;

namespace {
std::string content(const KeptBytes& kept) {
  std::vector<iovec> parts;
  kept.add_to(parts);
  std::string bytes;
  for (const iovec& part : parts) bytes.append(static_cast<const char*>(part.iov_base), part.iov_len);
  return bytes;
}
size_t pieces(const KeptBytes& kept) {
  std::vector<iovec> parts;
  kept.add_to(parts);
  return parts.size();
}
}  // namespace

TEST_CASE("kept bytes come out as they went in, whatever the sizes of pieces") {
  std::mt19937 random(7);
  KeptBytes kept;
  std::string model;
  for (int i = 0; i < 20'000; ++i) {
    if (random() % 2 == 0) {
      std::string piece(random() % (random() % 50 == 0 ? 100'000 : 100), '\0');
      for (char& byte : piece) byte = static_cast<char>(random());
      kept.append(reinterpret_cast<const uint8_t*>(piece.data()), piece.size(), random() % 2 == 0 ? 65'536 : 0);
      model += piece;
    } else {
      const size_t taken = random() % 3 == 0 ? model.size() : random() % (model.size() + 1);
      kept.take(taken);
      model.erase(0, taken);
    }
    REQUIRE(kept.size() == model.size());
    REQUIRE(kept.empty() == model.empty());
    if (i % 16 == 0) REQUIRE(content(kept) == model);
    if (model.empty()) REQUIRE(kept.allocated() == 0);
  }
}

TEST_CASE("tiny pieces make few chunks and little waste, below what is expected and beyond it") {
  const size_t expected = GENERATE(0u, 65'536u, 4u << 20);
  KeptBytes kept;
  for (int i = 0; i < 1'000'000; ++i) {
    kept.append(reinterpret_cast<const uint8_t*>("x"), 1, expected);
    REQUIRE(kept.allocated() <= std::max<size_t>({kept.size() + kept.size() / 4 + 1, 1}));
    if (kept.size() <= expected) REQUIRE(kept.allocated() <= expected);
  }
  CHECK(pieces(kept) < 200);
}

TEST_CASE("memory of kept bytes goes back as they are taken") {
  KeptBytes kept;
  const std::string bytes(1 << 20, 'x');
  kept.append(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), bytes.size());
  CHECK(kept.allocated() == bytes.size());
  kept.take(bytes.size() - 1000);
  CHECK(kept.allocated() <= 32 * 1024);
  kept.take(1000);
  CHECK(kept.allocated() == 0);
}
