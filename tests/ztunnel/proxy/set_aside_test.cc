#include "ztunnel/proxy/set_aside.h"

#include <catch2/catch.hpp>

namespace zt::ztunnel {
namespace {

using namespace std::chrono_literals;

workload_api::Workload endpoint(std::string_view uid) {
  workload_api::Workload made;
  made.uid = uid;
  return made;
}

TEST_CASE("who fails again and again is set aside for growing times, and who works is forgiven") {
  SetAside set;
  const auto bad = endpoint("bad"), good = endpoint("good");
  auto now = Clock::now();
  CHECK(set.empty());
  for (uint32_t i = 1; i < SetAside::kFailures; ++i) CHECK_FALSE(set.failed(bad, now));
  CHECK_FALSE(set.contains(bad, now));
  Clock::duration expected = SetAside::kFirst;
  for (int i = 0; i < 12; ++i) {
    const auto time = set.failed(bad, now);
    REQUIRE(time);
    CHECK(*time == expected);
    CHECK(set.contains(bad, now));
    CHECK_FALSE(set.contains(good, now));
    CHECK_FALSE(set.failed(bad, now + *time / 2));  // one that was on its way
    CHECK(set.contains(bad, now + *time - 1ms));
    now += *time;
    CHECK_FALSE(set.contains(bad, now));
    expected = std::min<Clock::duration>(2 * expected, SetAside::kLongest);
  }
  CHECK(set.worked(bad));
  CHECK_FALSE(set.worked(bad));
  CHECK(set.empty());
  CHECK_FALSE(set.failed(bad, now));
}

TEST_CASE("a success between two failures begins the count anew, and so does a long time") {
  SetAside set;
  const auto one = endpoint("one");
  auto now = Clock::now();
  for (int i = 0; i < 10; ++i) {
    CHECK_FALSE(set.failed(one, now));
    CHECK_FALSE(set.failed(one, now));
    CHECK_FALSE(set.worked(one));
  }
  CHECK_FALSE(set.failed(one, now));
  CHECK_FALSE(set.failed(one, now));
  CHECK_FALSE(set.failed(one, now + 3 * SetAside::kLongest));
}

TEST_CASE("what is remembered of endpoints that fail is bounded") {
  SetAside set;
  auto now = Clock::now();
  for (size_t i = 0; i < SetAside::kMostEntries; ++i) (void)set.failed(endpoint("e" + std::to_string(i)), now);
  const auto more = endpoint("more");
  for (int i = 0; i < 10; ++i) CHECK_FALSE(set.failed(more, now));
  CHECK_FALSE(set.contains(more, now));
  now += 3 * SetAside::kLongest;  // the others are forgotten
  for (uint32_t i = 1; i < SetAside::kFailures; ++i) CHECK_FALSE(set.failed(more, now));
  CHECK(set.failed(more, now));
}

}  // namespace
}  // namespace zt::ztunnel
