#include "ztunnel/dns/sockets.h"

#include <catch2/catch.hpp>
#include <string>

#include "base/address.h"

namespace zt::ztunnel::dns::test {
namespace {

// Where UDP is served for `address`; TCP is served there too.
std::string addresses_of(const ListenAddress& address, bool ipv6 = true) {
  auto listeners = bind_listeners({}, address, ipv6);
  if (!listeners) return listeners.error().text;
  std::string all;
  REQUIRE(listeners->udp.size() == listeners->tcp.size());
  for (size_t i = 0; i < listeners->udp.size(); ++i) {
    const auto bound = local_address(listeners->udp[i].get());
    CHECK(local_address(listeners->tcp[i].get()).ip == bound.ip);
    all += bound.ip.to_string() + " ";
  }
  return all;
}

TEST_CASE("Queries are taken on loopback, however the address is written") {
  // Port 0: the kernel chooses, and tests do not disturb each other.
  CHECK(addresses_of(LocalhostPort{0}) == "127.0.0.1 ::1 ");
  CHECK(addresses_of(LocalhostPort{0}, false) == "127.0.0.1 ");
  CHECK(addresses_of(*SocketAddress::parse("127.0.0.7:0")) == "127.0.0.7 ");
  CHECK(addresses_of(*SocketAddress::parse("[::1]:0")) == "::1 ");
  // An unspecified one would make the pod a name server for everybody, and the kernel would send answers from another address.
  CHECK(addresses_of(*SocketAddress::parse("0.0.0.0:0")) == "127.0.0.1 ");
  CHECK(addresses_of(*SocketAddress::parse("[::]:0")) == "127.0.0.1 ::1 ");
  CHECK(addresses_of(*SocketAddress::parse("[::]:0"), false) == "127.0.0.1 ");
}

TEST_CASE("A DNS address that is taken, or is not the pod's, is named") {
  auto first = bind_listeners({}, *SocketAddress::parse("127.0.0.1:0"), false);
  REQUIRE(first);
  const SocketAddress taken{*IpAddress::parse("127.0.0.1"), local_address(first->udp[0].get()).port};
  CHECK_THAT(addresses_of(taken),
             Catch::Contains("failed to bind to address " + taken.to_string()) && Catch::Contains("another process"));
  CHECK_THAT(addresses_of(*SocketAddress::parse("192.0.2.1:53")), Catch::Contains("failed to bind to address 192.0.2.1:53"));
}

}  // namespace
}  // namespace zt::ztunnel::dns::test
