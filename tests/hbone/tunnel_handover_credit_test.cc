// What a moved session owes and is owed: headers, streams that have ended, credit. Each of these was or would be a broken tunnel.
#include <catch2/catch.hpp>

#include "tests/hbone/handover_peer.h"

using namespace zt;
using namespace zt::hbone;
using namespace zt::hbone::testing;
using namespace zt::hbone::testing::moving;

// ---- Headers

TEST_CASE("hand-over: a peer that was told of a table without memory is not asked to say so twice") {
  Server peer;
  peer.give(request(1));
  peer.owner.tunnel->prepare_handover();
  peer.turn();
  // Its next block says that its table is empty; the one after does not.
  peer.give(request(3, "\x20"));
  peer.move();
  peer.give(request(5));
  peer.check_alive();
  CHECK(peer.owner.requests.size() == 3);
}

TEST_CASE("hand-over: a peer that has not yet said that its table is empty may say so to the next process") {
  Server peer;
  peer.give(request(1));
  peer.move();
  peer.give(request(3, "\x20"));
  peer.give(request(5));
  peer.check_alive();
  CHECK(peer.owner.requests.size() == 3);
}

TEST_CASE("hand-over: an answer of 100 that emptied the peer's table counts, though the request is not answered") {
  Client peer;
  auto& user = peer.open();
  peer.owner.tunnel->prepare_handover();
  peer.turn();
  peer.give(frame(kHeaders, kEndHeaders, 1, std::string("\x20\x08\x03", 3) + "100"));
  peer.move();
  peer.give(answer(1));
  peer.check_alive();
  CHECK(user.response.has_value());
}

TEST_CASE("hand-over: our headers do not refer to what the process before has sent") {
  Server peer;
  nghttp2_hd_inflater* inflater = nullptr;
  REQUIRE(nghttp2_hd_inflate_new(&inflater) == 0);
  size_t blocks = 0;
  // What a peer's decoder makes of all our answers, with its table.
  const auto decode = [&] {
    size_t at = 0;
    std::string last;
    for (const auto& [kind, flags, stream, payload] : peer.frames()) {
      if (kind != kHeaders || at++ < blocks) continue;
      ++blocks;
      last.clear();
      auto* in = const_cast<uint8_t*>(reinterpret_cast<const uint8_t*>(payload.data()));
      size_t left = payload.size();
      for (;;) {
        nghttp2_nv field;
        int emitted = 0;
        const auto used = nghttp2_hd_inflate_hd2(inflater, &field, &emitted, in, left, 1);
        REQUIRE(used >= 0);
        in += used;
        left -= static_cast<size_t>(used);
        if ((emitted & NGHTTP2_HD_INFLATE_EMIT) != 0) {
          last += std::string(reinterpret_cast<char*>(field.name), field.namelen) + "=" +
                  std::string(reinterpret_cast<char*>(field.value), field.valuelen) + " ";
        }
        if ((emitted & NGHTTP2_HD_INFLATE_FINAL) != 0) {
          nghttp2_hd_inflate_end_headers(inflater);
          break;
        }
      }
    }
    return last;
  };
  peer.owner.answers = false;
  const auto respond = [&](int32_t id) {
    peer.owner.users[id]->stream->respond({{":status", "200"}, {"baggage", "k8s.namespace.name=n"}}, false);
    peer.turn();
    return decode();
  };
  const std::string whole = ":status=200 baggage=k8s.namespace.name=n ";
  peer.give(request(1));
  CHECK(respond(1) == whole);
  peer.give(request(3));
  CHECK(respond(3) == whole);
  for (int32_t id : {5, 7, 9}) {
    peer.move();
    peer.give(request(static_cast<uint32_t>(id)));
    CHECK(respond(id) == whole);
  }
  nghttp2_hd_inflate_del(inflater);
  peer.check_alive();
}

TEST_CASE("hand-over: a tunnel whose peer does not acknowledge our settings stays") {
  Server peer;
  peer.give(request(1));
  peer.acknowledges = false;
  CHECK(peer.try_move() == Unmovable::kUnacknowledged);
  CHECK(peer.try_move() == Unmovable::kUnacknowledged);
  peer.acknowledges = true;
  CHECK_FALSE(peer.try_move().has_value());
  // And then needs no word any more.
  CHECK_FALSE(peer.try_move().has_value());
  peer.check_alive();
}

// ---- Streams that have ended

