#include "ztunnel/proxy/handshake_admission.h"

#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "mesh/reason.h"
#include "tests/hbone/tunnel_pair.h"

using namespace zt;
using namespace zt::ztunnel;
using namespace std::chrono_literals;
using zt::hbone::testing::tcp_pair;

namespace {

// Two pods on one worker.
struct Door {
  EventLoop loop;
  HandshakeLimits limits{.per_source = 4, .per_pod = 6, .all = 8, .timeout = 10s};
  CounterFamily hits{{"zt_limit_reached", "", "", {"limit"}}};
  HandshakeAdmission admission{loop, limits, hits};
  std::shared_ptr<std::atomic<size_t>> all = std::make_shared<std::atomic<size_t>>(0);
  struct Ended {
    SocketAddress client;
    Reason reason;
  };
  std::vector<Ended> failed;
  std::vector<SocketAddress> ready;
  std::vector<HandshakeCounts::Ticket> running;
  std::vector<UniqueFd> taken;
  std::shared_ptr<HandshakeCounts> counts_a = std::make_shared<HandshakeCounts>(all),
                                   counts_b = std::make_shared<HandshakeCounts>(all);
  PodHandshakes a = pod(counts_a), b = pod(counts_b);

  PodHandshakes pod(const std::shared_ptr<HandshakeCounts>& counts) {
    return {admission, counts,
            [this](UniqueFd fd, SocketAddress client, HandshakeCounts::Ticket ticket) {
              ready.push_back(client);
              running.push_back(std::move(ticket));
              taken.push_back(std::move(fd));
            },
            [this](int, SocketAddress client, const Error& why) { failed.push_back({client, why.reason}); }};
  }
  // The client's end.
  UniqueFd connect(PodHandshakes& to, int source, uint16_t port = 1) {
    auto [client, server] = tcp_pair();
    to.admit(std::move(server), {IpAddress::v4(0x0a000000u + static_cast<uint32_t>(source)), port});
    return std::move(client);
  }
  bool run(const std::function<bool()>& until) { return loop.run_until(until, 10s); }
  uint64_t hit(const char* limit) { return hits.get({limit}).value(); }
};

// A record of the handshake type with `size` bytes.
std::string hello(size_t size = 300) {
  std::string record = "\x16\x03\x01";
  record += static_cast<char>(size >> 8);
  record += static_cast<char>(size & 0xff);
  return record + std::string(size, 'x');
}

void say(const UniqueFd& fd, std::string_view bytes) {
  REQUIRE(::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size()));
}

bool reset(const UniqueFd& fd) {
  char byte;
  return ::recv(fd.get(), &byte, 1, MSG_DONTWAIT) <= 0 && errno == ECONNRESET;
}

}  // namespace

TEST_CASE("a connection waits at the door until the first record of its hello is complete") {
  Door door;
  auto silent = door.connect(door.a, 1), slow = door.connect(door.a, 1), whole = door.connect(door.a, 2);
  say(whole, hello());
  say(slow, hello().substr(0, 4));
  REQUIRE(door.run([&] { return door.ready.size() == 1; }));
  CHECK(door.ready[0].ip == IpAddress::v4(0x0a000002));
  say(slow, hello().substr(4, 200));
  for (int i = 0; i < 3; ++i) door.loop.run_once(10ms);
  CHECK(door.ready.size() == 1);
  say(slow, hello().substr(204));
  REQUIRE(door.run([&] { return door.ready.size() == 2; }));
  // All of it is still there to be read, by whoever does the handshake.
  char bytes[400];
  CHECK(::recv(door.taken[1].get(), bytes, sizeof bytes, 0) == static_cast<ssize_t>(hello().size()));
  CHECK(door.admission.waiting() == 1);
  CHECK(door.failed.empty());
  CHECK(*door.all == 3);
  door.running.clear();
  CHECK(*door.all == 1);
}

TEST_CASE("what is no handshake at all waits for no more bytes") {
  Door door;
  auto http = door.connect(door.a, 1), empty = door.connect(door.a, 1), huge = door.connect(door.a, 1);
  say(http, "G");
  say(empty, std::string_view("\x16\x03\x01\0\0", 5));
  say(huge, "\x16\x03\x01\xff\xff");
  REQUIRE(door.run([&] { return door.ready.size() == 3; }));
}

