#include "mesh/spiffe.h"

#include <catch2/catch.hpp>
#include <string>

#include "mesh/reason.h"

namespace zt {
namespace {

TEST_CASE("a workload's SPIFFE id is read and written back unchanged") {
  const std::string text = "spiffe://cluster.local/ns/shop/sa/client";
  const auto id = SpiffeView::parse(text);
  REQUIRE(id);
  CHECK(id->trust_domain == "cluster.local");
  CHECK(id->ns == "shop");
  CHECK(id->service_account == "client");
  CHECK(spiffe_id(id->trust_domain, id->ns, id->service_account) == text);
  CHECK(id->principal == "cluster.local/ns/shop/sa/client");
}

TEST_CASE("what is not spiffe://TD/ns/NS/sa/SA is no identity") {
  using namespace std::string_literals;
  const auto text = GENERATE(as<std::string>{},                                 //
                             "",                                                //
                             "spiffe://",                                       //
                             "cluster.local/ns/shop/sa/client",                 // no scheme
                             "SPIFFE://cluster.local/ns/shop/sa/client",        // scheme is literal
                             "https://cluster.local/ns/shop/sa/client",         //
                             "spiffe:/cluster.local/ns/shop/sa/client",         //
                             "spiffe://cluster.local/ns/shop/sa",               // four parts
                             "spiffe://cluster.local/ns/shop/sa/client/x",      // six
                             "spiffe://cluster.local/ns/shop/sa/client/",       // six, the last empty
                             "spiffe://cluster.local//ns/shop/sa/client",       //
                             "spiffe://cluster.local/NS/shop/sa/client",        //
                             "spiffe://cluster.local/sa/client/ns/shop",        // swapped
                             "spiffe:///ns/shop/sa/client",                     // empty trust domain
                             "spiffe://cluster.local/ns//sa/client",            // empty namespace
                             "spiffe://cluster.local/ns/shop/sa/",              // empty account
                             "spiffe://cluster.local/ns/shop/sa/cli ent",       //
                             "spiffe://cluster.local/ns/shop/sa/client\n",      //
                             "spiffe://cluster.local/ns/shop/sa/client\0"s,     // NUL at the end
                             "spiffe://cluster.local/ns/shop/sa/client\0.x"s,   // NUL inside
                             "spiffe://cluster.local/ns/shop/sa/cl\xc3\xaf"s);  // not ASCII
  CAPTURE(text);
  const auto id = SpiffeView::parse(text);
  REQUIRE_FALSE(id);
  CHECK(id.error().reason == Reason::kInvalidInput);
  CHECK(id.error().text.find('\n') == std::string::npos);
  CHECK(id.error().text.find('\0') == std::string::npos);
}

TEST_CASE("the longest SPIFFE id is 2048 bytes") {
  std::string text = "spiffe://td/ns/n/sa/";
  text.append(kMaxSpiffeIdBytes - text.size(), 'a');
  CHECK(SpiffeView::parse(text));
  text += 'a';
  const auto id = SpiffeView::parse(text);
  REQUIRE_FALSE(id);
  CHECK(id.error().text.find("longer than 2048") != std::string::npos);
  CHECK(id.error().text.size() < 300);  // a refused megabyte does not become a log line of a megabyte
}

TEST_CASE("an id is written from the parts that it is read into") {
  const std::string text = spiffe_id("td", "ns", "sa");
  CHECK(text == "spiffe://td/ns/ns/sa/sa");
  std::string appended = "id=";
  append_spiffe_id(appended, "td", "a", "b");
  CHECK(appended == "id=spiffe://td/ns/a/sa/b");
}

TEST_CASE("what no identity can have as a part is told apart from what it can") {
  using namespace std::string_literals;
  for (const std::string& good : {"a"s, "cluster.local"s, "ns"s, "a_b:c"s}) {
    CAPTURE(good);
    CHECK(identity_part_fault(good) == nullptr);
    CHECK(SpiffeView::parse(spiffe_id(good, good, good)));
  }
  for (const std::string& bad : {""s, "spiffe://td"s, "a/b"s, "a b"s, "a\0"s, "\xc3\xa4"s}) {
    CAPTURE(bad);
    CHECK(identity_part_fault(bad) != nullptr);
    CHECK_FALSE(SpiffeView::parse(spiffe_id(bad, "a", "b")));
    CHECK_FALSE(SpiffeView::parse(spiffe_id("a", bad, "b")));
    CHECK_FALSE(SpiffeView::parse(spiffe_id("a", "b", bad)));
  }
}

}  // namespace
}  // namespace zt
