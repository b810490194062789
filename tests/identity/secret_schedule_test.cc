#include "identity/secret_schedule.h"

#include "tests/identity/support.h"

namespace zt::identity {
namespace {

using namespace test;
using namespace std::chrono_literals;
using std::chrono::milliseconds;

const WallTime kNow = wall_of(2026, 11, 23);

TEST_CASE("a certificate is renewed at half its life, give or take a tenth of that") {
  struct Case {
    const char* name;
    milliseconds age, left;  // now - not_before, not_after - now
    double jitter;
    milliseconds expected;
  };
  const std::vector<Case> cases = {
      {"new", 0h, 24h, 0, 12h},
      {"new, earliest", 0h, 24h, -1, 12h - 72min},
      {"new, latest", 0h, 24h, 1, 12h + 72min},
      {"a jitter out of range counts as its end", 0h, 24h, 7, 12h + 72min},
      {"backdated by the CA", 2min, 24h, 0, 12h - 1min},
      {"a quarter gone", 6h, 18h, 0, 6h},
      {"half gone: half of the rest, not at once", 12h, 12h, 0, 6h},
      {"nearly gone", 23h, 1h, 0, 30min},
      {"gone", 25h, -1h, 0, kMinRefreshDelay},
      {"very short", 0s, 1s, 0, kMinRefreshDelay},
      {"not valid yet", -1h, 25h, 0, 13h},
      {"until the year 9999", 0h, wall_of(9999, 12, 31) - kNow, 0, (wall_of(9999, 12, 31) - kNow) / 2},
  };
  for (const Case& c : cases) {
    INFO(c.name);
    CHECK(refresh_delay(kNow - c.age, kNow + c.left, kNow, c.jitter) == c.expected);
  }
}

TEST_CASE("renewal always falls into the validity") {
  for (const auto lifetime : std::initializer_list<milliseconds>{1min, 1h, 24h, std::chrono::days(90)})
    for (const double age : {0.0, 0.1, 0.44, 0.5, 0.56, 0.9, 0.99})
      for (const double jitter : {-1.0, 0.0, 1.0}) {
        const auto gone = milliseconds(static_cast<int64_t>(static_cast<double>(lifetime.count()) * age));
        const auto delay = refresh_delay(kNow - gone, kNow - gone + lifetime, kNow, jitter);
        CAPTURE(lifetime.count(), age, jitter, delay.count());
        CHECK(delay > 0ms);
        CHECK((delay < lifetime - gone || delay == kMinRefreshDelay));
      }
}

TEST_CASE("retries back off from one second to 150, each by a fifth more or less") {
  struct Case {
    uint32_t failures;
    milliseconds base;
  };
  const std::vector<Case> cases = {{0, 1s},  {1, 1s},   {2, 2s},   {3, 4s},           {4, 8s},
                                   {7, 64s}, {8, 128s}, {9, 150s}, {1'000'000, 150s}, {UINT32_MAX, 150s}};
  for (const Case& c : cases) {
    CAPTURE(c.failures);
    CHECK(retry_delay(c.failures, 0) == c.base);
    CHECK(retry_delay(c.failures, -1) == c.base * 8 / 10);
    CHECK(retry_delay(c.failures, 1) == std::min<milliseconds>(c.base * 12 / 10, 150s));
  }
}

TEST_CASE("retries that somebody waits for back off to a shorter limit") {
  CHECK(real_time_retry_delay(1, 1s, 5s) == 1s);
  CHECK(real_time_retry_delay(2, 1s, 5s) == 2s);
  CHECK(real_time_retry_delay(3, 1s, 5s) == 4s);
  CHECK(real_time_retry_delay(4, 1s, 5s) == 5s);
  CHECK(real_time_retry_delay(UINT32_MAX, 1s, 5s) == 5s);
}

}  // namespace
}  // namespace zt::identity
