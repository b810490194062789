// Lookups: who waits for what, for how long, and what is asked of the control plane meanwhile.
#include "tests/workload_api/xds/support.h"

namespace zt::workload_api::test {
namespace {

struct Fixture {
  Fixture() { (void)keys.start_stream(); }
  OnDemandKeys keys;
  Clock::time_point now = Clock::now();
  std::vector<std::string> log;

  bool ask(const std::string& key, const std::string& who = "", const std::string& asker = "pod") {
    return keys.look_up(key, asker, now, [this, text = key + who](LookupAnswer answer) {
      log.push_back(text + (answer == LookupAnswer::kAnswered   ? " answered"
                            : answer == LookupAnswer::kTimedOut ? " timed out"
                                                                : " refused"));
    });
  }
  void answer(const std::string& name) {
    keys.answered(name);
    keys.release();
  }
};
using Log = std::vector<std::string>;

}  // namespace

TEST_CASE("All who ask for one key share one request and one answer") {
  Fixture f;
  CHECK(f.ask("/10.0.0.1", "#1"));
  CHECK_FALSE(f.ask("/10.0.0.1", "#2"));
  CHECK(f.keys.waiting() == 2);
  f.answer("/10.0.0.2");
  CHECK(f.log.empty());
  f.answer("/10.0.0.1");
  CHECK(f.log == Log{"/10.0.0.1#1 answered", "/10.0.0.1#2 answered"});
  CHECK(f.keys.waiting() == 0);
}

TEST_CASE("A key that has been answered is answered at once, without a request") {
  Fixture f;
  CHECK(f.ask("k"));
  f.answer("k");
  CHECK_FALSE(f.ask("k"));
  CHECK(f.log == Log{"k answered", "k answered"});
}

TEST_CASE("A wait ends after its limit, the key is not asked for again, and a late answer still counts") {
  Fixture f;
  CHECK(f.ask("k", "#1"));
  f.now += std::chrono::seconds(3);
  CHECK_FALSE(f.ask("k", "#2"));
  f.now += std::chrono::seconds(2);
  f.keys.expire(f.now);
  CHECK(f.log == Log{"k#1 timed out"});
  CHECK_FALSE(f.ask("k", "#3"));
  f.answer("k");
  CHECK(f.log == Log{"k#1 timed out", "k#2 answered", "k#3 answered"});
  f.keys.expire(f.now + kLookupLimit);
  CHECK(f.log.size() == 3);
  CHECK(f.keys.next_deadline() == std::nullopt);
  CHECK(f.keys.timeouts() == 1);
}

TEST_CASE("While there is no stream nothing is asked, the next stream asks for what is waited for") {
  Fixture f;
  CHECK(f.ask("answered"));
  f.answer("answered");
  CHECK(f.ask("open"));
  f.keys.end_stream();
  CHECK_FALSE(f.ask("new"));
  auto asked = f.keys.start_stream();
  std::ranges::sort(asked);
  CHECK(asked == Log{"new", "open"});
  CHECK(f.ask("answered"));  // a fresh stream knows nothing of it
}

TEST_CASE("A full stream is replaced, and who asked too much waits for the next one") {
  Fixture f;
  for (size_t i = 0; i < kMaxKeysPerStream; ++i) {
    REQUIRE(f.ask(std::to_string(i)));
    f.answer(std::to_string(i));
    f.keys.expire(f.now + kLookupLimit);
  }
  CHECK_FALSE(f.keys.stream_is_full());
  CHECK_FALSE(f.ask("more"));
  CHECK(f.keys.stream_is_full());
  f.keys.end_stream();
  CHECK(f.keys.start_stream() == Log{"more"});
  CHECK_FALSE(f.keys.stream_is_full());
}

TEST_CASE("A pod that asks for too much is refused, and others are not") {
  Fixture f;
  for (size_t i = 0; i < kMaxLookupsOfAsker; ++i) CHECK(f.ask(std::to_string(i), "", "scanner"));
  CHECK_FALSE(f.ask("more", "", "scanner"));
  CHECK(f.log == Log{"more refused"});
  CHECK(f.ask("other", "", "another pod"));
  f.answer("0");
  CHECK(f.ask("more", "", "scanner"));
  CHECK(f.log == Log{"more refused", "0 answered"});
}

TEST_CASE("When many have filled the table, each may still ask for a little, and all are told at the end") {
  Fixture f;
  for (size_t i = 0; i < kMaxLookupsWaiting; ++i) (void)f.ask("k", "", std::to_string(i / kMaxLookupsOfAsker));
  CHECK(f.log.empty());
  for (size_t i = 0; i < kLookupsAlways; ++i) (void)f.ask("k", "", "late");
  CHECK(f.log.empty());
  (void)f.ask("k", "+", "late");
  CHECK(f.log == Log{"k+ refused"});
  f.keys.refuse_all();
  CHECK(f.log.size() == 1 + kMaxLookupsWaiting + kLookupsAlways);
  CHECK(f.keys.waiting() == 0);
}

TEST_CASE("Lookups that have been answered take no room, however many there are") {
  Fixture f;
  for (size_t i = 0; i < 2 * kMaxLookupsWaiting; ++i) {
    (void)f.ask(std::to_string(i));
    f.answer(std::to_string(i));
  }
  CHECK(f.keys.refused() == 0);
  CHECK(f.keys.next_deadline() == std::nullopt);
}

TEST_CASE("Who is answered may ask again from within") {
  Fixture f;
  int answers = 0;
  (void)f.keys.look_up("k", "pod", f.now, [&](LookupAnswer) {
    ++answers;
    (void)f.keys.look_up("k", "pod", f.now, [&](LookupAnswer) { ++answers; });
  });
  f.answer("k");
  CHECK(answers == 2);
}

}  // namespace zt::workload_api::test
