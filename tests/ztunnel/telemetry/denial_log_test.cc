#include "ztunnel/telemetry/denial_log.h"

#include <catch2/catch.hpp>
#include <string>

#include "tests/support/logged.h"

using namespace zt;
using namespace zt::ztunnel;
using namespace std::chrono_literals;
using testing::logged;

namespace {

SocketAddress address(const std::string& ip, uint16_t port) { return {*IpAddress::parse(ip), port}; }

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++found;
  return found;
}

const DenialLog::Clock::time_point kStart = DenialLog::Clock::now();

}  // namespace

TEST_CASE("a peer that is refused thousands of times a second makes a few lines, and the rest is one") {
  DenialLog denials({.lines = 100, .lines_per_source = 10, .sources = 64});
  const auto text = logged(log::Format::kPlain, [&] {
    for (int i = 0; i < 5000; ++i)
      denials.write(kStart + i * 100us, address("10.0.0.1", static_cast<uint16_t>(1000 + i)), address("10.0.0.2", 15008),
                    "inbound", "tls handshake error");
    denials.write(kStart + 600ms, address("10.0.0.3", 7), address("10.0.0.2", 15008), "inbound", "another peer is still told of");
    denials.flush(kStart + 1100ms);
    denials.flush(kStart + 2200ms);
  });
  CHECK(count(text, "connection failed") == 11);
  CHECK(count(text, "src.addr=10.0.0.3:7") == 1);
  CHECK(count(text, "\twarn\taccess\tconnections failed\tsrc.addr=10.0.0.1 count=4990\n") == 1);
  CHECK(count(text, "connections failed") == 1);
}

TEST_CASE("many peers that are refused make no more lines than the limit, and all that was left out is counted") {
  DenialLog denials({.lines = 20, .lines_per_source = 10, .sources = 5});
  const auto text = logged(log::Format::kPlain, [&] {
    for (int round = 0; round < 10; ++round) {
      for (int peer = 1; peer <= 8; ++peer)
        denials.write(kStart, address("10.0.0." + std::to_string(peer), 1), address("10.0.1.1", 2), "outbound", "refused");
    }
    denials.flush(kStart + 1s);
  });
  CHECK(count(text, "connection failed") == 20);
  CHECK(count(text, "connections failed") == 6);
  CHECK(count(text, "src.addr=others count=30\n") == 1);
  CHECK(count(text, "src.addr=10.0.0.1 count=6\n") == 1);
}

TEST_CASE("after a second a peer's refusals have lines again, preceded by what was left out") {
  DenialLog denials({.lines = 100, .lines_per_source = 1, .sources = 64});
  const auto text = logged(log::Format::kPlain, [&] {
    for (const auto when : {0ms, 1ms, 2ms, 1500ms})
      denials.write(kStart + when, address("10.0.0.1", static_cast<uint16_t>(1000 + when.count())), address("10.0.0.2", 1),
                    "inbound", "refused");
  });
  const auto left_out = text.find("src.addr=10.0.0.1 count=2");
  REQUIRE(left_out != std::string::npos);
  CHECK(text.find("src.addr=10.0.0.1:2500") > left_out);
  CHECK(text.find("src.addr=10.0.0.1:2500") != std::string::npos);
}
