// Who owns received bytes, and for how long: turns, streams that outlive their tunnel, tunnels inside of streams.
#include <catch2/catch.hpp>
#include <random>

#include "hbone/stream_transport.h"
#include "mesh/reason.h"
#include "tests/hbone/hostile_peer.h"

using namespace zt;
using namespace zt::hbone;
using namespace zt::hbone::testing;

namespace {

std::string random_bytes(size_t size) {
  std::mt19937 random(3);
  std::string bytes(size, '\0');
  for (auto& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

// A sink that does something else while it is given bytes.
struct Meddler final : StreamHandler {
  std::function<void()> meddle;
  std::string received;
  void on_response(Headers) noexcept override {}
  PullResult pull(std::span<const iovec>) noexcept override { return {}; }
  size_t on_data(std::span<const iovec> data) noexcept override {
    size_t taken = 0;
    for (const iovec& part : data) {
      received.append(static_cast<const char*>(part.iov_base), part.iov_len);
      taken += part.iov_len;
    }
    meddle();
    return taken;
  }
  void on_end_stream() noexcept override {}
  void on_closed(Reason, H2Error) noexcept override {}
};

}  // namespace

TEST_CASE("a record that does not open gives no stream the bytes of another tunnel") {
  auto worker = std::make_shared<TestWorker>();
  Hostile a(0, worker), b(0, worker);
  for (Hostile* peer : {&a, &b}) {
    peer->server.on_new = [](MemoryUser& user) { user.take_limit = 0; };
    peer->hello();
    peer->write(frame(kHeaders, 4, 1, connect_block()) + frame(kData, 0, 1, "first of all."));
    REQUIRE(peer->run([&] { return peer->server.users.size() == 1 && peer->count(kHeaders) == 1; }));
  }
  MemoryUser& lagging = *a.server.users[0];
  Meddler other;
  b.server.users[0]->stream->set_handler(&other);
  // The lagging sink takes bytes again while the other tunnel's are in the worker's hands.
  other.meddle = [&] {
    lagging.take_limit = SIZE_MAX;
    if (lagging.stream != nullptr) lagging.stream->resume_delivery();
  };
  a.write_raw(a.seal(frame(kData, 0, 1, "bytes of A")) + std::string("\x17\x03\x03\x00\x20", 5) + std::string(32, 'x'));
  b.write(frame(kData, 0, 1, "SECRET of B"));
  REQUIRE(b.run([&] { return other.received.find("SECRET of B") != std::string::npos; }));
  REQUIRE(a.run([&] { return a.server.closed.has_value(); }));
  CHECK(a.server.closed->reason == Reason::kTlsFailed);
  CHECK(lagging.received.find("SECRET") == std::string::npos);
  CHECK(std::string_view("first of all.bytes of A").starts_with(lagging.received));
  b.server.users[0]->stream->set_handler(b.server.users[0].get());
}

TEST_CASE("records before one that does not open are delivered") {
  Hostile peer;
  peer.hello();
  peer.write(frame(kHeaders, 4, 1, connect_block()));
  REQUIRE(peer.run([&] { return peer.server.users.size() == 1; }));
  peer.write_raw(peer.seal(frame(kData, 0, 1, "good")) + std::string("\x17\x03\x03\x00\x20", 5) + std::string(32, 'x'));
  REQUIRE(peer.run([&] { return peer.server.closed.has_value(); }));
  CHECK(peer.server.users[0]->received == "good");
}

TEST_CASE("what was received whole is delivered whole, though its tunnel is gone") {
  const bool both_ended = GENERATE(true, false);
  const std::string how = GENERATE(as<std::string>(), "close_notify", "cut", "GOAWAY", "destroyed");
  const std::string then = GENERATE(as<std::string>(), "resumed", "abandoned", "revoked");
  CAPTURE(both_ended, how, then);
  Hostile peer;
  peer.server.on_new = [](MemoryUser& user) { user.take_limit = 5; };
  peer.hello();
  peer.write(frame(kHeaders, 4, 1, connect_block()));
  REQUIRE(peer.run([&] { return peer.server.users.size() == 1; }));
  MemoryUser& slow = *peer.server.users[0];
  if (both_ended) slow.send("answer", true);
  const std::string sent = random_bytes(16'000) + random_bytes(16'000);
  peer.write(frame(kData, 0, 1, sent.substr(0, 16'000)) + frame(kData, 1, 1, sent.substr(16'000)));
  REQUIRE(peer.run([&] { return peer.io.budget.used() >= sent.size() - 5; }));
  REQUIRE(peer.run([&] { return !both_ended || peer.count(kData) >= 1; }));
  if (how == "close_notify") {
    std::array<uint8_t, kAlertRecord> record;
    REQUIRE(peer.tls.sealer.seal_close_notify(record));
    peer.write_raw({reinterpret_cast<char*>(record.data()), record.size()});
    peer.fd.reset();
  } else if (how == "cut") {
    peer.fd.reset();
  } else if (how == "GOAWAY") {
    peer.write(frame(kGoaway, 0, 0, std::string(8, '\0')));
    if (!both_ended) peer.fd.reset();
  }
  if (how == "destroyed") {
    peer.server.tunnel.reset();
  } else {
    REQUIRE(peer.loop.run_until([&] { return peer.server.closed.has_value(); }, 10s));
  }
  CHECK(peer.server.tunnel == nullptr);
  CHECK_FALSE(slow.closed);
  CHECK_FALSE(slow.ended);
  REQUIRE(slow.stream != nullptr);
  CHECK(peer.io.budget.used() >= sent.size() - 5);
  slow.stream->readable();  // harmless
  if (then == "abandoned") {
    std::exchange(slow.stream, nullptr)->abandon(H2Error::kCancel);
    CHECK_FALSE(slow.closed);
  } else if (then == "revoked") {
    peer.worker->memory.set(1000);
    peer.io.budget.relieve();
    CHECK(slow.closed == Reason::kResourceLimit);
  } else {
    slow.take_limit = 20'000;
    slow.stream->resume_delivery();
    CHECK(slow.received == sent.substr(0, 20'000));
    CHECK_FALSE(slow.ended);
    slow.take_limit = SIZE_MAX;
    slow.stream->resume_delivery();
    CHECK(slow.received == sent);
    CHECK(slow.ended);
    REQUIRE(slow.closed);
    CHECK((*slow.closed == Reason::kOk) == both_ended);
  }
  CHECK(peer.io.budget.used() == 0);
}

TEST_CASE("a stream that has ended in order does not count for its tunnel while its sink lags") {
  Pair pair;
  pair.server.on_new = [](MemoryUser& user) { user.take_limit = 0; };
  auto user = pair.open_answered();
  user->send("bytes", true);
  pair.server.users[0]->send("", true);
  REQUIRE(pair.run([&] { return user->closed.has_value() && pair.server.tunnel->streams() == 0; }));
  CHECK_FALSE(pair.server.users[0]->closed);
  pair.server.users[0]->take_limit = SIZE_MAX;
  pair.server.users[0]->stream->resume_delivery();
  CHECK(pair.server.users[0]->received == "bytes");
  CHECK(pair.server.users[0]->closed == Reason::kOk);
}

TEST_CASE("a stream that is abandoned while it is pulled harms no other") {
  struct Quitter final : StreamHandler {
    Stream* stream = nullptr;
    void on_response(Headers) noexcept override {}
    PullResult pull(std::span<const iovec> slots) noexcept override {
      std::memset(slots[0].iov_base, 'x', 10);
      stream->abandon(H2Error::kCancel);
      return {10, PullResult::State::kMore};
    }
    size_t on_data(std::span<const iovec>) noexcept override { return 0; }
    void on_end_stream() noexcept override {}
    void on_closed(Reason, H2Error) noexcept override {}
  } quitter;
  Pair pair;
  auto first = pair.open_answered(), second = pair.open_answered();
  quitter.stream = std::exchange(first->stream, nullptr);
  quitter.stream->set_handler(&quitter);
  quitter.stream->readable();
  second->send("on");
  REQUIRE(pair.run([&] { return pair.server.users[1]->received == "on" && pair.server.users[0]->closed; }));
  CHECK(pair.server.users[0]->received.empty());
  CHECK_FALSE(pair.client.closed);
}

TEST_CASE("a tunnel runs inside a stream of another tunnel") {
  Pair outer;
  TunnelConfig config;
  ServerEnd inner_server;
  ClientEnd inner_client;
  const auto start = [&](Tunnel::Role role, Stream& stream, TunnelOwner& owner) {
    auto transport = std::make_unique<StreamTransport>();
    transport->use(stream);
    auto tunnel = Tunnel::start(outer.io, outer.io.budget, role, std::move(transport), established(role == Tunnel::Role::kServer),
                                {}, config, owner);
    REQUIRE(tunnel);
    return std::move(*tunnel);
  };
  outer.server.on_new = [&](MemoryUser& user) {
    if (inner_server.tunnel == nullptr && !inner_server.closed)
      inner_server.tunnel = start(Tunnel::Role::kServer, *std::exchange(user.stream, nullptr), inner_server);
  };
  auto carrier = outer.open_answered();
  inner_client.tunnel = start(Tunnel::Role::kClient, *std::exchange(carrier->stream, nullptr), inner_client);

  MemoryUser user;
  auto stream = inner_client.tunnel->open(kConnect, user);
  REQUIRE(stream);
  user.stream = *stream;
  REQUIRE(outer.run([&] { return user.response.has_value(); }));
  CHECK(inner_server.requests.at(0) == kConnect);

  SECTION("bytes go both ways, whole and in order, and both ends in order") {
    const std::string there = random_bytes(5'000'000), back = random_bytes(3'000'000);
    user.send(there, true);
    inner_server.users[0]->send(back, true);
    REQUIRE(outer.run([&] { return user.ended && inner_server.users[0]->ended && user.closed; }));
    CHECK(inner_server.users[0]->received == there);
    CHECK(user.received == back);
    CHECK(user.closed == Reason::kOk);
    CHECK(outer.io.buffers.lent() == 0);
  }
  SECTION("a sink that lags holds up its own stream only, at both levels") {
    inner_server.users[0]->take_limit = 0;
    user.send(std::string(2'000'000, 'x'), true);
    auto beside = outer.open_answered();
    beside->send(std::string(2'000'000, 'y'), true);
    MemoryUser second;
    auto opened = inner_client.tunnel->open(kConnect, second);
    REQUIRE(opened);
    second.stream = *opened;
    REQUIRE(outer.run([&] { return second.response.has_value(); }));
    second.send(std::string(1'000'000, 'z'), true);
    REQUIRE(outer.run(
        [&] { return outer.server.users[1]->ended && inner_server.users.size() == 2 && inner_server.users[1]->ended; }));
    inner_server.users[0]->take_limit = SIZE_MAX;
    inner_server.users[0]->stream->resume_delivery();
    REQUIRE(outer.run([&] { return inner_server.users[0]->ended; }));
    CHECK(inner_server.users[0]->received == std::string(2'000'000, 'x'));
  }
  SECTION("the end of the outer tunnel is the inner one's") {
    outer.client.tunnel->close(Reason::kPeerLost);
    REQUIRE(outer.run([&] { return inner_client.closed && inner_server.closed && user.closed; }));
    CHECK(user.closed == Reason::kUpstreamReset);
  }
  SECTION("the end of the inner tunnel is that of its stream only") {
    inner_client.tunnel->close(Reason::kOk);
    REQUIRE(outer.run([&] { return inner_server.closed.has_value(); }));
    auto after = outer.open_answered();
    CHECK_FALSE(outer.client.closed);
  }
  // Before the outer tunnel, as whoever owns both must.
  user.stream = nullptr;
  inner_client.tunnel.reset();
  inner_server.tunnel.reset();
}
