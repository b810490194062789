#include "identity/spiffe_id.h"

#include <catch2/catch.hpp>
#include <unordered_set>

namespace zt::identity {
namespace {

TEST_CASE("an identity owns the parts of its SPIFFE id and writes them back unchanged") {
  const auto id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/client");
  REQUIRE(id);
  CHECK(*id == SpiffeId{"cluster.local", "shop", "client"});
  CHECK(id->to_string() == "spiffe://cluster.local/ns/shop/sa/client");
  CHECK_FALSE(SpiffeId::parse("spiffe://cluster.local/ns/shop"));
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
