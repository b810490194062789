// Peers that break HTTP/2 or TLS, by hand-made frames and records: each costs only itself, and never more than the limits say.
#include "tests/hbone/hostile_peer.h"

#include <catch2/catch.hpp>

#include "mesh/reason.h"

using namespace zt;
using namespace zt::hbone;
using namespace zt::hbone::testing;
using namespace std::chrono_literals;

TEST_CASE("what is not HTTP/2 ends the connection and nothing else") {
  const auto& [name, bytes] = GENERATE(table<std::string, std::string>({
      {"HTTP/1.1", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
      {"zeros", std::string(100, '\0')},
      {"no SETTINGS after the preface", std::string(kPreface) + frame(kPing, 0, 0, "12345678")},
      {"frame larger than we accept",
       std::string(kPreface) + frame(kSettings, 0, 0, "") + std::string("\x20\x00\x00\x00\x00\x00\x00\x00\x01", 9)},
      {"PING of 7 bytes", std::string(kPreface) + frame(kSettings, 0, 0, "") + frame(kPing, 0, 0, "1234567")},
      {"SETTINGS on a stream", std::string(kPreface) + frame(kSettings, 0, 1, "")},
      {"DATA on stream 0", std::string(kPreface) + frame(kSettings, 0, 0, "") + frame(kData, 0, 0, "x")},
      {"even stream id", std::string(kPreface) + frame(kSettings, 0, 0, "") + frame(kHeaders, 4, 2, connect_block())},
      {"HPACK garbage", std::string(kPreface) + frame(kSettings, 0, 0, "") + frame(kHeaders, 4, 1, "\xff\xff\xff\xff\xff\xff")},
      {"CONTINUATION out of nowhere",
       std::string(kPreface) + frame(kSettings, 0, 0, "") + frame(kContinuation, 4, 1, connect_block())},
      {"connection window overflow",
       std::string(kPreface) + frame(kSettings, 0, 0, "") + frame(kWindowUpdate, 0, 0, "\x7f\xff\xff\xff")},
  }));
  DYNAMIC_SECTION(name) {
    Hostile peer;
    peer.write(bytes);
    REQUIRE(peer.run([&] { return peer.server.closed.has_value(); }));
    CHECK(peer.server.closed->reason == Reason::kH2Failed);
    REQUIRE(peer.run([&] { return peer.ended; }));
  }
}

TEST_CASE("what is not TLS ends the connection with an alert") {
  Hostile peer;
  peer.hello();
  REQUIRE(peer.run([&] { return peer.count(kSettings) >= 1; }));
  peer.write_raw(GENERATE(as<std::string>(), std::string("\x17\x03\x03\x00\x20", 5) + std::string(32, 'x'),
                          "GET / HTTP/1.1\r\n\r\n", std::string("\x17\x03\x03\xff\xff", 5)));
  REQUIRE(peer.run([&] { return peer.server.closed.has_value(); }));
  CHECK(peer.server.closed->reason == Reason::kTlsFailed);
}

TEST_CASE("a cut connection is told from an orderly end") {
  Hostile peer;
  peer.hello();
  peer.write(frame(kHeaders, 4, 1, connect_block()));
  REQUIRE(peer.run([&] { return peer.server.users.size() == 1; }));
  peer.fd.reset();
  REQUIRE(peer.loop.run_until([&] { return peer.server.closed.has_value(); }, 10s));
  CHECK(peer.server.closed->reason == Reason::kDownstreamReset);
  CHECK(peer.server.users[0]->closed == Reason::kDownstreamReset);
}

TEST_CASE("a request that HTTP/2 forbids costs its stream only") {
  const auto& [name, block] = GENERATE(table<std::string, std::string>({
      {"CONNECT with :path", literal(":method", "CONNECT") + literal(":authority", "h:1") + literal(":path", "/")},
      {"no :authority", literal(":method", "CONNECT")},
      {"upper-case header", connect_block() + literal("Baggage", "x")},
      {"connection header", connect_block() + literal("connection", "close")},
      {"pseudo-header after others", literal("a", "b") + connect_block()},
      {"empty :authority", literal(":method", "CONNECT") + literal(":authority", "")},
      {"headers beyond the limit", connect_block() + literal("x", std::string(15000, 'y'))},
  }));
  DYNAMIC_SECTION(name) {
    TunnelConfig config;
    config.max_header_bytes_server = 8192;
    Hostile peer(config);
    peer.hello();
    peer.write(frame(kHeaders, 4, 1, block));
    peer.write(frame(kHeaders, 4, 3, connect_block()));
    REQUIRE(peer.run([&] { return peer.server.users.size() == 1 && peer.count(kRst) == 1; }));
    CHECK_FALSE(peer.server.closed);
    CHECK(peer.server.tunnel->streams() == 1);
  }
}

TEST_CASE("floods end the connection") {
  const std::string name = GENERATE(as<std::string>(), "PING", "SETTINGS", "rapid reset", "CONTINUATION", "empty DATA");
  DYNAMIC_SECTION(name) {
    Hostile peer;
    peer.hello();
    std::string flood;
    if (name == "PING") {
      // Without reading the answers.
      for (int i = 0; i < 200'000; ++i) flood += frame(kPing, 0, 0, "12345678");
      const int small = 4096;
      setsockopt(peer.fd.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    } else if (name == "SETTINGS") {
      for (int i = 0; i < 200'000; ++i) flood += frame(kSettings, 0, 0, std::string("\x00\x04\x00\x00\x00\x01", 6));
    } else if (name == "rapid reset") {
      for (uint32_t i = 0; i < 20'000; ++i)
        flood += frame(kHeaders, 4, 2 * i + 1, connect_block()) + frame(kRst, 0, 2 * i + 1, std::string("\0\0\0\x08", 4));
    } else if (name == "CONTINUATION") {
      flood = frame(kHeaders, 0, 1, connect_block());
      for (int i = 0; i < 20'000; ++i) flood += frame(kContinuation, 0, 1, literal("x", "y"));
    } else {
      flood = frame(kHeaders, 4, 1, connect_block());
      for (int i = 0; i < 200'000; ++i) flood += frame(kData, 0, 1, "");
    }
    const bool reads = name != "PING" && name != "SETTINGS";
    std::string_view rest = flood;
    size_t most_kept = 0;
    while (!rest.empty() && !peer.server.closed && !peer.ended) {
      peer.write(rest.substr(0, 60'000));
      rest.remove_prefix(std::min<size_t>(60'000, rest.size()));
      peer.loop.run_once(0ms);
      if (reads) peer.drain();
      most_kept = std::max(most_kept, peer.io.budget.used());
      if (peer.server.tunnel) CHECK(peer.server.tunnel->streams() <= peer.config.max_concurrent_streams);
    }
    CHECK(most_kept <= peer.config.stream_window_initial);
    REQUIRE(peer.run([&] { return peer.server.closed.has_value(); }));
    CHECK(peer.io.buffers.lent() <= 1);
  }
}

TEST_CASE("DATA beyond the window is refused") {
  Hostile peer;
  peer.hello();
  peer.server.on_new = [](MemoryUser& user) { user.take_limit = 0; };
  peer.write(frame(kHeaders, 4, 1, connect_block()));
  REQUIRE(peer.run([&] { return peer.server.users.size() == 1; }));
  for (int i = 0; i < 20; ++i) peer.write(frame(kData, 0, 1, std::string(16384, 'x')));
  REQUIRE(peer.run([&] { return peer.server.closed || peer.server.users[0]->closed; }));
  CHECK(peer.io.budget.used() == 0);
}

TEST_CASE("streams beyond the limit are refused, the others go on") {
  TunnelConfig config;
  config.max_concurrent_streams = 10;
  Hostile peer(config);
  peer.hello();
  for (uint32_t i = 0; i < 30; ++i) peer.write(frame(kHeaders, 4, 2 * i + 1, connect_block()));
  REQUIRE(peer.run([&] { return peer.count(kRst) == 20 && peer.server.users.size() == 10; }));
  CHECK_FALSE(peer.server.closed);
}

TEST_CASE("a server's first frames are SETTINGS with the contract's values and the connection's window") {
  Hostile peer;
  peer.hello();
  REQUIRE(peer.run([&] { return peer.count(kWindowUpdate) >= 1; }));
  std::string settings;
  const auto setting = [&](uint16_t id, uint32_t value) {
    for (int shift : {8, 0}) settings += static_cast<char>(id >> shift);
    for (int shift : {24, 16, 8, 0}) settings += static_cast<char>(value >> shift);
  };
  setting(3, 200);        // MAX_CONCURRENT_STREAMS
  setting(4, 64 * 1024);  // INITIAL_WINDOW_SIZE: small at first, ours grow
  setting(5, 1 << 20);    // MAX_FRAME_SIZE
  setting(6, 65536);      // MAX_HEADER_LIST_SIZE
  CHECK(peer.received.substr(0, 9 + settings.size()) == frame(kSettings, 0, 0, settings));
  CHECK(peer.received.find(frame(kWindowUpdate, 0, 0, std::string("\x00\xff\x00\x01", 4))) !=
        std::string::npos);  // 16 MiB - 65535
}

TEST_CASE("a peer that has used its key for long is asked for a new one, once, and gets ours") {
  Hostile peer(kKeyUpdateAfterRecords - 3);
  peer.hello();
  for (int i = 0; i < 10; ++i) peer.write(frame(kPing, 0, 0, "12345678"));
  REQUIRE(peer.run([&] { return peer.count(kPing) == 10 && peer.tls.opener.key_update_due(); }));
  peer.tls.opener.key_update_answered();
  std::array<uint8_t, kKeyUpdateRecord> record;
  REQUIRE(peer.tls.sealer.seal_key_update(record, false));
  peer.write_raw({reinterpret_cast<char*>(record.data()), record.size()});
  for (int i = 0; i < 10; ++i) peer.write(frame(kPing, 0, 0, "12345678"));
  REQUIRE(peer.run([&] { return peer.count(kPing) == 20; }));
  CHECK_FALSE(peer.tls.opener.key_update_due());
  CHECK_FALSE(peer.ended);
}

TEST_CASE("a peer that trickles bytes is served like any other") {
  Hostile peer;
  std::string plain =
      std::string(kPreface) + frame(kSettings, 0, 0, "") + frame(kHeaders, 4, 1, connect_block()) + frame(kData, 1, 1, "trickle");
  std::vector<uint8_t> record(plain.size() + kRecordOverhead);
  memcpy(record.data() + kRecordHeader, plain.data(), plain.size());
  REQUIRE(peer.tls.sealer.seal_in_place(record.data(), plain.size(), ContentType::kApplicationData));
  for (const uint8_t byte : record) {
    peer.write_raw({reinterpret_cast<const char*>(&byte), 1});
    peer.loop.run_once(1ms);
  }
  REQUIRE(peer.run([&] { return peer.server.users.size() == 1 && peer.server.users[0]->ended; }));
  CHECK(peer.server.users[0]->received == "trickle");
}

TEST_CASE("a request that crosses our GOAWAY is served, and the tunnel ends when the peer has heard it") {
  Hostile peer;
  peer.hello();
  REQUIRE(peer.run([&] { return peer.count(kSettings) >= 1; }));
  peer.server.tunnel->drain();
  REQUIRE(peer.run([&] { return peer.count(kGoaway) == 1 && peer.count(kPing) == 1; }));
  CHECK(peer.last(kGoaway).substr(0, 4) == "\x7f\xff\xff\xff");
  // Sent before the GOAWAY was read.
  peer.write(frame(kHeaders, 4, 1, connect_block()));
  REQUIRE(peer.run([&] { return peer.server.users.size() == 1; }));
  peer.write(frame(kPing, 1, 0, peer.last(kPing)));
  REQUIRE(peer.run([&] { return peer.count(kHeaders) == 1; }));
  CHECK_FALSE(peer.server.closed);
  peer.write(frame(kRst, 0, 1, std::string("\0\0\0\x08", 4)));
  REQUIRE(peer.run([&] { return peer.ended && peer.server.closed; }));
  CHECK(peer.last(kGoaway).substr(0, 4) == std::string("\0\0\0\x01", 4));
  CHECK(peer.server.closed->reason == Reason::kOk);
}

TEST_CASE("an idle tunnel that drains waits for its peer to have heard it, for a limited time") {
  Hostile peer;
  const bool acknowledges = GENERATE(true, false);
  peer.config.goaway_grace = acknowledges ? 60s : 50ms;
  peer.hello();
  REQUIRE(peer.run([&] { return peer.count(kSettings) >= 1; }));
  peer.server.tunnel->drain();
  REQUIRE(peer.run([&] { return peer.count(kPing) == 1; }));
  if (acknowledges) {
    CHECK_FALSE(peer.server.closed);
    peer.write(frame(kPing, 1, 0, peer.last(kPing)));
  }
  REQUIRE(peer.run([&] { return peer.ended && peer.server.closed; }));
  CHECK(peer.server.closed->reason == Reason::kOk);
}

TEST_CASE("data and the end of the connection in one event are both seen") {
  Hostile peer;
  peer.hello();
  peer.write(frame(kHeaders, 4, 1, connect_block()));
  REQUIRE(peer.run([&] { return peer.server.users.size() == 1 && peer.count(kHeaders) == 1; }));
  peer.write(frame(kData, 0, 1, "last words"));
  if (GENERATE(false, true)) {
    const linger reset{.l_onoff = 1, .l_linger = 0};
    setsockopt(peer.fd.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  }
  peer.fd.reset();
  REQUIRE(peer.loop.run_until([&] { return peer.server.closed.has_value(); }, 10s));
  CHECK(peer.server.closed->reason == Reason::kDownstreamReset);
  CHECK(peer.server.users[0]->received == "last words");
  CHECK(peer.server.users[0]->closed == Reason::kDownstreamReset);
}

TEST_CASE("what a stalled stream has kept is not copied again for each frame that comes") {
  struct Stalled final : StreamHandler {
    size_t offers = 0, moves = 0, offered = 0;
    const void* first = nullptr;
    const void* last_byte = nullptr;
    void on_response(Headers) noexcept override {}
    PullResult pull(std::span<const iovec>) noexcept override { return {}; }
    size_t on_data(std::span<const iovec> data) noexcept override {
      ++offers;
      if (std::exchange(first, data.front().iov_base) != data.front().iov_base) ++moves;
      offered = 0;
      for (const iovec& part : data) offered += part.iov_len;
      return 0;
    }
    void on_end_stream() noexcept override {}
    void on_closed(Reason, H2Error) noexcept override {}
  } stalled;
  Hostile peer;
  peer.server.on_new = [&](MemoryUser& user) { user.stream->set_handler(&stalled); };
  peer.hello();
  peer.write(frame(kHeaders, 4, 1, connect_block()));
  REQUIRE(peer.run([&] { return peer.server.users.size() == 1; }));
  for (size_t i = 0; i < 1000; ++i) {
    peer.write(frame(kData, 0, 1, "x"));
    REQUIRE(peer.run([&] { return stalled.offered == i + 1; }));
  }
  CHECK(stalled.offers >= 1000);
  CHECK(stalled.moves < 10);
  CHECK(peer.io.budget.used() < 2000);
}

TEST_CASE("a fault of the peer's is named and answered with GOAWAY, whatever there is to send") {
  Hostile peer;
  peer.hello();
  peer.write(frame(kHeaders, 4, 1, connect_block()));
  REQUIRE(peer.run([&] { return peer.server.users.size() == 1 && peer.count(kHeaders) == 1; }));
  const bool before = GENERATE(true, false);  // the fault is read before the data is pulled, or with a window that opens
  if (!before) {
    peer.server.users[0]->send(std::string(100'000, 'x'));
    REQUIRE(peer.run([&] { return peer.received.size() > 65535; }));
    peer.write(frame(kWindowUpdate, 0, 0, std::string("\x00\x01\x00\x00", 4)) +
               frame(kWindowUpdate, 0, 1, std::string("\x00\x01\x00\x00", 4)) + frame(kData, 0, 0, "x"));
  } else {
    peer.server.users[0]->send(std::string(10'000, 'x'));
    peer.write(frame(kData, 0, 0, "x"));
  }
  REQUIRE(peer.run([&] { return peer.ended && peer.server.closed; }));
  CHECK(peer.server.closed->reason == Reason::kH2Failed);
  CHECK(peer.server.closed->text.find("DATA: stream_id == 0") != std::string::npos);
  REQUIRE(peer.count(kGoaway) >= 1);
  CHECK(peer.last(kGoaway).substr(4, 4) == std::string("\0\0\0\x01", 4));
}
