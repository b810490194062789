#include "handover/unit.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/handover/units.h"

using namespace zt;
using namespace zt::handover;
using namespace zt::handover::testing;

namespace {
const std::vector<std::pair<std::string, Unit>>& samples() {
  static const std::vector<std::pair<std::string, Unit>> all{{"client_tunnel", some_tunnel(hbone::TunnelRole::kClient)},
                                                             {"server_tunnel", some_tunnel(hbone::TunnelRole::kServer)},
                                                             {"nested_tunnel", some_nested_tunnel()},
                                                             {"rest", some_rest()},
                                                             {"pair", some_pair()},
                                                             {"local_pair", some_local_pair()}};
  return all;
}
std::string text_of(const SecretBytes& bytes) { return {bytes.begin(), bytes.end()}; }
std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}
std::string why(const Result<Unit>& unit) { return unit ? "" : unit.error().text; }
}  // namespace

TEST_CASE("a unit is read as it was written, with everything that is in it") {
  for (const auto& [name, unit] : samples()) {
    CAPTURE(name);
    const std::string bytes = text_of(encode(unit));
    const auto read = decode(bytes_of(bytes), kHighestFormat);
    INFO(why(read));
    REQUIRE(read);
    CHECK(text_of(encode(*read)) == bytes);
    CHECK(descriptors(*read) == descriptors(unit));
  }
  // Not by writing alone: what is not written would not be missed.
  const auto read = decode(bytes_of(text_of(encode(samples()[0].second))), 1);
  const auto& tunnel = std::get<TunnelUnit>(*read);
  CHECK(tunnel.tunnel.sealer.sequence == 0x0102030405060708);
  CHECK(tunnel.tunnel.streams.at(0).window.withheld == 6);
  CHECK(tunnel.tunnel.cursor.data_left == 77);
  CHECK(tunnel.tunnel.goaway_left == std::chrono::milliseconds(800));
  CHECK(tunnel.key->expected.size() == 2);
  CHECK(tunnel.key->workload == "cluster//Pod/default/web");
  CHECK(tunnel.key->spread);
  CHECK(tunnel.users.at(0).relay.sink_stopped);
  CHECK(tunnel.users.at(0).connection.counted_client_to_server == 900'000'000'000);
  CHECK(tunnel.users.at(1).phase == StreamUser::Phase::kAsked);
  const auto nested = decode(bytes_of(text_of(encode(some_nested_tunnel()))), 1);
  const InnerTunnel& inner = std::get<TunnelUnit>(*nested).inner.at(0);
  CHECK(inner.key.authority == "web.default.svc.cluster.local:80");
  CHECK(inner.connect.size() == 2);
  CHECK(inner.queued.size() == 5);
  CHECK(inner.users.at(1).socks);
  CHECK(descriptors(*nested) == 1 + 1 + 2);
  const auto rest = decode(bytes_of(text_of(encode(some_rest()))), 1);
  CHECK(std::get<RestUnit>(*rest).rest.reason == Reason::kStreamReset);
  CHECK(std::get<RestUnit>(*rest).rest.kept.size() == 4);
}

// A release that cannot read these cuts every connection of an upgrade to it. ZT_WRITE_GOLDEN=1 writes those that are not there; none is ever changed.
TEST_CASE("units of format 1 are read for ever") {
  const std::filesystem::path folder = std::filesystem::path(ZT_GOLDEN_DIR) / "handover/format1";
  for (const auto& [name, unit] : samples()) {
    CAPTURE(name);
    const auto path = folder / (name + ".unit");
    if (std::getenv("ZT_WRITE_GOLDEN") != nullptr && !std::filesystem::exists(path)) {
      std::filesystem::create_directories(folder);
      std::ofstream(path, std::ios::binary) << text_of(encode(unit));
    }
    std::ifstream file(path, std::ios::binary);
    const std::string frozen{std::istreambuf_iterator<char>(file), {}};
    REQUIRE_FALSE(frozen.empty());
    const auto read = decode(bytes_of(frozen), 1);
    INFO(why(read));
    REQUIRE(read);
    CHECK(text_of(encode(*read)) == frozen);
    CHECK(text_of(encode(unit)) == frozen);
  }
}

TEST_CASE("a unit that is cut short or goes on behind its end is refused") {
  for (const auto& [name, unit] : samples()) {
    const std::string bytes = text_of(encode(unit));
    for (size_t size = 0; size < bytes.size(); ++size) {
      if (decode(bytes_of(bytes.substr(0, size)), 1)) FAIL("read though cut at " << size);
    }
    CHECK_FALSE(decode(bytes_of(bytes + "x"), 1));
  }
}

TEST_CASE("whatever byte of a unit is changed, it is read or refused, and no more is taken than it may have") {
  for (const auto& [name, unit] : samples()) {
    const std::string bytes = text_of(encode(unit));
    for (size_t place = 0; place < bytes.size(); ++place) {
      for (const int change : {1, 0x80, 0xff}) {
        std::string changed = bytes;
        changed[place] = static_cast<char>(changed[place] ^ change);
        (void)decode(bytes_of(changed), 1);
      }
    }
  }
}

TEST_CASE("a struct with more fields than are known is refused, and so is a format that is not known") {
  std::string bytes = text_of(encode(some_pair()));
  bytes += "x";
  bytes[1] = static_cast<char>(bytes[1] + 1);  // its length says that the byte belongs to it
  CHECK_THAT(why(decode(bytes_of(bytes), 1)), Catch::Contains("bytes behind a struct's end"));
  CHECK_THAT(why(decode(bytes_of(bytes), 2)), Catch::Contains("format 2"));
  CHECK_THAT(why(decode(bytes_of(bytes), 0)), Catch::Contains("format 0"));
  CHECK_THAT(why(decode(bytes_of("\x07"), 1)), Catch::Contains("kind 7"));
}

TEST_CASE("a unit whose parts contradict each other is refused by name") {
  const auto refused = [](const Unit& unit) { return why(decode(bytes_of(text_of(encode(unit))), 1)); };
  TunnelUnit tunnel = some_tunnel(hbone::TunnelRole::kServer);
  SECTION("users") {
    tunnel.users.pop_back();
    CHECK_THAT(refused(tunnel), Catch::Contains("streams without users"));
  }
  SECTION("order") {
    std::swap(tunnel.tunnel.streams[0], tunnel.tunnel.streams[1]);
    std::swap(tunnel.users[0], tunnel.users[1]);
    CHECK_THAT(refused(tunnel), Catch::Contains("not in order"));
  }
  SECTION("another stream") {
    tunnel.users[0].stream = 9;
    CHECK_THAT(refused(tunnel), Catch::Contains("another stream"));
  }
  SECTION("a request without headers") {
    tunnel.tunnel.streams[1].request.clear();
    CHECK_THAT(refused(tunnel), Catch::Contains("without headers"));
  }
  SECTION("an answer to a server") {
    tunnel.users[1].phase = StreamUser::Phase::kAsked;
    CHECK_THAT(refused(tunnel), Catch::Contains("waits for no answer"));
  }
  SECTION("a key") {
    tunnel.tunnel.role = hbone::TunnelRole::kClient;
    CHECK_THAT(refused(tunnel), Catch::Contains("key"));
  }
  SECTION("a tunnel that is not there") {
    TunnelUnit outer = some_nested_tunnel();
    outer.inner.clear();
    CHECK_THAT(refused(outer), Catch::Contains("streams of tunnels without these"));
  }
  SECTION("a tunnel in a server's") {
    tunnel.users[0] = {.stream = 1, .phase = StreamUser::Phase::kTunnel, .relay = {}, .connection = {}};
    CHECK_THAT(refused(tunnel), Catch::Contains("a tunnel inside a server's"));
  }
  SECTION("a server's tunnel in a client's") {
    TunnelUnit outer = some_nested_tunnel();
    outer.inner[0].tunnel.role = hbone::TunnelRole::kServer;
    CHECK_THAT(refused(outer), Catch::Contains("a server's tunnel inside another"));
  }
  SECTION("a third level") {
    TunnelUnit outer = some_nested_tunnel();
    outer.inner[0].users[0] = outer.users[0];
    CHECK_THAT(refused(outer), Catch::Contains("inside one that is inside another"));
  }
  SECTION("users of an inner tunnel") {
    TunnelUnit outer = some_nested_tunnel();
    outer.inner[0].users.pop_back();
    CHECK_THAT(refused(outer), Catch::Contains("streams without users"));
  }
  SECTION("nothing left") {
    RestUnit rest = some_rest();
    rest.rest.kept.clear();
    CHECK_THAT(refused(rest), Catch::Contains("without bytes"));
  }
  SECTION("an end before its bytes") {
    RestUnit rest = some_rest();
    rest.relay.sink_ended = true;
    CHECK_THAT(refused(rest), Catch::Contains("an end before the last byte"));
  }
  SECTION("two servers") {
    PairUnit pair = some_local_pair();
    pair.connection.inbound = true;
    CHECK_THAT(refused(pair), Catch::Contains("two servers"));
  }
  SECTION("a pipe") {
    PairUnit pair = some_pair();
    pair.flows[0].pipe = false;
    CHECK_THAT(refused(pair), Catch::Contains("pipe that is not there"));
  }
}
