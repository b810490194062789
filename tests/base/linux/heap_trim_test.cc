#include "base/linux/heap_trim.h"

#include <catch2/catch.hpp>

using namespace zt;

namespace {
constexpr size_t kMiB = 1 << 20;
// How many calls until a trim is due; 0 = not within 20.
int calls_until_due(HeapTrim& trim, size_t resident, size_t load) {
  for (int call = 1; call <= 20; ++call) {
    if (trim.due(resident, load)) return call;
  }
  return 0;
}
}  // namespace

TEST_CASE("memory is given back once after a burst, when it is over") {
  HeapTrim trim;
  trim.trimmed(24 * kMiB);
  CHECK(calls_until_due(trim, 24 * kMiB, 10) == 0);
  for (size_t at = 24; at < 144; at += 10) CHECK_FALSE(trim.due(at * kMiB, at * 20));  // it grows
  CHECK(calls_until_due(trim, 144 * kMiB, 3000) == 4);                                 // grown, then still for three calls
  trim.trimmed(144 * kMiB);
  CHECK(calls_until_due(trim, 144 * kMiB, 3000) == 0);
  CHECK(calls_until_due(trim, 144 * kMiB, 0) == 1);  // gone, in calm: nothing else would tell, since it is still resident
  trim.trimmed(25 * kMiB);
  CHECK(calls_until_due(trim, 25 * kMiB, 0) == 0);
}

TEST_CASE("connections that come and go as they always do are no burst") {
  HeapTrim trim;
  trim.trimmed(24 * kMiB);
  for (int i = 0; i < 100; ++i) CHECK_FALSE(trim.due(25 * kMiB, i % 2 == 0 ? 1000 : 900));
}

TEST_CASE("what is resident is read") {
  CHECK(resident_bytes() > kMiB);
  CHECK(resident_bytes() < size_t{64} << 30);
}
