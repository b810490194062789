#include "base/address.h"

#include <arpa/inet.h>

#include <catch2/catch.hpp>
#include <unordered_set>

using namespace zt;

TEST_CASE("every byte of an IPv4 address is written as the C library writes it") {
  for (unsigned byte = 0; byte < 256; ++byte) {
    const in_addr raw{.s_addr = htonl(byte << 24 | (255 - byte) << 16 | (byte ^ 0x5a) << 8 | (byte * 7 & 0xff))};
    char text[INET_ADDRSTRLEN];
    REQUIRE(inet_ntop(AF_INET, &raw, text, sizeof text) != nullptr);
    CHECK(IpAddress::v4(ntohl(raw.s_addr)).to_string() == text);
  }
}

TEST_CASE("addresses parse and print in canonical form") {
  using Row = std::tuple<const char*, const char*>;
  const auto [text, canonical] = GENERATE(table<const char*, const char*>({
      Row{"10.240.1.11", "10.240.1.11"},
      Row{"0.0.0.0", "0.0.0.0"},
      Row{"fd00:240:1::11", "fd00:240:1::11"},
      Row{"FD00:0240:0001:0:0:0:0:0011", "fd00:240:1::11"},
      Row{"::", "::"},
      Row{"::ffff:10.1.2.3", "10.1.2.3"},
  }));
  const auto address = IpAddress::parse(text);
  INFO(text);
  REQUIRE(address);
  CHECK(address->to_string() == canonical);
  CHECK(IpAddress::parse(canonical) == address);
}

TEST_CASE("text that is no address is refused") {
  const auto text =
      GENERATE("", "10.1.2", "10.1.2.256", "10.1.2.3 ", "10.1.2.3:80", "[::1]", "fd00::1::2", "localhost", "fe80::1%eth0");
  INFO(text);
  CHECK_FALSE(IpAddress::parse(text));
  CHECK_FALSE(IpAddress::parse(std::string_view("1.2.3.4\0x", 9)));
}

TEST_CASE("a mapped IPv4 address is the IPv4 address, wherever it comes from") {
  const auto v4 = IpAddress::v4(0x0a010203);
  CHECK(v4.to_string() == "10.1.2.3");
  const std::array<uint8_t, 16> mapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3};
  CHECK(IpAddress::v6(mapped) == v4);
  CHECK(IpAddress::from_bytes(std::span<const uint8_t>(mapped)) == v4);
  sockaddr_storage storage{};
  const SocketAddress address{v4, 8080};
  CHECK(address.to_sockaddr(storage, true) == sizeof(sockaddr_in6));
  CHECK(storage.ss_family == AF_INET6);
  CHECK(SocketAddress::from_sockaddr(storage) == address);
  CHECK(std::hash<IpAddress>{}(IpAddress::v6(mapped)) == std::hash<IpAddress>{}(v4));
}

TEST_CASE("only 4 or 16 bytes make an address") {
  const std::array<uint8_t, 17> bytes{};
  for (size_t length = 0; length <= bytes.size(); ++length) {
    CHECK(IpAddress::from_bytes(std::span(bytes).first(length)).has_value() == (length == 4 || length == 16));
  }
}

TEST_CASE("loopback and unspecified addresses are recognised in both families") {
  for (const char* text : {"127.0.0.1", "127.255.0.9", "::1"}) CHECK(IpAddress::parse(text)->is_loopback());
  for (const char* text : {"126.255.255.255", "128.0.0.1", "::2", "10.0.0.1"}) CHECK_FALSE(IpAddress::parse(text)->is_loopback());
  for (const char* text : {"0.0.0.0", "::"}) CHECK(IpAddress::parse(text)->is_unspecified());
  CHECK_FALSE(IpAddress::parse("0.0.0.1")->is_unspecified());
}

TEST_CASE("socket addresses parse, print and survive the kernel's form") {
  for (const char* text : {"1.2.3.4:80", "[2001:db8::1]:65535", "[::]:0"}) {
    INFO(text);
    const auto address = SocketAddress::parse(text);
    REQUIRE(address);
    CHECK(address->to_string() == text);
    sockaddr_storage storage{};
    address->to_sockaddr(storage);
    CHECK(SocketAddress::from_sockaddr(storage) == *address);
  }
}

TEST_CASE("text that is no socket address is refused") {
  const auto text = GENERATE("", ":80", "1.2.3.4", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:-1", "1.2.3.4:80x", "2001:db8::1:80",
                             "[::1]80", "[::1", "[1.2.3.4:80", "host:80", "1.2.3.4: 80", "1.2.3.4:+80");
  INFO(text);
  CHECK_FALSE(SocketAddress::parse(text));
}

TEST_CASE("blocks contain addresses of their family only") {
  using Row = std::tuple<const char*, const char*, bool>;
  const auto [block, address, contained] = GENERATE(table<const char*, const char*, bool>({
      Row{"10.240.0.0/16", "10.240.255.255", true},
      Row{"10.240.0.0/16", "10.241.0.0", false},
      Row{"10.240.0.0/13", "10.247.1.1", true},
      Row{"10.240.0.0/13", "10.248.0.0", false},
      Row{"0.0.0.0/0", "255.1.2.3", true},
      Row{"0.0.0.0/0", "::1", false},
      Row{"::/0", "fd00::1", true},
      Row{"::/0", "10.0.0.1", false},
      Row{"fd00:240::/31", "fd00:241::1", true},
      Row{"fd00:240::/32", "fd00:241::1", false},
      Row{"192.0.2.9/32", "192.0.2.9", true},
      Row{"192.0.2.9", "192.0.2.8", false},
  }));
  INFO(block << " and " << address);
  const auto cidr = Cidr::parse(block);
  REQUIRE(cidr);
  CHECK(cidr->contains(*IpAddress::parse(address)) == contained);
}

TEST_CASE("bad prefix lengths are refused") {
  const auto text = GENERATE("10.0.0.0/33", "fd00::/129", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/8x", "/8", "10.0.0/8");
  INFO(text);
  CHECK_FALSE(Cidr::parse(text));
  CHECK_FALSE(Cidr::make(IpAddress::v4(0), 33));
  CHECK(Cidr::make(*IpAddress::parse("::"), 128));
}

TEST_CASE("blocks print as base and length") {
  CHECK(Cidr::parse("10.240.0.0/16")->to_string() == "10.240.0.0/16");
  CHECK(Cidr::parse("192.0.2.9")->to_string() == "192.0.2.9/32");
  CHECK(Cidr::parse("2001:db8:99::/48")->to_string() == "2001:db8:99::/48");
}

TEST_CASE("hashes of different addresses spread") {
  std::unordered_set<size_t> hashes;
  for (uint32_t i = 0; i < 1000; ++i) hashes.insert(std::hash<SocketAddress>{}({IpAddress::v4(0x0a000000 + i), 80}));
  CHECK(hashes.size() > 990);
}
