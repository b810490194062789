// Peers that keep us busy or make us hold what they do not take, and busy peers that must not be taken for them.
#include <catch2/catch.hpp>

#include "mesh/reason.h"
#include "tests/hbone/hostile_peer.h"

using namespace zt;
using namespace zt::hbone;
using namespace zt::hbone::testing;

namespace {
constexpr uint8_t kPriority = 2, kUnknown = 0x77;

std::string increment(uint32_t bytes) {
  std::string out;
  for (int shift : {24, 16, 8, 0}) out += static_cast<char>(bytes >> shift);
  return out;
}

// SETTINGS_INITIAL_WINDOW_SIZE and the connection's window, both larger than anything here needs.
std::string open_windows() {
  return std::string(kPreface) + frame(kSettings, 0, 0, std::string("\x00\x04", 2) + increment(0x70000000)) +
         frame(kWindowUpdate, 0, 0, increment(0x70000000));
}
}  // namespace

TEST_CASE("whatever a peer floods us with, it is told to calm down") {
  const std::string name = GENERATE(as<std::string>(), "window overflow of streams", "malformed headers", "refused requests",
                                    "streams above the limit", "PRIORITY", "unknown frames", "WINDOW_UPDATE", "empty DATA",
                                    "PING", "SETTINGS", "requests taken back", "settings in one frame", "CONTINUATION");
  CAPTURE(name);
  Hostile peer;
  if (name == "refused requests") peer.server.status = "400";
  peer.hello();
  peer.write(frame(kHeaders, 4, 1, connect_block()));
  uint32_t id = 3;
  const auto next = [&]() -> std::string {
    if (name == "PRIORITY") return frame(kPriority, 0, 1, std::string("\0\0\0\0\x10", 5));
    if (name == "unknown frames") return frame(kUnknown, 0, 0, "x");
    if (name == "WINDOW_UPDATE") return frame(kWindowUpdate, 0, 1, increment(1));
    if (name == "empty DATA") return frame(kData, 0, 1, "");
    if (name == "PING") return frame(kPing, 0, 0, "12345678");
    if (name == "SETTINGS") return frame(kSettings, 0, 0, "");
    if (name == "settings in one frame") {
      std::string many;
      for (int i = 0; i < 100; ++i) many += std::string("\x00\x04", 2) + increment(0x10000);
      return frame(kSettings, 0, 0, many);
    }
    if (name == "CONTINUATION") {
      if (std::exchange(id, 5) == 3) return frame(kHeaders, 0, 3, connect_block());
      return frame(kContinuation, 0, 3, "");
    }
    const uint32_t now = std::exchange(id, id + 2);
    if (name == "window overflow of streams")
      return frame(kHeaders, 4, now, connect_block()) + frame(kWindowUpdate, 0, now, increment(0x7fffffff));
    if (name == "requests taken back") return frame(kHeaders, 4, now, connect_block()) + frame(kRst, 0, now, increment(8));
    if (name == "malformed headers") return frame(kHeaders, 5, now, connect_block() + literal("Upper", "x"));
    return frame(kHeaders, name == "refused requests" ? 5 : 4, now, connect_block());
  };
  size_t most = 0, sent = 0;
  for (; sent < 60'000 && !peer.ended; sent += 100) {
    std::string part;
    for (int i = 0; i < 100; ++i) part += next();
    peer.write(part);
    peer.loop.run_once(0ms);
    peer.drain();
    most = std::max(most, peer.io.budget.used());
  }
  REQUIRE(peer.run([&] { return peer.ended && peer.server.closed; }));
  CHECK(sent < 30'000);
  CHECK(peer.server.closed->reason == Reason::kPeerFlood);
  CHECK(peer.server.closed->text.find("too many") != std::string::npos);
  REQUIRE(peer.count(kGoaway) >= 1);
  CHECK(peer.last(kGoaway).substr(4, 4) == increment(0xb));
  CHECK(most <= 128 * 1024);
}

TEST_CASE("a request whose stream is broken in the same breath is nobody's business") {
  Hostile peer;
  peer.hello();
  std::string part;
  for (uint32_t id = 1; id < 21; id += 2) {
    part += frame(kHeaders, 4, id, connect_block()) + frame(kWindowUpdate, 0, id, increment(0x7fffffff));
  }
  peer.write(part + frame(kHeaders, 4, 21, connect_block()));
  REQUIRE(peer.run([&] { return !peer.server.requests.empty() && peer.count(kRst) == 10; }));
  CHECK(peer.server.requests.size() == 1);
  CHECK_FALSE(peer.server.closed);
}

TEST_CASE("a peer that does not read what it makes us answer is bounded and ended") {
  const std::string name = GENERATE(as<std::string>(), "refused requests", "streams above the limit", "malformed headers");
  CAPTURE(name);
  Hostile peer;
  const int small = 4096;
  setsockopt(peer.fd.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  if (name == "refused requests") peer.server.status = "400";
  peer.write(std::string(kPreface) + frame(kSettings, 0, 0, ""));
  size_t most = 0;
  uint32_t id = 1;
  while (!peer.server.closed && id < 400'000) {
    std::string part;
    for (int i = 0; i < 1000; ++i, id += 2) {
      part += frame(kHeaders, 5, id, connect_block() + (name == "malformed headers" ? literal("Upper", "x") : ""));
    }
    const std::string sealed = peer.seal(part);
    for (size_t at = 0; at < sealed.size() && !peer.server.closed;) {
      const ssize_t n = ::send(peer.fd.get(), sealed.data() + at, sealed.size() - at, MSG_NOSIGNAL);
      if (n > 0) at += static_cast<size_t>(n);
      peer.loop.run_once(0ms);
      most = std::max(most, peer.io.budget.used());
    }
  }
  REQUIRE(peer.server.closed);
  CHECK(peer.server.closed->text.find("too many") != std::string::npos);
  CHECK(most <= 2'000'000);
  CHECK(peer.io.budget.used() == 0);
}

TEST_CASE("a busy peer is not taken for a flood") {
  Hostile peer;
  peer.write(open_windows());
  SECTION("one that gives its window back in small pieces") {
    peer.write(frame(kHeaders, 4, 1, connect_block()));
    REQUIRE(peer.run([&] { return peer.server.users.size() == 1; }));
    peer.server.users[0]->send(std::string(20 << 20, 'x'));
    size_t given = 0, seen = 0;
    while (seen < (20u << 20) && !peer.ended) {
      peer.loop.run_once(1ms);
      peer.drain();
      seen += peer.received.size();
      peer.received.clear();
      std::string updates;
      for (; given + 1024 <= seen; given += 1024)
        updates += frame(kWindowUpdate, 0, 0, increment(1000)) + frame(kWindowUpdate, 0, 1, increment(1000));
      peer.write(updates);
    }
  }
  SECTION("one that opens and ends many streams") {
    for (uint32_t i = 0; i < 5000 && !peer.ended; ++i) {
      const uint32_t id = 2 * i + 1;
      peer.write(frame(kHeaders, 4, id, connect_block()) + frame(kWindowUpdate, 0, id, increment(1000)) +
                 frame(kWindowUpdate, 0, 0, increment(1)) + frame(kPriority, 0, id, std::string("\0\0\0\0\x10", 5)) +
                 frame(kData, 0, id, "x") + frame(kData, 1, id, ""));
      REQUIRE(peer.run([&] { return peer.ended || (peer.server.users.size() == i + 1 && peer.server.users[i]->ended); }));
      peer.server.users[i]->send("y", true);
      peer.received.clear();
    }
  }
  REQUIRE(peer.run([&] { return true; }));
  CHECK_FALSE(peer.server.closed);
}

TEST_CASE("a tunnel whose peer takes nothing gives its buffer back, is charged for the rest and ends in time") {
  TunnelConfig config;
  config.send_timeout = 200ms;
  Hostile peer(config);
  const int small = 4096;
  setsockopt(peer.fd.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  peer.write(open_windows() + frame(kHeaders, 4, 1, connect_block()));
  REQUIRE(peer.run([&] { return peer.server.users.size() == 1; }));
  std::string sent(24 << 20, '\0');
  for (size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<char>(i * 2654435761u >> 24);
  peer.server.users[0]->send(sent, true);
  // The socket's buffers fill; then the buffer goes back and what is left of the batch is charged.
  REQUIRE(
      peer.loop.run_until([&] { return peer.server.closed || (peer.io.buffers.lent() == 0 && peer.io.budget.used() > 0); }, 10s));
  REQUIRE_FALSE(peer.server.closed);
  CHECK(peer.io.budget.used() <= kWorkerBufferBytes);
  REQUIRE(peer.loop.run_until([&] { return peer.server.closed.has_value(); }, 10s));
  CHECK(peer.server.closed->reason == Reason::kSendTimeout);
  CHECK(peer.server.closed->text.find("took nothing for 200 ms") != std::string::npos);
  CHECK(peer.io.budget.used() == 0);
}

TEST_CASE("a header block is charged while it comes, in whatever pieces, and no longer") {
  Hostile peer;
  peer.hello();
  REQUIRE(peer.run([&] { return peer.count(kSettings) >= 1; }));
  peer.write(frame(kSettings, 1, 0, ""));
  SECTION("short enough to be held whole") {
    const std::string block = connect_block() + literal("filler", std::string(30'000, 'f'));
    peer.write(frame(kHeaders, 0, 1, block.substr(0, 20'000)));
    REQUIRE(peer.run([&] { return peer.io.budget.used() == 20'009; }));
    peer.write(frame(kContinuation, 4, 1, block.substr(20'000)));
    REQUIRE(peer.run([&] { return peer.server.requests.size() == 1; }));
    REQUIRE(peer.run([&] { return peer.io.budget.used() == 0; }));
    CHECK_FALSE(peer.server.closed);
  }
  SECTION("too long to be held") {
    // Fields go to HPACK as they come, and what has been read of them is held until the block ends.
    std::string block = connect_block();
    for (int i = 0; i < 10; ++i) block += literal("filler", std::string(4000, 'f'));
    peer.write(frame(kHeaders, 0, 1, block) + frame(kContinuation, 0, 1, std::string(30'000, 'f')).substr(0, 100));
    REQUIRE(peer.run([&] { return peer.io.budget.used() > 40'000 || peer.server.closed; }));
    CHECK_FALSE(peer.server.closed);
    CHECK(peer.io.budget.used() < 2 * 65536);
  }
}

TEST_CASE("answers that a peer does not read are charged to it") {
  Hostile peer;
  const int small = 4096;
  setsockopt(peer.fd.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  peer.write(open_windows() + frame(kHeaders, 4, 1, connect_block()));
  REQUIRE(peer.loop.run_until([&] { return peer.server.users.size() == 1; }, 10s));
  peer.server.users[0]->send(std::string(24 << 20, 'x'));
  // The socket takes nothing any more, and what is left of a batch is charged.
  REQUIRE(peer.loop.run_until([&] { return peer.io.buffers.lent() == 0 && peer.io.budget.used() > 0; }, 10s));
  const size_t before = peer.io.budget.used();
  peer.server.status = "503";  // no fault of its
  std::string requests;
  for (uint32_t id = 3; id < 103; id += 2) requests += frame(kHeaders, 5, id, connect_block());
  peer.write(requests);
  REQUIRE(peer.loop.run_until([&] { return peer.server.closed || peer.server.requests.size() == 51; }, 10s));
  peer.loop.run_once(0ms);
  peer.write(frame(kUnknown, 0, 0, ""));
  REQUIRE(
      peer.loop.run_until([&] { return peer.server.closed || peer.io.budget.used() >= before + 50 * kQueuedFrameBytes; }, 10s));
  CHECK_FALSE(peer.server.closed);
  peer.server.tunnel->close(Reason::kDrained);
  CHECK(peer.io.budget.used() == 0);
}

TEST_CASE("the beginning of a record or of a frame is charged until the rest comes") {
  Hostile peer;
  peer.hello();
  REQUIRE(peer.run([&] { return peer.count(kSettings) >= 1; }));
  peer.write(frame(kSettings, 1, 0, ""));  // our frame size holds now
  CHECK(peer.io.budget.used() == 0);
  const std::string sealed = peer.seal(frame(kUnknown, 0, 0, std::string(10'000, 'x')));
  peer.write_raw(sealed.substr(0, 5000));
  REQUIRE(peer.run([&] { return peer.io.budget.used() == 5000; }));
  peer.write_raw(sealed.substr(5000));
  REQUIRE(peer.run([&] { return peer.io.budget.used() == 0; }));
  peer.write(frame(kUnknown, 0, 0, std::string(40'000, 'x')).substr(0, 30'000));
  REQUIRE(peer.run([&] { return peer.io.budget.used() == 30'000; }));
  SECTION("the rest comes") {
    peer.write(frame(kUnknown, 0, 0, std::string(40'000, 'x')).substr(30'000));
    REQUIRE(peer.run([&] { return peer.io.budget.used() == 0; }));
    CHECK_FALSE(peer.server.closed);
  }
  SECTION("the memory is needed elsewhere") {
    peer.worker->memory.set(1000);
    peer.io.budget.relieve();
    CHECK(peer.io.budget.used() == 0);
    REQUIRE(peer.run([&] { return peer.server.closed.has_value(); }));
    CHECK(peer.server.closed->reason == Reason::kResourceLimit);
  }
}
