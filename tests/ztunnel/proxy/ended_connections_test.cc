#include "ztunnel/proxy/ended_connections.h"

#include <catch2/catch.hpp>

#include <fmt/format.h>

namespace zt::ztunnel {
namespace {

EndedConnection ended(std::string text) {
  EndedConnection one;
  one.text = std::move(text);
  return one;
}

TEST_CASE("of the connections that ended the last are kept, numbered, the oldest first") {
  EndedConnections kept;
  CHECK(kept.all().empty());
  for (const char* text : {"a", "b"}) kept.add(ended(text));
  REQUIRE(kept.all().size() == 2);
  CHECK(kept.all()[0].text == "a");
  CHECK(kept.all()[0].number == 1);
  CHECK(kept.all()[1].at >= kept.all()[0].at);
  for (size_t i = 0; i < 2 * EndedConnections::kKept; ++i) kept.add(ended(fmt::format("{}", i)));
  const auto all = kept.all();
  REQUIRE(all.size() == EndedConnections::kKept);
  CHECK(all.front().text == fmt::format("{}", EndedConnections::kKept));
  CHECK(all.back().number == 2 + 2 * EndedConnections::kKept);
}

}  // namespace
}  // namespace zt::ztunnel