TEST_CASE("who says that it has nothing to ask is let go without a word") {
  Door door;
  auto whole = door.connect(door.a, 1), half = door.connect(door.a, 1), other = door.connect(door.a, 2);
  const std::string_view nothing(reinterpret_cast<const char*>(kNothingToAsk.data()), kNothingToAsk.size());
  say(whole, nothing);
  whole.reset();
  say(half, nothing.substr(0, 3));
  REQUIRE(door.run([&] { return door.a.waiting() == 2; }));
  CHECK(door.failed.empty());
  CHECK(door.ready.empty());
  CHECK(door.counts_a->in_flight() == 2);
  half.reset();
  std::string fatal(nothing);
  fatal[5] = 2;
  say(other, fatal);  // any other alert is none of a client's that begins
  REQUIRE(door.run([&] { return door.a.waiting() == 0; }));
  CHECK(door.failed.size() == 1);
  CHECK(door.ready.size() == 1);
}

TEST_CASE("who leaves before its hello is forgotten at once") {
  Door door;
  auto leaves = door.connect(door.a, 1), half = door.connect(door.a, 1);
  say(half, "\x16\x03");
  ::shutdown(half.get(), SHUT_WR);
  leaves.reset();
  REQUIRE(door.run([&] { return door.failed.size() == 2; }));
  CHECK(door.failed[0].reason == Reason::kTlsFailed);
  CHECK(*door.all == 0);
  CHECK(door.admission.waiting() == 0);
}

TEST_CASE("who is silent for too long is ended") {
  Door door;
  door.limits.timeout = 20ms;
  auto first = door.connect(door.a, 1);
  for (int i = 0; i < 3; ++i) door.loop.run_once(5ms);
  auto second = door.connect(door.b, 1);
  REQUIRE(door.run([&] { return door.failed.size() == 2; }));
  for (const auto& each : door.failed) CHECK(each.reason == Reason::kTlsTimeout);
  CHECK(*door.all == 0);
}

TEST_CASE("of too many silent ones of a source its oldest goes and others stay") {
  Door door;
  std::vector<UniqueFd> clients;
  clients.push_back(door.connect(door.a, 9));
  for (uint16_t i = 0; i < 5; ++i) clients.push_back(door.connect(door.a, 1, i));
  REQUIRE(door.failed.size() == 1);
  CHECK(door.failed[0].reason == Reason::kHandshakeLimit);
  CHECK(door.failed[0].client.port == 0);
  CHECK(door.failed[0].client.ip == IpAddress::v4(0x0a000001));
  CHECK(door.hit("handshakes_per_source") == 1);
  CHECK(door.counts_a->in_flight() == 5);
}

TEST_CASE("of too many silent ones of a pod the oldest goes, and the other pod does not notice") {
  Door door;
  std::vector<UniqueFd> clients;
  clients.push_back(door.connect(door.b, 1));
  for (int source = 1; source <= 7; ++source) clients.push_back(door.connect(door.a, source));
  REQUIRE(door.failed.size() == 1);
  CHECK(door.failed[0].client.ip == IpAddress::v4(0x0a000001));
  CHECK(door.hit("handshakes_per_pod") == 1);
  CHECK(door.counts_b->in_flight() == 1);
  CHECK(door.counts_a->in_flight() == 6);
}

TEST_CASE("of too many silent ones in all the oldest goes, whoever's it is") {
  Door door;
  std::vector<UniqueFd> clients;
  for (int source = 1; source <= 4; ++source) clients.push_back(door.connect(door.b, source));
  for (int source = 1; source <= 5; ++source) clients.push_back(door.connect(door.a, source));
  REQUIRE(door.failed.size() == 1);
  CHECK(door.counts_b->in_flight() == 3);
  CHECK(door.hit("handshakes") == 1);
  CHECK(*door.all == 8);
}