TEST_CASE("hand-over: a server answers for bytes that were on their way to a stream that it has just reset") {
  Server peer;
  peer.give(request(1));
  peer.owner.users[1]->abandon(H2Error::kCancel);
  peer.turn();
  REQUIRE(peer.frames_of(kRst, 1) == 1);
  peer.move();
  peer.give(frame(kData, 0, 1, "late") + frame(kRst, 0, 1, u32(8)));
  peer.check_alive();
  peer.give(request(3));
  CHECK(peer.owner.requests.size() == 2);
}

TEST_CASE("hand-over: a client answers for bytes that were on their way to a stream that it has just reset") {
  Client peer;
  const bool other_open = GENERATE(false, true);
  if (other_open) {
    peer.open();
    peer.give(answer(1));
  }
  auto& user = peer.open();
  const uint32_t id = static_cast<uint32_t>(user.stream->id());
  peer.give(answer(id));
  user.abandon(H2Error::kCancel);
  peer.turn();
  REQUIRE(peer.frames_of(kRst, id) == 1);
  peer.move();
  peer.give(frame(kData, 0, id, "late") + frame(kRst, 0, id, u32(8)));
  peer.check_alive();
  auto& next = peer.open();
  CHECK(next.stream->id() == static_cast<int32_t>(id) + 2);
}

TEST_CASE("hand-over: a request that has come half is answered by the next process") {
  Server peer;
  peer.give(request(1));
  peer.owner.tunnel->prepare_handover();
  peer.turn();
  const std::string whole = request(3, "\x20");
  const size_t cut = GENERATE(4u, 9u, 20u);
  peer.give(whole.substr(0, cut));
  TunnelState state;
  peer.move(&state);
  CHECK(state.cursor.held.size() == cut);
  CHECK(state.cursor.largest_stream == 1);
  peer.give(whole.substr(cut));
  peer.check_alive();
  REQUIRE(peer.owner.requests.size() == 2);
  CHECK(peer.owner.requests[1].first == 3);
}

TEST_CASE("hand-over: a server with as many streams as it allows goes on with all of them") {
  TunnelConfig config;
  config.max_concurrent_streams = 5;
  Server peer(config);
  peer.give(request(1));
  peer.owner.users[1]->abandon(H2Error::kCancel);
  peer.turn();
  for (uint32_t id = 3; id <= 11; id += 2) peer.give(request(id));
  peer.move();
  for (int32_t id = 3; id <= 11; id += 2) {
    REQUIRE(peer.owner.users[id]->stream != nullptr);
    peer.owner.users[id]->send("on");
  }
  peer.turn();
  for (uint32_t id = 3; id <= 11; id += 2) CHECK(peer.data_of(id) == "on");
  peer.check_alive();
}

// ---- Credit

