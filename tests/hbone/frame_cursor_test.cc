#include "hbone/frame_cursor.h"

#include <catch2/catch.hpp>
#include <random>

#include "tests/hbone/hostile_peer.h"

using namespace zt::hbone;
using namespace zt::hbone::testing;

namespace {

// Feeds `bytes` in pieces of `size` and returns what comes out, checking after each piece that the cursor stands at an edge.
std::string pass(FrameCursor& cursor, std::string_view bytes, size_t size, FrameTally& tally, bool edges = true) {
  std::string out;
  for (size_t at = 0; at < bytes.size(); at += size) {
    const auto part = bytes.substr(at, size);
    std::span<const uint8_t> data(reinterpret_cast<const uint8_t*>(part.data()), part.size());
    for (;;) {
      const auto piece = cursor.next(data, tally);
      if (piece.empty()) break;
      out.append(reinterpret_cast<const char*>(piece.data()), piece.size());
      if (edges && out.size() >= kPreface.size()) REQUIRE(cursor.at_edge());
    }
    REQUIRE(data.empty());
  }
  return out;
}

}  // namespace

TEST_CASE("frames come out as they went in, in whole units, however they are cut") {
  const size_t size = GENERATE(1u, 2u, 8u, 9u, 10u, 100u, 16384u, 1u << 20);
  const std::string block = connect_block();
  const std::string bytes = std::string(kPreface) + frame(kSettings, 0, 0, "") + frame(kHeaders, 4, 1, block) +
                            frame(kData, 0, 1, std::string(40'000, 'd')) + frame(kHeaders, 0, 3, block.substr(0, 5)) +
                            frame(kContinuation, 0, 3, "") + frame(kContinuation, 4, 3, block.substr(5)) +
                            frame(kWindowUpdate, 0, 0, "1234") + frame(kData, 0, 1, "") + frame(kData, 1, 1, "") +
                            frame(0x77, 0, 0, std::string(20'000, 'u')) + frame(kPing, 0, 0, "12345678");
  FrameCursor cursor(kPreface.size(), 1 << 20);
  FrameTally tally;
  CHECK(pass(cursor, bytes, size, tally) == bytes);
  CHECK(cursor.held() == 0);
  CHECK(tally.useful == 1);
  CHECK(tally.bytes == 40'000);
  CHECK(tally.opening == 2);
  CHECK(tally.overhead == 7);  // SETTINGS, two CONTINUATIONs, WINDOW_UPDATE, empty DATA, unknown, PING
}

TEST_CASE("a frame that is not whole is held, DATA is not") {
  FrameCursor cursor(0, 1 << 20);
  FrameTally tally;
  const std::string ping = frame(kPing, 0, 0, "12345678"), data = frame(kData, 0, 1, std::string(1000, 'd'));
  CHECK(pass(cursor, ping.substr(0, 12), 12, tally).empty());
  CHECK(cursor.held() == 12);
  CHECK(pass(cursor, ping.substr(12) + data.substr(0, 100), 1000, tally) == ping + data.substr(0, 100));
  CHECK(cursor.held() == 0);
  CHECK(cursor.data_left() == 1009 - 100);
  CHECK(pass(cursor, data.substr(100), 1000, tally) == data.substr(100));
  CHECK(cursor.data_left() == 0);
}

TEST_CASE("what is too long to be held goes on as it comes, and the next frame is whole again") {
  FrameCursor cursor(0, 1 << 20);
  FrameTally tally;
  std::string bytes;
  SECTION("a long frame") { bytes = frame(0x77, 0, 0, std::string(kMaxHeldFrames, 'u')); }
  SECTION("a long header block") {
    bytes = frame(kHeaders, 0, 1, "");
    for (int i = 0; i < 30; ++i) bytes += frame(kContinuation, 0, 1, std::string(16'000, 'h'));
    bytes += frame(kContinuation, 4, 1, "");
  }
  SECTION("a header block of very many frames") {
    bytes = frame(kHeaders, 0, 1, "");
    for (int i = 0; i < 40'000; ++i) bytes += frame(kContinuation, 0, 1, "");
    bytes += frame(kContinuation, 4, 1, "");
  }
  SECTION("a frame beyond what is accepted") {
    FrameCursor strict(0, 16'384);
    bytes = frame(0x77, 0, 0, std::string(20'000, 'u'));
    CHECK(pass(strict, bytes.substr(0, 10), 10, tally, false).size() == 10);
    return;
  }
  size_t most = 0;
  std::string out;
  for (size_t at = 0; at < bytes.size(); at += 5000) {
    out += pass(cursor, std::string_view(bytes).substr(at, 5000), 5000, tally, false);
    most = std::max(most, cursor.held());
  }
  CHECK(out == bytes);
  CHECK(most <= kMaxHeldFrames + 16'384);
  CHECK(cursor.at_edge());
  const std::string ping = frame(kPing, 0, 0, "12345678");
  CHECK(pass(cursor, ping, 3, tally) == ping);
}

TEST_CASE("random frames in random pieces pass unchanged") {
  std::mt19937 random(11);
  for (int round = 0; round < 200; ++round) {
    std::string bytes;
    for (int i = 0; i < 50; ++i) {
      bytes += frame(static_cast<uint8_t>(random() % 12), static_cast<uint8_t>(random() % 8), random() % 9,
                     std::string(random() % (random() % 10 == 0 ? 70'000 : 60), 'x'));
    }
    FrameCursor cursor(0, random() % 2 == 0 ? 16'384 : 1 << 20);
    FrameTally tally;
    std::string out;
    for (size_t at = 0; at < bytes.size();) {
      const size_t size = 1 + random() % (random() % 4 == 0 ? 60'000 : 30);
      out += pass(cursor, std::string_view(bytes).substr(at, size), size, tally, false);
      at += size;
    }
    REQUIRE(out.size() + cursor.held() == bytes.size());
    REQUIRE(bytes.starts_with(out));
  }
}
