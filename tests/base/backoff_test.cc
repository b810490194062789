#include "base/backoff.h"

#include <catch2/catch.hpp>

namespace zt {

using namespace std::chrono_literals;

TEST_CASE("pauses double up to their limit, a part of each is chance, and none is zero") {
  double chance = 0;
  Backoff backoff(20ms, 15'000ms, 0.5, [&] { return chance; });
  CHECK(backoff.next() == 10ms);
  chance = 0.999999;
  CHECK(backoff.next() == 39ms);
  for (int i = 0; i < 20; ++i) (void)backoff.next();
  CHECK(backoff.next() == 14'999ms);
  chance = 0;
  CHECK(backoff.next() == 7'500ms);
  backoff.reset();
  CHECK(backoff.next() == 10ms);
}

TEST_CASE("the pause after so many failures in a row is doubled each time and never more than its limit") {
  CHECK(Backoff::doubled(1s, 0, 5s) == 1s);
  CHECK(Backoff::doubled(1s, 1, 5s) == 1s);
  CHECK(Backoff::doubled(1s, 3, 5s) == 4s);
  CHECK(Backoff::doubled(1s, 4, 5s) == 5s);
  CHECK(Backoff::doubled(1s, UINT32_MAX, 5s) == 5s);
  CHECK(Backoff::doubled(9s, 1, 5s) == 5s);
}

TEST_CASE("pauses of two that began together differ, within what is chance") {
  Backoff a(20ms, 15'000ms, 0.2, Backoff::any_random()), b(20ms, 15'000ms, 0.2, Backoff::any_random());
  int same = 0;
  auto whole = 20ms;
  for (int i = 0; i < 30; ++i, whole = std::min<std::chrono::milliseconds>(whole * 2, 15'000ms)) {
    const auto first = a.next(), second = b.next();
    same += first == second;
    for (const auto pause : {first, second}) {
      CHECK(pause >= whole * 4 / 5);
      CHECK(pause <= whole);
    }
  }
  CHECK(same < 15);
}

}  // namespace zt
