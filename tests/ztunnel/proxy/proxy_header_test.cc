#include "ztunnel/proxy/proxy_header.h"

#include <catch2/catch.hpp>

using namespace zt;
using namespace zt::ztunnel;
using namespace std::string_literals;

namespace {
SocketAddress at(const char* text) { return *SocketAddress::parse(text); }
const std::string kSignature = "\r\n\r\n\0\r\nQUIT\n"s;
}  // namespace

TEST_CASE("A PROXY header tells both addresses and who the client proved to be") {
  CHECK(render_proxy_header(at("10.0.0.1:258"), at("10.1.0.2:80"), "", "") ==
        kSignature + "\x21\x11\x00\x0c"s + "\x0a\x00\x00\x01\x0a\x01\x00\x02\x01\x02\x00\x50"s);
  CHECK(render_proxy_header(at("10.0.0.1:258"), at("10.1.0.2:80"), "spiffe://a/ns/b/sa/c", "") ==
        kSignature + "\x21\x11\x00\x23"s + "\x0a\x00\x00\x01\x0a\x01\x00\x02\x01\x02\x00\x50"s + "\xd0\x00\x14"s +
            "spiffe://a/ns/b/sa/c");
  const std::string v6 = render_proxy_header(at("[2001:db8::1]:1"), at("[2001:db8::2]:2"), "", "");
  CHECK(v6.size() == 16 + 36);
  CHECK(v6.substr(12, 4) == "\x21\x21\x00\x24"s);
  CHECK(v6.substr(16 + 15, 1) == "\x01");
  CHECK(v6.substr(16 + 32) == "\x00\x01\x00\x02"s);
}

TEST_CASE("A PROXY header names the service that was asked for") {
  CHECK(render_proxy_header(at("10.0.0.1:258"), at("10.1.0.2:80"), "spiffe://a/ns/b/sa/c", "web.shop.svc") ==
        kSignature + "\x21\x11\x00\x32"s + "\x0a\x00\x00\x01\x0a\x01\x00\x02\x01\x02\x00\x50"s + "\xd0\x00\x14"s +
            "spiffe://a/ns/b/sa/c" + "\xd1\x00\x0c"s + "web.shop.svc");
}

TEST_CASE("A PROXY header of two families loses neither address") {
  const std::string mapped = "\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\1"s;
  const std::string v6 = "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\2"s;
  CHECK(render_proxy_header(at("10.0.0.1:1"), at("[2001:db8::2]:2"), "", "") ==
        kSignature + "\x21\x21\x00\x24"s + mapped + v6 + "\0\1\0\2"s);
  CHECK(render_proxy_header(at("[2001:db8::2]:2"), at("10.0.0.1:1"), "", "") ==
        kSignature + "\x21\x21\x00\x24"s + v6 + mapped + "\0\2\0\1"s);
}

TEST_CASE("A PROXY header leaves out names that are too long") {
  CHECK(render_proxy_header(at("10.0.0.1:1"), at("10.0.0.2:2"), std::string(8001, 'x'), std::string(8001, 'y')).size() ==
        16 + 12);
}
