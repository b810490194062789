#include "base/host_port.h"

#include <catch2/catch.hpp>
#include <string>

using namespace zt;

TEST_CASE("a host and its port are taken apart") {
  using Row = std::tuple<const char*, const char*, int, bool>;
  const auto [text, host, port, bracketed] = GENERATE(table<const char*, const char*, int, bool>({
      Row{"10.0.0.1:80", "10.0.0.1", 80, false},
      Row{"istiod.istio-system.svc:15012", "istiod.istio-system.svc", 15012, false},
      Row{"[2001:db8::1]:443", "2001:db8::1", 443, true},
      Row{"a:0", "a", 0, false},
      Row{"a:65535", "a", 65535, false},
  }));
  INFO(text);
  const auto parts = split_host_port(text);
  REQUIRE(parts);
  CHECK(parts->host == host);
  CHECK(parts->port == port);
  CHECK(parts->bracketed == bracketed);
}

TEST_CASE("what lacks a host or a port is not taken apart") {
  const auto text = GENERATE("", ":", "host", "host:", ":80", "[]:80", "host:80x", "host: 80", "host:+80", "host:-1",
                             "host:65536", "::1:80", "2001:db8::1", "[host]:80", "[2001:db8::1]", "[2001:db8::1:80", "a:b:80");
  INFO(text);
  CHECK(!split_host_port(text));
}