TEST_CASE("hand-over: what may be sent is exactly what the peer allows, for the connection and each stream") {
  // 100,000 bytes of stream 1 and 50,000 of 3 are spent by then.
  Server peer({}, setting(4, 150'000));
  peer.give(window(0, 200'000 - 65'535));
  peer.give(request(1) + request(3) + request(5));
  peer.owner.users[1]->send(std::string(100'000, 'a'));
  peer.owner.users[3]->send(std::string(50'000, 'b'));
  REQUIRE(peer.until([&] { return peer.data_of(1).size() == 100'000 && peer.data_of(3).size() == 50'000; }));
  const bool payer_gone = GENERATE(false, true);
  if (payer_gone) {
    // Only the connection knows what this one has used.
    peer.owner.users[3]->abandon(H2Error::kCancel);
    peer.turn();
  }
  TunnelState state;
  peer.move(&state);
  CHECK(state.send_credit == 50'000);
  CHECK(state.streams.at(0).send_credit == 50'000);
  peer.owner.users[5]->send(std::string(300'000, 'c'));
  REQUIRE(peer.until([&] { return peer.data_of(5).size() == 50'000; }));
  peer.turn();
  CHECK(peer.data_of(5).size() == 50'000);
  // Nothing is left, and a move with nothing left is no different.
  peer.move(&state);
  CHECK(state.send_credit == 0);
  peer.give(window(0, 70'000));
  REQUIRE(peer.until([&] { return peer.data_of(5).size() == 120'000; }));
  peer.check_alive();
}

TEST_CASE("hand-over: a stream that has ended our side stays ended though the connection has no credit") {
  Server peer;
  peer.give(request(1) + request(3));
  peer.owner.users[1]->send("last", true);
  peer.owner.users[3]->send(std::string(65'531, 'x'));
  REQUIRE(peer.until([&] { return peer.data_of(3).size() == 65'531; }));
  TunnelState state;
  peer.move(&state);
  CHECK(state.send_credit == 0);
  CHECK(state.streams.at(0).end_sent);
  peer.give(frame(kData, kEndStream, 1, "bye"));
  REQUIRE(peer.owner.users[1]->closed.has_value());
  CHECK(*peer.owner.users[1]->closed == Reason::kOk);
  CHECK(peer.owner.users[1]->received == "bye");
  CHECK(peer.data_of(1) == "last");
  peer.check_alive();
}

TEST_CASE("hand-over: credit that streams used which are gone is paid for when the last stream is not answered yet") {
  Server peer;
  peer.give(request(1));
  peer.owner.users[1]->send(std::string(40'000, 'x'), true);
  REQUIRE(peer.until([&] { return peer.data_of(1).size() == 40'000; }));
  peer.give(frame(kData, kEndStream, 1, ""));
  peer.owner.answers = false;
  peer.give(request(3));
  TunnelState state;
  peer.move(&state);
  CHECK(state.send_credit == 25'535);
  peer.owner.users[3]->stream->respond({{":status", "200"}}, false);
  peer.owner.users[3]->send(std::string(60'000, 'y'));
  REQUIRE(peer.until([&] { return peer.data_of(3).size() == 25'535; }));
  peer.turn();
  CHECK(peer.data_of(3).size() == 25'535);
  peer.check_alive();
}

TEST_CASE("hand-over: a peer with the largest window there is has it afterwards") {
  Server peer({}, setting(4, 0x7fffffff));
  peer.give(window(0, 0x7fffffff - 65'535));
  peer.give(request(1) + request(3));
  peer.owner.users[1]->send(std::string(3'000'000, 'x'), true);
  REQUIRE(peer.until([&] { return peer.data_of(1).size() == 3'000'000; }));
  peer.move();
  peer.owner.users[3]->send("on");
  REQUIRE(peer.until([&] { return peer.data_of(3) == "on"; }));
  peer.check_alive();
}

TEST_CASE("hand-over: a peer that allows streams nothing at first is not sent a byte before it does") {
  Server peer({}, setting(4, 0));
  peer.give(request(1) + request(3));
  peer.owner.users[1]->send("first", true);
  peer.owner.users[3]->send("second", true);
  peer.turn();
  peer.move();
  CHECK(peer.frames_of(kData) == 0);
  peer.give(window(1, 100));
  REQUIRE(peer.until([&] { return peer.data_of(1) == "first"; }));
  peer.move();
  peer.give(window(3, 3));
  REQUIRE(peer.until([&] { return peer.data_of(3) == "sec"; }));
  peer.move();
  peer.give(window(3, 100));
  REQUIRE(peer.until([&] { return peer.data_of(3) == "second"; }));
  peer.check_alive();
}

TEST_CASE("hand-over: a tunnel whose peer took credit back stays while a stream has none") {
  Server peer;
  peer.give(request(1));
  peer.owner.users[1]->send(std::string(30'000, 'x'));
  REQUIRE(peer.until([&] { return peer.data_of(1).size() == 30'000; }));
  // 10,000 less than nothing are left of the stream's.
  peer.give(frame(kSettings, 0, 0, setting(4, 20'000)));
  CHECK(peer.until([&] { return peer.try_move() == Unmovable::kCreditTakenBack; }));
  peer.give(window(1, 10'001));
  TunnelState state;
  peer.move(&state);
  CHECK(state.streams.at(0).send_credit == 1);
  peer.check_alive();
}

TEST_CASE("hand-over: what the peer may send is exactly what it was allowed, whatever is kept") {
  const size_t taken = GENERATE(0u, 1000u, 40'000u);
  Server peer;
  peer.give(request(1));
  peer.owner.users[1]->take_limit = taken;
  peer.give(frame(kData, 0, 1, std::string(16'000, 'a')) + frame(kData, 0, 1, std::string(16'000, 'b')) +
            frame(kData, 0, 1, std::string(16'000, 'c')));
  REQUIRE(peer.until([&] { return peer.owner.users[1]->received.size() == std::min<size_t>(taken, 48'000); }));
  TunnelState state;
  peer.move(&state);
  CHECK(state.streams.at(0).kept.size() == 48'000 - std::min<size_t>(taken, 48'000));
  const auto credit = static_cast<size_t>(state.streams.at(0).receive_credit);
  // All that it may, and it is never at fault.
  for (size_t left = credit; left > 0;) {
    const size_t part = std::min<size_t>(left, 16'000);
    peer.give(frame(kData, 0, 1, std::string(part, 'd')));
    left -= part;
  }
  peer.check_alive();
  peer.owner.users[1]->take_limit = SIZE_MAX;
  peer.owner.users[1]->stream->resume_delivery();
  peer.turn();
  CHECK(peer.owner.users[1]->received.size() == 48'000 + credit);
  // And it gets credit for all of it.
  peer.move(&state);
  CHECK(state.streams.at(0).receive_credit > 32'000);
  peer.check_alive();
}

TEST_CASE("hand-over: a window that was made smaller takes no credit back from the peer") {
  // Grown by a sink that takes everything, made smaller by one that stops.
  TunnelConfig config;
  config.stream_window_max = 1 << 20;
  Server peer(config);
  peer.give(request(1));
  auto& user = *peer.owner.users[1];
  TunnelState state;
  size_t sent = 0;
  for (int i = 0; i < 400 && (state.streams.empty() || state.streams[0].window.bytes <= 64 * 1024); ++i) {
    peer.give(frame(kData, 0, 1, std::string(16'000, 'x')));
    sent += 16'000;
    if (i % 20 == 19) peer.move(&state);
  }
  REQUIRE(state.streams.at(0).window.bytes > 64 * 1024);
  REQUIRE(user.received.size() == sent);
  user.stream->sink_stopped();
  peer.give(frame(kData, 0, 1, std::string(16'000, 'y')));
  peer.move(&state);
  CHECK(state.streams[0].window.stopped);
  CHECK(state.streams[0].window.withheld == 16'000);
  user.stream->sink_goes_on();
  peer.turn();
  peer.move(&state);
  CHECK(state.streams[0].window.bytes == 64 * 1024);
  CHECK(state.streams[0].receive_credit > 64 * 1024);
  const auto before = user.received.size();
  for (int32_t left = state.streams[0].receive_credit; left > 0; left -= 16'000) {
    peer.give(frame(kData, 0, 1, std::string(static_cast<size_t>(std::min(left, 16'000)), 'z')));
  }
  CHECK(user.received.size() == before + static_cast<size_t>(state.streams[0].receive_credit));
  peer.move(&state);
  CHECK(state.streams[0].receive_credit <= 64 * 1024);
  CHECK(state.streams[0].receive_credit > 0);
  // It grows again; what it owes the peer then is more than half of it.
  for (int i = 0; i < 400 && state.streams[0].window.bytes <= 64 * 1024; ++i) {
    peer.give(frame(kData, 0, 1, std::string(16'000, 'x')));
    peer.try_move(&state);
  }
  CHECK(state.streams[0].window.bytes > 64 * 1024);
  CHECK(state.streams[0].receive_credit > 0);
  peer.check_alive();
}

TEST_CASE("hand-over: a stream whose window shrank and grew gets from the next process all that it is owed") {
  TunnelConfig config;
  config.stream_window_max = 1 << 20;
  Server peer(config);
  peer.give(request(1));
  auto& user = *peer.owner.users[1];
  peer.owner.tunnel->prepare_handover();
  peer.turn();
  const auto receive = [&](size_t bytes) { peer.give(frame(kData, 0, 1, std::string(bytes, 'x'))); };
  const auto grow = [&] {
    TunnelState state;
    for (int i = 0; i < 200; ++i) {
      receive(16'000);
      // Looked at without being moved: only one process has it until the end.
      peer.owner.tunnel->settle();
      REQUIRE_FALSE(peer.owner.tunnel->unmovable().has_value());
      state = peer.owner.tunnel->freeze();
      peer.owner.tunnel->thaw();
      peer.turn();
      if (state.streams.at(0).window.bytes > 64 * 1024) return state;
    }
    FAIL("it does not grow");
    return state;
  };
  grow();
  user.stream->sink_stopped();
  receive(16'000);
  user.stream->sink_goes_on();
  peer.turn();
  // It has grown in this very moment.
  const TunnelState before = grow();
  TunnelState state;
  peer.move(&state);
  peer.move(&state);
  CHECK(state.streams[0].window.bytes == before.streams[0].window.bytes);
  CHECK(state.streams[0].receive_credit > static_cast<int32_t>(state.streams[0].window.bytes / 2));
  peer.check_alive();
}

TEST_CASE("hand-over: the connection's credit is returned to the peer by the next process") {
  TunnelConfig config;
  config.connection_window = 128 * 1024;
  Server peer(config);
  peer.give(request(1) + request(3));
  TunnelState state;
  for (int i = 0; i < 30; ++i) {
    peer.give(frame(kData, 0, i % 2 == 0 ? 1 : 3, std::string(16'000, 'x')));
    peer.move(&state);
    CHECK(state.receive_credit > 64 * 1024);
  }
  CHECK(peer.owner.users[1]->received.size() == 15 * 16'000);
  peer.check_alive();
}
