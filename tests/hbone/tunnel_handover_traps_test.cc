// What nghttp2 and HTTP/2 hold ready for whoever rebuilds a session: each of these was or would be a broken tunnel.
#include <catch2/catch.hpp>

#include "tests/hbone/handover_peer.h"
#include "tests/support/seal_guard/seal_guard.h"

using namespace zt;
using namespace zt::hbone;
using namespace zt::hbone::testing;
using namespace zt::hbone::testing::moving;

// ---- Limits

TEST_CASE("hand-over: a client keeps to the peer's limit of streams") {
  Client peer({}, setting(3, 2));
  peer.open();
  peer.give(answer(1));
  auto& gone = peer.open();
  gone.abandon(H2Error::kCancel);
  peer.turn();
  peer.move();
  CHECK(peer.owner.tunnel->free_streams() == 1);
  auto& next = peer.open();
  CHECK(next.stream->id() == 5);
  CHECK(peer.frames_of(kHeaders, 5) == 1);
  CHECK(peer.owner.tunnel->free_streams() == 0);
  peer.check_alive();
}

TEST_CASE("hand-over: a request that waits for the peer's limit of streams keeps its tunnel") {
  Client peer({}, setting(3, 3));
  peer.open();
  peer.give(answer(1));
  auto user = std::make_unique<MemoryUser>();
  // It was allowed when it was made.
  peer.write(frame(kSettings, 0, 0, setting(3, 1)));
  auto stream = peer.owner.tunnel->open(kConnect, *user);
  REQUIRE(stream);
  user->stream = *stream;
  peer.owner.users[3] = std::move(user);
  REQUIRE(peer.until([&] { return peer.owner.tunnel->free_streams() == 0; }));
  REQUIRE(peer.frames_of(kHeaders, 3) == 0);
  CHECK(peer.until([&] { return peer.try_move() == Unmovable::kQueued; }));
  peer.check_alive();
}

// ---- In the middle

TEST_CASE("hand-over: inside a DATA frame the rest of it is the stream's") {
  Server peer;
  peer.give(request(1));
  peer.owner.tunnel->prepare_handover();
  peer.turn();
  const std::string whole = frame(kData, kEndStream, 1, "0123456789");
  const size_t cut = GENERATE(3u, 9u, 12u, 18u);
  peer.give(whole.substr(0, cut));
  TunnelState state;
  peer.move(&state);
  CHECK(state.cursor.data_left == (cut < 9 ? 0 : 19 - cut));
  peer.give(whole.substr(cut));
  CHECK(peer.owner.users[1]->received == "0123456789");
  CHECK(peer.owner.users[1]->ended);
  peer.check_alive();
}

TEST_CASE("hand-over: inside a DATA frame with padding a tunnel stays until the frame's end") {
  Server peer;
  peer.give(request(1));
  peer.owner.tunnel->prepare_handover();
  peer.turn();
  const std::string whole = frame(kData, kPadded, 1, std::string("\x04", 1) + "data" + std::string(4, '\0'));
  peer.give(whole.substr(0, 12));
  CHECK(peer.try_move() == Unmovable::kInsidePadding);
  peer.give(whole.substr(12));
  peer.move();
  CHECK(peer.owner.users[1]->received == "data");
  peer.check_alive();
}

TEST_CASE("hand-over: a record that has come half is opened by the next process") {
  Server peer;
  peer.give(request(1));
  peer.owner.tunnel->prepare_handover();
  peer.turn();
  const std::string sealed = peer.seal(frame(kData, 0, 1, "in two halves"));
  const size_t cut = GENERATE(1u, 5u, 20u);
  peer.write_raw(sealed.substr(0, cut));
  peer.turn();
  TunnelState state;
  peer.move(&state);
  CHECK(state.partial.size() == cut);
  peer.write_raw(sealed.substr(cut));
  peer.turn();
  CHECK(peer.owner.users[1]->received == "in two halves");
  peer.check_alive();
}

