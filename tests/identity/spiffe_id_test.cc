#include "identity/spiffe_id.h"
#include "mesh/reason.h"

#include <catch2/catch.hpp>
#include <unordered_set>

namespace zt::identity {
namespace {

TEST_CASE("a workload's SPIFFE id is read and written back unchanged") {
  const std::string text = "spiffe://cluster.local/ns/shop/sa/client";
  const auto id = SpiffeId::parse(text);
  REQUIRE(id);
  CHECK(id->trust_domain == "cluster.local");
  CHECK(id->namespace_ == "shop");
  CHECK(id->service_account == "client");
  CHECK(id->to_string() == text);
  CHECK(id->principal() == "cluster.local/ns/shop/sa/client");
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
  const auto id = SpiffeId::parse(text);
  REQUIRE_FALSE(id);
  CHECK(id.error().reason == Reason::kInvalidInput);
  CHECK(id.error().text.find('\n') == std::string::npos);
  CHECK(id.error().text.find('\0') == std::string::npos);
}

TEST_CASE("the longest SPIFFE id is 2048 bytes") {
  std::string text = "spiffe://td/ns/n/sa/";
  text.append(kMaxSpiffeIdBytes - text.size(), 'a');
  CHECK(SpiffeId::parse(text));
  text += 'a';
  const auto id = SpiffeId::parse(text);
  REQUIRE_FALSE(id);
  CHECK(id.error().text.find("longer than 2048") != std::string::npos);
  CHECK(id.error().text.size() < 300);  // a refused megabyte does not become a log line of a megabyte
}

TEST_CASE("ids that differ in one part differ, also as keys") {
  const SpiffeId a{"td", "ns", "sa"};
  std::unordered_set<SpiffeId> set{a, {"td", "ns", "sb"}, {"td", "nt", "sa"}, {"te", "ns", "sa"}, {"td", "sa", "ns"}, a};
  CHECK(set.size() == 5);
  CHECK(set.contains(SpiffeId{"td", "ns", "sa"}));
  CHECK(std::hash<SpiffeId>{}(a) != std::hash<SpiffeId>{}({"td", "sa", "ns"}));
}

}  // namespace
}  // namespace zt::identity
