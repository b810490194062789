// What nghttp2 and HTTP/2 hold ready for whoever rebuilds a session: each of these was or would be a broken tunnel.
#include <catch2/catch.hpp>

#include "mesh/reason.h"
#include "tests/hbone/handover.h"
#include "tests/hbone/hostile_peer.h"
#include "tests/support/seal_guard/seal_guard.h"

using namespace zt;
using namespace zt::hbone;
using namespace zt::hbone::testing;

namespace {

constexpr uint8_t kAck = 1, kEndStream = 1, kEndHeaders = 4, kPadded = 8;

std::string u32(uint32_t value) {
  std::string out;
  for (int shift : {24, 16, 8, 0}) out += static_cast<char>(value >> shift);
  return out;
}
std::string setting(uint16_t id, uint32_t value) {
  return std::string{static_cast<char>(id >> 8), static_cast<char>(id)} + u32(value);
}
std::string request(uint32_t id, std::string_view before = {}) {
  return frame(kHeaders, kEndHeaders, id, std::string(before) + connect_block());
}
std::string answer(uint32_t id) { return frame(kHeaders, kEndHeaders, id, "\x88"); }
std::string window(uint32_t stream, uint32_t more) { return frame(kWindowUpdate, 0, stream, u32(more)); }
// How a peer acknowledges: everything that it was sent so far.
const std::string kSettingsAck = frame(kSettings, kAck, 0, "");

// Streams by id: answered, or left alone if there is no user for them.
struct Owner final : TunnelOwner {
  std::unique_ptr<Tunnel> tunnel;
  std::map<int32_t, std::unique_ptr<MemoryUser>> users;
  std::vector<std::pair<int32_t, Headers>> requests;
  bool answers = true;
  std::optional<Error> closed;

  MemoryUser& use(Stream& stream) {
    auto& user = users[stream.id()];
    if (user == nullptr) user = std::make_unique<MemoryUser>();
    user->stream = &stream;
    stream.set_handler(user.get());
    return *user;
  }
  void on_request(Stream& stream, Headers headers) noexcept override {
    requests.emplace_back(stream.id(), std::move(headers));
    use(stream);
    if (answers) stream.respond({{":status", "200"}}, false);
  }
  void on_streams_changed(Tunnel&) noexcept override {}
  void on_tunnel_closed(Tunnel&, const Error& why) noexcept override {
    closed = why;
    tunnel.reset();
  }
  Users streams() {
    Users all;
    for (auto& [id, user] : users) {
      if (user->stream != nullptr) all[id] = user.get();
    }
    return all;
  }
};

// A tunnel with a hand-made peer that acknowledges each of our SETTINGS, unless told not to.
struct Made : HandMade {
  TunnelConfig config;
  Owner owner;
  SealGuard guard;
  size_t acknowledged = 0;
  bool acknowledges = true;

  explicit Made(TunnelRole role, TunnelConfig settings = {}, std::string peer_settings = {})
      : HandMade(std::make_shared<TestWorker>(), established(role == TunnelRole::kClient)), config(settings) {
    auto [ours, theirs] = tcp_pair();
    fd = std::move(theirs);
    auto started =
        Tunnel::start(io, io.budget, role, std::move(ours), established(role == TunnelRole::kServer), {}, config, owner);
    REQUIRE(started);
    owner.tunnel = std::move(*started);
    write((role == TunnelRole::kServer ? std::string(kPreface) : "") + frame(kSettings, 0, 0, peer_settings));
    turn();
  }
  ~Made() { CHECK(SealGuard::sealed_twice() == 0); }

  // The client's preface is no frame.
  [[nodiscard]] std::vector<std::tuple<uint8_t, uint8_t, uint32_t, std::string>> frames() const {
    std::vector<std::tuple<uint8_t, uint8_t, uint32_t, std::string>> all;
    const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(received[i])); };
    size_t at = received.starts_with(kPreface) ? kPreface.size() : 0;
    while (at + 9 <= received.size()) {
      const size_t size = byte(at) << 16 | byte(at + 1) << 8 | byte(at + 2);
      if (at + 9 + size > received.size()) break;
      const uint32_t id = byte(at + 5) << 24 | byte(at + 6) << 16 | byte(at + 7) << 8 | byte(at + 8);
      all.emplace_back(byte(at + 3), byte(at + 4), id, received.substr(at + 9, size));
      at += 9 + size;
    }
    return all;
  }
  [[nodiscard]] size_t frames_of(uint8_t type, std::optional<uint32_t> id = {}) const {
    size_t found = 0;
    for (const auto& [kind, flags, stream, payload] : frames()) found += kind == type && (!id || *id == stream);
    return found;
  }
  [[nodiscard]] std::string data_of(uint32_t id) const {
    std::string all;
    for (const auto& [kind, flags, stream, payload] : frames()) {
      if (kind == kData && stream == id) all += payload;
    }
    return all;
  }
  void acknowledge() {
    if (!acknowledges) return;
    size_t settings = 0;
    for (const auto& [kind, flags, stream, payload] : frames()) settings += kind == kSettings && (flags & kAck) == 0;
    for (; acknowledged < settings; ++acknowledged) write(kSettingsAck);
  }
  // Lets both sides come to rest.
  void turn() {
    for (int i = 0; i < 6; ++i) {
      loop.run_once(std::chrono::milliseconds(0));
      drain();
      acknowledge();
    }
  }
  bool until(const std::function<bool()>& done) {
    return run([&] {
      acknowledge();
      return done();
    });
  }
  void give(const std::string& frames) {
    write(frames);
    turn();
  }
  std::optional<Unmovable> try_move(TunnelState* seen = nullptr) {
    turn();
    return hand_over(io, config, owner, owner.streams(), seen);
  }
  void move(TunnelState* seen = nullptr) {
    std::optional<Unmovable> why;
    const bool moved = until([&] { return !(why = hand_over(io, config, owner, owner.streams(), seen)); });
    if (!moved) FAIL((owner.closed ? owner.closed->text : std::string(unmovable_text(*why))));
    turn();
  }
  void check_alive() {
    turn();
    INFO((owner.closed ? owner.closed->text : ""));
    CHECK(owner.tunnel != nullptr);
    CHECK(frames_of(kGoaway) == 0);
  }
  MemoryUser& open() {
    auto user = std::make_unique<MemoryUser>();
    auto stream = owner.tunnel->open(kConnect, *user);
    REQUIRE(stream);
    user->stream = *stream;
    const int32_t id = (*stream)->id();
    owner.users[id] = std::move(user);
    turn();
    return *owner.users[id];
  }
};

struct Server : Made {
  explicit Server(TunnelConfig settings = {}, std::string peer_settings = {})
      : Made(TunnelRole::kServer, settings, std::move(peer_settings)) {}
};
struct Client : Made {
  explicit Client(TunnelConfig settings = {}, std::string peer_settings = {})
      : Made(TunnelRole::kClient, settings, std::move(peer_settings)) {}
};

}  // namespace

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