TEST_CASE("hand-over: what the peer does not take is sent by the next process, as it was sealed") {
  TunnelConfig config;
  Server peer(config, setting(4, 1 << 30));
  peer.give(window(0, 1 << 30) + request(1) + request(3));
  peer.owner.tunnel->prepare_handover();
  peer.turn();
  const int buffer = 64 * 1024;
  REQUIRE(setsockopt(peer.fd.get(), SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer) == 0);
  REQUIRE(setsockopt(peer.owner.tunnel->socket(), SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer) == 0);
  const std::string bytes(3'000'000, 'x');
  peer.owner.users[1]->send(bytes, true);
  for (int i = 0; i < 50; ++i) peer.loop.run_once(std::chrono::milliseconds(0));
  // The socket is full, and there is something to say: it must not stay with the old session.
  peer.write(frame(kPing, 0, 0, "12345678"));
  for (int i = 0; i < 5; ++i) peer.loop.run_once(std::chrono::milliseconds(0));
  TunnelState state;
  REQUIRE_FALSE(hand_over(peer.io, peer.config, peer.owner, peer.owner.streams(), &state).has_value());
  CHECK(state.unsent.size() > 0);
  REQUIRE(peer.until([&] { return peer.data_of(1).size() == bytes.size(); }));
  CHECK(peer.frames_of(kPing) == 1);
  peer.check_alive();
}

// ---- Keys

TEST_CASE("hand-over: a change of keys that the peer asked for is made by the next process, once") {
  Server peer;
  peer.give(request(1));
  peer.owner.tunnel->prepare_handover();
  peer.turn();
  // Blocked, so that it cannot be answered before.
  peer.loop.run_once(std::chrono::milliseconds(0));
  std::vector<uint8_t> record(kKeyUpdateRecord);
  const auto sealed =
      peer.tls.sealer.seal_key_update(std::span<uint8_t, kKeyUpdateRecord>(record.data(), kKeyUpdateRecord), true);
  REQUIRE(sealed);
  peer.write_raw({reinterpret_cast<char*>(record.data()), *sealed});
  peer.move();
  peer.owner.users[1]->send("under the new key");
  REQUIRE(peer.until([&] { return peer.data_of(1) == "under the new key"; }));
  peer.give(frame(kData, 0, 1, "likewise"));
  CHECK(peer.owner.users[1]->received == "likewise");
  peer.check_alive();
}

TEST_CASE("hand-over: two that both go on are found out by the guard of the sequence numbers") {
  Server peer;
  peer.give(request(1));
  peer.owner.tunnel->prepare_handover();
  peer.turn();
  peer.owner.tunnel->settle();
  REQUIRE_FALSE(peer.owner.tunnel->unmovable().has_value());
  Frozen frozen = leave(peer.loop, *peer.owner.tunnel);
  Owner second;
  second.users[1] = std::make_unique<MemoryUser>();
  second.tunnel = arrive(peer.io, std::move(frozen), peer.config, second, {{1, second.users[1].get()}});
  peer.owner.tunnel->thaw();
  second.tunnel->thaw();
  peer.owner.users[1]->send("from one");
  second.users[1]->send("from the other");
  for (int i = 0; i < 5; ++i) peer.loop.run_once(std::chrono::milliseconds(0));
  CHECK(SealGuard::sealed_twice() > 0);
  second.tunnel.reset();
  peer.owner.tunnel.reset();
  const SealGuard clean;
}

// ---- Frozen

TEST_CASE("hand-over: a frozen tunnel says nothing, and goes on where it was when it thaws") {
  Server peer;
  peer.give(request(1) + request(3));
  peer.owner.users[3]->take_limit = 0;
  peer.give(frame(kData, 0, 3, "kept"));
  peer.owner.tunnel->prepare_handover();
  peer.turn();
  peer.owner.tunnel->settle();
  REQUIRE_FALSE(peer.owner.tunnel->unmovable().has_value());
  const size_t before = peer.received.size();
  const size_t sealed = SealGuard::sealed();
  (void)peer.owner.tunnel->freeze();
  peer.owner.users[1]->send("asked while frozen");
  peer.owner.users[3]->take_limit = SIZE_MAX;
  peer.owner.users[3]->stream->resume_delivery();
  peer.write(frame(kData, 0, 1, "came while frozen") + frame(kPing, 0, 0, "12345678"));
  peer.owner.tunnel->drain();
  for (int i = 0; i < 20; ++i) {
    peer.loop.run_once(std::chrono::milliseconds(1));
    peer.drain();
  }
  CHECK(peer.received.size() == before);
  CHECK(SealGuard::sealed() == sealed);
  CHECK(peer.owner.users[1]->received.empty());
  CHECK(peer.owner.users[3]->received.empty());
  CHECK(peer.io.budget.used() == 0);
  peer.owner.tunnel->thaw();
  peer.owner.users[3]->stream->resume_delivery();
  REQUIRE(peer.until(
      [&] { return peer.data_of(1) == "asked while frozen" && peer.owner.users[1]->received == "came while frozen"; }));
  CHECK(peer.owner.users[3]->received == "kept");
  CHECK(peer.frames_of(kPing) == 2);    // its, and the one behind our GOAWAY
  CHECK(peer.frames_of(kGoaway) == 1);  // drain() was not forgotten
}

