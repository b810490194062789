#include "ztunnel/dns/names.h"

#include <catch2/catch.hpp>

namespace zt::ztunnel::dns {
namespace {

std::string aliases(std::string_view name, const NameRules& rules = NameRules::of_pod("ns1", "d.local")) {
  std::string text;
  for_each_alias(name, rules, [&](const Alias& alias) {
    text +=
        (text.empty() ? "" : " ") + std::string(alias.host) + (alias.stripped.empty() ? "" : "<" + std::string(alias.stripped));
    return false;
  });
  return text;
}

TEST_CASE("A name stands for itself, for the forms of Kubernetes, and for what is left without a search domain") {
  const auto [name, expected] = GENERATE(table<const char*, const char*>({
      {"web", "web web.ns1.svc.d.local"},
      {"web.ns2", "web.ns2 web.ns2.svc.d.local web.ns2.ns1.svc.d.local"},
      {"web.ns2.svc", "web.ns2.svc web.ns2.svc.d.local web.ns2.svc.svc.d.local"},
      {"a.b.c", "a.b.c a.b.c.svc.d.local"},
      {"a.b.c.svc", "a.b.c.svc a.b.c.svc.d.local"},
      {"a.b.c.d", "a.b.c.d"},
      {"a.b.c.d.svc", "a.b.c.d.svc"},
      {"svc.d.local", "svc.d.local svc.d.local.svc.d.local svc<svc svc.ns1.svc.d.local<svc"},
      {"d.local", "d.local d.local.svc.d.local d.local.ns1.svc.d.local"},
      {"xd.local", "xd.local xd.local.svc.d.local xd.local.ns1.svc.d.local"},
      {"a.b.example.ns1.svc.d.local",
       "a.b.example.ns1.svc.d.local a.b.example<a.b.example a.b.example.svc.d.local<a.b.example "
       "a.b.example.ns1<a.b.example.ns1 a.b.example.ns1.svc<a.b.example.ns1.svc"},
  }));
  CHECK(aliases(name) == expected);
}

TEST_CASE("The search domains of a dedicated proxy are those of its resolv.conf") {
  NameRules rules = NameRules::of_pod("ns1", "d.local");
  rules.search = {"corp.example"};
  CHECK(aliases("db.corp.example", rules) == "db.corp.example db.corp.example.svc.d.local db<db db.ns1.svc.d.local<db");
}

TEST_CASE("Wildcards of a name lose one label after the other") {
  std::string text;
  for_each_wildcard("a.b.c", [&](std::string_view wildcard) {
    text += std::string(wildcard) + " ";
    return false;
  });
  CHECK(text == "*.b.c *.c ");
  CHECK_FALSE(for_each_wildcard("a", [](std::string_view) { return true; }));
}

TEST_CASE("Reverse names") {
  const auto [name, expected] = GENERATE(table<const char*, const char*>({
      {"4.3.2.1.in-addr.arpa", "1.2.3.4"},
      {"255.0.0.10.in-addr.arpa", "10.0.0.255"},
      {"3.2.1.in-addr.arpa", ""},
      {"5.4.3.2.1.in-addr.arpa", ""},
      {"256.3.2.1.in-addr.arpa", ""},
      {"04.3.2.1.in-addr.arpa", ""},
      {"4.3.2.x.in-addr.arpa", ""},
      {".3.2.1.in-addr.arpa", ""},
      {"in-addr.arpa", ""},
      {"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "2001:db8::1"},
      {"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.ip6.arpa", ""},
      {"g.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", ""},
      {"4.3.2.1", ""},
  }));
  const auto address = reverse_address(name);
  CHECK((address ? address->to_string() : "") == expected);
}

TEST_CASE("Endpoints without a name of their own are called by their address") {
  for (const char* text : {"10.1.2.3", "2001:db8::1", "::1", "fd00::a:b"}) {
    const auto ip = *IpAddress::parse(text);
    CHECK(parse_dashed(dashed(ip)) == ip);
  }
  for (const char* text : {"", "-", "web-0", "10-1-2", "10-1-2-256", "db", "10.1.2.3"}) {
    INFO(text);
    CHECK(parse_dashed(text) == std::nullopt);
  }
}

}  // namespace
}  // namespace zt::ztunnel::dns