TEST_CASE("when those in flight are past their hello, the new one is refused and counted") {
  Door door;
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 4; ++i) {
    clients.push_back(door.connect(door.a, 1));
    say(clients.back(), hello());
  }
  REQUIRE(door.run([&] { return door.ready.size() == 4; }));
  auto late = door.connect(door.a, 1, 77);
  REQUIRE(door.failed.size() == 1);
  CHECK(door.failed[0].client.port == 77);
  CHECK(reset(late));
  door.running.pop_back();  // one of them has ended
  auto next = door.connect(door.a, 1, 78);
  CHECK(door.failed.size() == 1);
}

TEST_CASE("who abuses one tunnel after the other is let in once a second, and others do not notice") {
  Door door;
  const IpAddress abuser = IpAddress::v4(0x0a000001);
  const auto now = Clock::now();
  for (int i = 0; i < 4; ++i) door.counts_a->note_abuse(abuser, now);
  auto forgiven = door.connect(door.a, 1);
  CHECK(door.failed.empty());
  door.counts_a->note_abuse(abuser, now);
  auto refused = door.connect(door.a, 1, 77);
  REQUIRE(door.failed.size() == 1);
  CHECK(door.failed[0].client.port == 77);
  CHECK(door.failed[0].reason == Reason::kHandshakeLimit);
  CHECK(reset(refused));
  CHECK(door.hit("handshakes_after_abuse") == 1);
  CHECK(door.counts_a->in_flight() == 1);
  auto other = door.connect(door.a, 2), other_pod = door.connect(door.b, 1);
  CHECK(door.failed.size() == 1);
  // Five that began two seconds ago are forgiven again.
  for (int i = 0; i < 5; ++i) door.counts_b->note_abuse(abuser, now - 2s);
  auto paid = door.connect(door.b, 1);
  CHECK(door.failed.size() == 1);
}

TEST_CASE("of ever more abusers only so many are remembered") {
  Door door;
  const auto abuse = [&](uint32_t source, Clock::time_point when) {
    for (int i = 0; i < 5; ++i) door.counts_a->note_abuse(IpAddress::v4(0x0a000000u + source), when);
  };
  const auto now = Clock::now();
  for (uint32_t i = 1; i <= 1024; ++i) abuse(i, now);
  abuse(2000, now);
  auto unknown = door.connect(door.a, 2000);
  CHECK(door.failed.empty());
  abuse(2001, now + 10s);  // what is paid by then makes room
  auto known = door.connect(door.a, 2001);
  CHECK(door.failed.size() == 1);
}

TEST_CASE("a newcomer at a crowded door says which limit is reached, its own or everybody's") {
  Door door;
  std::vector<UniqueFd> clients;
  const auto admit = [&](PodHandshakes& pod, uint32_t source) {
    auto [client, server] = tcp_pair();
    clients.push_back(std::move(client));
    return pod.admit(std::move(server), {IpAddress::v4(0x0a000000u + source), 1});
  };
  for (int i = 0; i < 4; ++i) CHECK(admit(door.a, 1) == HandshakeLimit::kNone);
  CHECK(admit(door.a, 1) == HandshakeLimit::kPerSource);
  for (uint32_t i = 0; i < 2; ++i) CHECK(admit(door.a, 2 + i) == HandshakeLimit::kNone);
  CHECK(admit(door.a, 4) == HandshakeLimit::kPerPod);
  for (uint32_t i = 0; i < 2; ++i) CHECK(admit(door.b, 1 + i) == HandshakeLimit::kNone);
  CHECK(admit(door.b, 4) == HandshakeLimit::kAll);
  for (int i = 0; i < 5; ++i) door.counts_b->note_abuse(IpAddress::v4(0x0a000009), Clock::now());
  CHECK(admit(door.b, 9) == HandshakeLimit::kAfterAbuse);
}

TEST_CASE("those at the door go with their pod") {
  Door door;
  std::vector<UniqueFd> clients;
  {
    PodHandshakes gone = door.pod(door.counts_a);
    clients.push_back(door.connect(gone, 1));
    clients.push_back(door.connect(gone, 2));
    CHECK(*door.all == 2);
  }
  CHECK(*door.all == 0);
  CHECK(door.failed.empty());
  door.loop.run_once(0ms);
}