TEST_CASE("hand-over: a tunnel that is closed while it is frozen is closed when it thaws, or not at all") {
  Server peer;
  peer.give(request(1));
  peer.owner.tunnel->prepare_handover();
  peer.turn();
  peer.owner.tunnel->settle();
  const bool goes = GENERATE(false, true);
  Frozen frozen = leave(peer.loop, *peer.owner.tunnel);
  peer.owner.tunnel->close(Reason::kCertRevoked);
  CHECK_FALSE(peer.owner.tunnel->closed());
  if (goes) {
    const auto users = peer.owner.streams();
    peer.owner.tunnel->discard();
    peer.owner.tunnel.reset();
    peer.owner.tunnel = arrive(peer.io, std::move(frozen), peer.config, peer.owner, users);
    peer.owner.tunnel->thaw();
    peer.owner.users[1]->send("on");
    REQUIRE(peer.until([&] { return peer.data_of(1) == "on"; }));
    peer.check_alive();
  } else {
    frozen.transport.reset();
    peer.owner.tunnel->thaw();
    REQUIRE(peer.until([&] { return peer.owner.closed.has_value(); }));
    CHECK(peer.owner.closed->reason == Reason::kCertRevoked);
    CHECK(*peer.owner.users[1]->closed == Reason::kCertRevoked);
  }
}

TEST_CASE("hand-over: a process that ends with a frozen tunnel leaves the connection alone") {
  Server peer;
  peer.give(request(1));
  peer.owner.tunnel->prepare_handover();
  peer.turn();
  peer.owner.tunnel->settle();
  Frozen frozen = leave(peer.loop, *peer.owner.tunnel);
  const auto users = peer.owner.streams();
  peer.owner.tunnel.reset();
  peer.turn();
  CHECK_FALSE(peer.ended);
  CHECK(peer.frames_of(kGoaway) == 0);
  peer.owner.tunnel = arrive(peer.io, std::move(frozen), peer.config, peer.owner, users);
  peer.owner.tunnel->thaw();
  peer.owner.users[1]->send("on");
  REQUIRE(peer.until([&] { return peer.data_of(1) == "on"; }));
  peer.check_alive();
}

// ---- Farewells

TEST_CASE("hand-over: a server that has said GOAWAY waits in the next process for the peer to have heard it") {
  TunnelConfig config;
  config.goaway_grace = std::chrono::seconds(60);
  Server peer(config);
  peer.owner.tunnel->drain();
  peer.turn();
  std::string ping;
  for (const auto& [kind, flags, stream, payload] : peer.frames()) {
    if (kind == kPing) ping = payload;
  }
  REQUIRE(ping.size() == 8);
  REQUIRE(peer.frames_of(kGoaway) == 1);
  TunnelState state;
  peer.move(&state);
  CHECK(state.goaway_unheard);
  CHECK(state.goaway_left > std::chrono::seconds(50));
  // Asked before it heard: served.
  peer.give(request(1, "\x20"));
  INFO((peer.owner.closed ? peer.owner.closed->text : ""));
  CHECK(peer.owner.requests.size() == 1);
  peer.give(frame(kPing, kAck, 0, ping));
  CHECK(peer.owner.tunnel != nullptr);
  peer.give(frame(kData, kEndStream, 1, ""));
  peer.owner.users[1]->send("", true);
  REQUIRE(peer.until([&] { return peer.owner.closed.has_value(); }));
  CHECK(peer.owner.closed->reason == Reason::kOk);
  CHECK(peer.frames_of(kGoaway) == 2);
}

TEST_CASE("hand-over: a client whose peer has said GOAWAY opens nothing more, and ends with its last stream") {
  Client peer;
  peer.open();
  auto& unanswered = peer.open();
  peer.give(answer(1));
  peer.give(frame(kGoaway, 0, 0, u32(3) + u32(0)));
  TunnelState state;
  peer.move(&state);
  CHECK(state.goaway_received);
  CHECK(state.goaway_last_stream == 3);
  CHECK(peer.owner.tunnel->free_streams() == 0);
  // Not answered within the grace: given up, here.
  REQUIRE(peer.until([&] { return unanswered.closed.has_value(); }));
  CHECK(*unanswered.closed == Reason::kPeerLost);
  peer.give(frame(kData, kEndStream, 1, "end"));
  peer.owner.users[1]->send("", true);
  REQUIRE(peer.until([&] { return peer.owner.closed.has_value(); }));
  CHECK(peer.owner.closed->reason == Reason::kOk);
  CHECK(peer.owner.users[1]->received == "end");
}

