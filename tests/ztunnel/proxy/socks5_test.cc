#include "ztunnel/proxy/socks5.h"

#include <catch2/catch.hpp>
#include <cerrno>
#include <string>
#include <vector>

#include "mesh/reason.h"

using namespace zt;
using namespace zt::ztunnel::socks5;
using namespace std::string_literals;

namespace {

struct Talk {
  Conversation conversation;
  std::string output;
  size_t taken = 0;
};

// Feeds what is asked for, as long as there is some.
Talk talk(const std::string& bytes) {
  Talk talk;
  auto& [conversation, output, taken] = talk;
  while (conversation.wanted() > 0 && taken + conversation.wanted() <= bytes.size()) {
    const size_t n = conversation.wanted();
    conversation.take({reinterpret_cast<const uint8_t*>(bytes.data()) + taken, n});
    output += conversation.output();
    taken += n;
  }
  return talk;
}

const std::string kHello = "\x05\x01\x00"s;
const std::string kChosen = "\x05\x00"s;

std::string answer(char code) { return "\x05"s + code + "\x00\x01\x00\x00\x00\x00\x00\x00"s; }

std::string by_name(const std::string& name, const std::string& port = "\x00\x50"s) {
  return kHello + "\x05\x01\x00\x03"s + static_cast<char>(name.size()) + name + port;
}

}  // namespace

TEST_CASE("a SOCKS5 client may name an IPv4 address, an IPv6 address, or a host") {
  const auto v4 = talk(kHello + "\x05\x01\x00\x01\x0a\x00\x00\x07\x1f\x90"s);
  REQUIRE(v4.conversation.request());
  CHECK(v4.output == kChosen);
  CHECK(std::get<IpAddress>(v4.conversation.request()->host).to_string() == "10.0.0.7");
  CHECK(v4.conversation.request()->port == 8080);

  const auto v6 = talk(kHello + "\x05\x01\x00\x04\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07\x01\xbb"s);
  REQUIRE(v6.conversation.request());
  CHECK(std::get<IpAddress>(v6.conversation.request()->host).to_string() == "fd00::7");
  CHECK(v6.conversation.request()->port == 443);

  const auto mapped = talk(kHello + "\x05\x01\x00\x04"s + std::string(10, '\0') + "\xff\xff\x0a\x00\x00\x07\x00\x50"s);
  REQUIRE(mapped.conversation.request());
  CHECK(std::get<IpAddress>(mapped.conversation.request()->host).to_string() == "10.0.0.7");

  const auto name = talk(by_name("Web.Shop."));
  REQUIRE(name.conversation.request());
  CHECK(std::get<std::string>(name.conversation.request()->host) == "web.shop");

  const auto literal = talk(by_name("10.0.0.7"));
  REQUIRE(literal.conversation.request());
  CHECK(std::get<IpAddress>(literal.conversation.request()->host).to_string() == "10.0.0.7");
}

TEST_CASE("a SOCKS5 client that offers several methods gets the one without authentication") {
  const auto several = talk("\x05\x03\x02\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x07\x1f\x90"s);
  CHECK(several.output == kChosen);
  CHECK(several.conversation.request());
}

TEST_CASE("nothing that a SOCKS5 client sends after its request is taken") {
  const std::string request = by_name("web");
  const auto ahead = talk(request + "GET / HTTP/1.1\r\n");
  REQUIRE(ahead.conversation.request());
  CHECK(ahead.taken == request.size());
}

TEST_CASE("a SOCKS5 conversation that is not finished has neither a request nor a refusal") {
  const std::string whole = by_name("web.shop");
  for (size_t length = 0; length < whole.size(); ++length) {
    INFO(length);
    const auto part = talk(whole.substr(0, length));
    CHECK(part.conversation.wanted() > 0);
    CHECK(part.conversation.wanted() <= Conversation::kMostWanted);
    CHECK_FALSE(part.conversation.request());
    CHECK(part.conversation.refusal().empty());
  }
}

