#include "base/linux/signals.h"

#include <catch2/catch.hpp>
#include <vector>

namespace zt {

using namespace std::chrono_literals;

TEST_CASE("signals that were asked for are calls on the loop, also those that came before it watched") {
  Signals signals({SIGUSR1, SIGUSR2});
  ::raise(SIGUSR1);
  EventLoop loop;
  std::vector<int> seen;
  REQUIRE(signals.watch(loop, [&](int number) { seen.push_back(number); }));
  REQUIRE(loop.run_until([&] { return seen.size() == 1; }, 5s));
  ::raise(SIGUSR2);
  REQUIRE(loop.run_until([&] { return seen.size() == 2; }, 5s));
  CHECK(seen == std::vector<int>{SIGUSR1, SIGUSR2});
}

}  // namespace zt