TEST_CASE("hand-over: a peer that was silent before stays silent in the next process's eyes") {
  TunnelConfig config;
  config.ping_interval = std::chrono::milliseconds(100);
  config.ping_timeout = std::chrono::milliseconds(300);
  Server peer(config);
  peer.give(request(1));
  REQUIRE(peer.until([&] { return peer.frames_of(kPing) == 1; }));
  TunnelState state;
  peer.move(&state);
  CHECK(state.ping_outstanding);
  REQUIRE(peer.until([&] { return peer.owner.closed.has_value(); }));
  CHECK(peer.owner.closed->reason == Reason::kPeerLost);
  CHECK(peer.frames_of(kPing) == 1);
}

TEST_CASE("hand-over: a request that nobody has answered is begun anew") {
  Server peer;
  peer.owner.answers = false;
  peer.give(request(1) + frame(kData, 0, 1, "early") + frame(kData, kEndStream, 1, " and all"));
  REQUIRE(peer.owner.requests.size() == 1);
  peer.owner.users[1]->take_limit = 0;
  const bool kept = GENERATE(false, true);
  if (!kept) peer.owner.users[1]->received.clear();
  peer.owner.tunnel->prepare_handover();
  peer.turn();
  peer.owner.tunnel->settle();
  Frozen frozen = leave(peer.loop, *peer.owner.tunnel);
  frozen.state.streams.at(0).request = peer.owner.requests[0].second;
  peer.owner.users[1]->stream = nullptr;
  peer.owner.tunnel->discard();
  peer.owner.tunnel.reset();
  peer.owner.answers = true;
  peer.owner.tunnel = arrive(peer.io, std::move(frozen), peer.config, peer.owner, {});
  CHECK(peer.owner.requests.size() == 1);  // not before it runs
  peer.owner.tunnel->thaw();
  peer.turn();
  REQUIRE(peer.owner.requests.size() == 2);
  CHECK(peer.owner.requests[1] == peer.owner.requests[0]);
  CHECK(peer.frames_of(kHeaders, 1) == 1);
  peer.owner.users[1]->send("late", true);
  REQUIRE(peer.until([&] { return peer.data_of(1) == "late"; }));
  peer.check_alive();
}

// ---- States that cannot be

TEST_CASE("hand-over: a state that no tunnel can have is refused, and the connection left alone") {
  Client peer;
  peer.open();
  peer.give(answer(1));
  peer.owner.tunnel->prepare_handover();
  peer.turn();
  peer.owner.tunnel->settle();
  Frozen frozen = leave(peer.loop, *peer.owner.tunnel);
  TunnelState& state = frozen.state;
  bool nobody = false;
  SECTION("a stream that has ended") { state.streams[0].end_sent = state.streams[0].end_received = true; }
  SECTION("a stream of the other side") { state.streams[0].id = 2; }
  SECTION("streams in disorder") { state.streams.push_back(state.streams[0]); }
  SECTION("a stream beyond the last") { state.next_stream = 1; }
  SECTION("credit below nothing") { state.streams[0].receive_credit = -5; }
  SECTION("no connection window") {
    state.receive_credit = 0;
    state.streams[0].kept.resize(10);
    state.streams[0].receive_credit -= 10;
  }
  SECTION("a frame for nobody") {
    state.cursor = {.held = {}, .data_left = 100, .data_stream = 8, .data_flags = 0, .largest_stream = 0};
  }
  SECTION("no secret") { state.sealer.secret = {}; }
  SECTION("a window of the peer's that is none") { state.peer_settings.initial_window = 0x80000000; }
  SECTION("a stream that is nobody's") { nobody = true; }
  Owner second;
  MemoryUser user;
  const auto resumed = Tunnel::resume(peer.io, peer.io.budget, std::move(frozen.transport), state, peer.config, second,
                                      [&](Stream&, const StreamState&) -> StreamHandler* { return nobody ? nullptr : &user; });
  CHECK_FALSE(resumed.has_value());
  peer.owner.tunnel->thaw();
  peer.owner.users[1]->send("on");
  REQUIRE(peer.until([&] { return peer.data_of(1) == "on"; }));
  peer.check_alive();
}