TEST_CASE("what a SOCKS client may not ask for is refused in the words of its version") {
  struct Row {
    const char* what;
    std::string sent, told, why;
  };
  const std::string v4 = "\x01\x0a\x00\x00\x07\x1f\x90"s;
  const auto row = GENERATE_COPY(values<Row>(
      {{"SOCKS4", "\x04\x01\x00\x50\x0a\x00\x00\x07\x00"s, "\x00\x5b\x00\x00\x00\x00\x00\x00"s, "version 4"},
       {"SOCKS4a", "\x04\x01\x00\x50\x00\x00\x00\x01\x00web\x00"s, "\x00\x5b\x00\x00\x00\x00\x00\x00"s, "version 4"},
       {"HTTP", "GET / HTTP/1.1\r\n", "", "not a greeting"},
       {"no method", "\x05\x00"s, "\x05\xff"s, "no authentication method"},
       {"user and password only", "\x05\x01\x02"s, "\x05\xff"s, "without authentication"},
       {"BIND", kHello + "\x05\x02\x00"s + v4, kChosen + answer(7), "BIND is not served"},
       {"UDP ASSOCIATE", kHello + "\x05\x03\x00"s + v4, kChosen + answer(7), "UDP ASSOCIATE is not served"},
       {"another command", kHello + "\x05\x09\x00"s + v4, kChosen + answer(7), "command 9"},
       {"another address type", kHello + "\x05\x01\x00\x02"s, kChosen + answer(8), "address type 2"},
       {"another version", kHello + "\x04\x01\x00\x01"s, kChosen + answer(1), "version 4 in a request"},
       {"an empty name", by_name(""), kChosen + answer(1), "empty"},
       {"a root", by_name("."), kChosen + answer(1), "not a host name"},
       {"blanks", by_name("a b"), kChosen + answer(1), "not a host name"},
       {"a NUL", by_name("a\0b"s), kChosen + answer(1), "not a host name"},
       {"an empty label", by_name("a..b"), kChosen + answer(1), "not a host name"},
       {"a long label", by_name(std::string(64, 'a')), kChosen + answer(1), "not a host name"},
       {"a long name",
        by_name(std::string(63, 'a') + "." + std::string(63, 'b') + "." + std::string(63, 'c') + "." + std::string(63, 'd')),
        kChosen + answer(1), "not a host name"},
       {"0.0.0.0", kHello + "\x05\x01\x00\x01\x00\x00\x00\x00\x1f\x90"s, kChosen + answer(2), "nobody's"},
       {"::", kHello + "\x05\x01\x00\x04"s + std::string(16, '\0') + "\x1f\x90"s, kChosen + answer(2), "nobody's"},
       {"0.0.0.0 as a name", by_name("0.0.0.0"), kChosen + answer(2), "nobody's"},
       {"port 0", by_name("web", "\x00\x00"s), kChosen + answer(2), "port 0"}}));
  INFO(row.what);
  const auto refused = talk(row.sent);
  CHECK(refused.conversation.wanted() == 0);
  CHECK_FALSE(refused.conversation.request());
  CHECK(refused.output == row.told);
  CHECK(refused.conversation.refusal().find(row.why) != std::string_view::npos);
}

TEST_CASE("a SOCKS5 client is told why there is no connection") {
  const auto io = [](int error) { return Error{Reason::kConnectFailed, "io error: " + errno_text(error)}; };
  CHECK(reply_for(io(ECONNREFUSED)) == Reply::kRefused);
  CHECK(reply_for(io(ENETUNREACH)) == Reply::kNetworkUnreachable);
  CHECK(reply_for(io(EHOSTUNREACH)) == Reply::kHostUnreachable);
  CHECK(reply_for({Reason::kConnectTimeout, "x"}) == Reply::kHostUnreachable);
  CHECK(reply_for({Reason::kNotFound, "x"}) == Reply::kHostUnreachable);
  CHECK(reply_for({Reason::kNoUpstream, "x"}) == Reply::kHostUnreachable);
  CHECK(reply_for({Reason::kConnectStatus, "http status: 401 Unauthorized"}) == Reply::kNotAllowed);
  CHECK(reply_for({Reason::kConnectStatus, "http status: 503 Service Unavailable"}) == Reply::kRefused);
  CHECK(reply_for({Reason::kRecursiveCall, "x"}) == Reply::kNotAllowed);
  CHECK(reply_for({Reason::kTlsFailed, "x"}) == Reply::kGeneralFailure);
}
