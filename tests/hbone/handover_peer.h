#pragma once
#include <catch2/catch.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mesh/reason.h"
#include "tests/hbone/handover.h"
#include "tests/hbone/hostile_peer.h"
#include "tests/support/seal_guard/seal_guard.h"

// A tunnel with a peer made by hand, which moves while the peer is at any point of what it says.
namespace zt::hbone::testing::moving {

constexpr uint8_t kAck = 1, kEndStream = 1, kEndHeaders = 4, kPadded = 8;

inline std::string u32(uint32_t value) {
  std::string out;
  for (int shift : {24, 16, 8, 0}) out += static_cast<char>(value >> shift);
  return out;
}
inline std::string setting(uint16_t id, uint32_t value) {
  return std::string{static_cast<char>(id >> 8), static_cast<char>(id)} + u32(value);
}
inline std::string request(uint32_t id, std::string_view before = {}) {
  return frame(kHeaders, kEndHeaders, id, std::string(before) + connect_block());
}
inline std::string answer(uint32_t id) { return frame(kHeaders, kEndHeaders, id, "\x88"); }
inline std::string window(uint32_t stream, uint32_t more) { return frame(kWindowUpdate, 0, stream, u32(more)); }
// How a peer acknowledges: everything that it was sent so far.
inline const std::string kSettingsAck = frame(kSettings, kAck, 0, "");

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

}  // namespace zt::hbone::testing::moving
