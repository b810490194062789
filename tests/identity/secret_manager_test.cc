#include "identity/secret_manager.h"

#include <random>
#include <set>

#include "mesh/reason.h"
#include "tests/identity/manager_fixture.h"

namespace zt::identity {
namespace {

using namespace test;
using namespace std::chrono_literals;

const SpiffeId kA = id_of("a"), kB = id_of("b");

TEST_CASE_METHOD(ManagerFixture, "all who ask for an identity wait for one fetch and get its certificate") {
  const auto first = get(kA), second = get(kA);
  manager->prefetch(kA);
  CHECK(ca.calls == 1);
  CHECK(state(kA) == "Initializing");
  CHECK(first->empty());
  const auto certificate = answer();
  for (const auto& got : {first, second}) {
    REQUIRE(got->size() == 1);
    REQUIRE(got->front());
    CHECK(got->front()->certificate == certificate);
    CHECK(got->front()->trust->same_roots(*authority.roots()));
  }
  CHECK(state(kA) == "Available");
  CHECK(ca.calls == 1);
}

TEST_CASE_METHOD(ManagerFixture, "a certificate at hand is given at once") {
  const auto certificate = available(kA);
  CHECK(get(kA)->front()->certificate == certificate);
  CHECK(must(manager->current(kA)).certificate == certificate);
  CHECK(ca.calls == 1);
  CHECK_FALSE(manager->current(kB));
  CHECK(ca.calls == 1);  // current() starts nothing
}

TEST_CASE_METHOD(ManagerFixture, "at most eight fetches are in flight, a freed slot goes to the next") {
  for (int i = 0; i < 20; ++i) manager->prefetch(id_of("p" + std::to_string(i)));
  CHECK(ca.requests.size() == kMaxFetchesInFlight);
  CHECK(manager->stats().in_flight == 8);
  CHECK(manager->stats().queued == 12);
  answer();
  refuse();
  CHECK(ca.requests.size() == kMaxFetchesInFlight);
  CHECK(ca.calls == 10);
}

TEST_CASE_METHOD(ManagerFixture, "slots go to waiting connections, then to prefetches, then to renewals, each in order") {
  const SpiffeId renewed = id_of("renewed");
  available(renewed);
  scheduler.advance(12h - 1min - 1s);  // just before its renewal (it is backdated by two minutes)
  for (size_t i = 0; i < kMaxFetchesInFlight; ++i) manager->prefetch(id_of("busy" + std::to_string(i)));
  scheduler.advance(2s);
  manager->prefetch(id_of("warm1"));
  manager->prefetch(id_of("warm2"));
  manager->prefetch(id_of("raised"));
  get(id_of("urgent1"));
  get(id_of("urgent2"));
  get(id_of("raised"));  // came before the urgent ones, is as urgent now

  std::vector<std::string> order;
  for (size_t i = 0; i < kMaxFetchesInFlight; ++i) answer();  // the busy ones
  while (!ca.requests.empty()) {
    order.push_back(ca.requests.front().id.service_account);
    answer();
  }
  CHECK(order == std::vector<std::string>{"raised", "urgent1", "urgent2", "warm1", "warm2", "renewed"});
}

TEST_CASE_METHOD(ManagerFixture, "prefetching what is known does nothing") {
  available(kA);
  manager->prefetch(kA);
  CHECK(ca.calls == 1);
  get(kB);
  refuse();
  manager->prefetch(kB);  // its retry comes by the back-off
  CHECK(ca.calls == 2);
}

TEST_CASE_METHOD(ManagerFixture, "a certificate is renewed at half its life, moved by the jitter") {
  jitter = GENERATE(-1.0, 0.0, 1.0);
  const auto certificate = available(kA);
  const auto half = (certificate->not_after() - certificate->not_before()) / 2;
  const auto delay = half - kBackdate + std::chrono::milliseconds(static_cast<int64_t>(half.count() * 0.1 * jitter));
  scheduler.advance(delay - 1s);
  CHECK(ca.calls == 1);
  scheduler.advance(2s);
  REQUIRE(ca.calls == 2);
  CHECK(get(kA)->front()->certificate == certificate);  // nobody waits for a renewal
  const auto renewed = answer();
  CHECK(get(kA)->front()->certificate == renewed);
  CHECK(certificate->private_key() != nullptr);  // who still holds the old one may go on with it
}

TEST_CASE_METHOD(ManagerFixture, "forgetting drops the certificate, the renewal and the timers") {
  available(kA);
  manager->forget(kA);
  CHECK(state(kA) == "(unknown)");
  CHECK(scheduler.timers() == 0);
  scheduler.advance(48h);
  CHECK(ca.calls == 1);
  manager->forget(kA);  // twice is fine
  CHECK(manager->stats().identities == 0);
}

TEST_CASE_METHOD(ManagerFixture, "forgetting answers who waits, and what was in flight is discarded") {
  const auto waiting = get(kA);
  manager->forget(kA);
  REQUIRE(waiting->size() == 1);
  CHECK(waiting->front().error().reason == Reason::kIdentityUnavailable);
  CHECK(manager->stats().in_flight == 1);  // the CA still works on it
  answer();
  CHECK(state(kA) == "(unknown)");
  CHECK(manager->stats().fetches_discarded == 1);
  CHECK(manager->stats().in_flight == 0);
}

TEST_CASE_METHOD(ManagerFixture, "an identity that comes back while its old fetch is in flight gets a fetch of its own") {
  get(kA);
  manager->forget(kA);
  const auto waiting = get(kA);
  REQUIRE(ca.requests.size() == 2);
  answer();
  CHECK(waiting->empty());
  const auto certificate = answer();
  CHECK(waiting->front()->certificate == certificate);
}

TEST_CASE_METHOD(ManagerFixture, "forgetting what is only queued takes it out of the queue") {
  for (size_t i = 0; i < kMaxFetchesInFlight; ++i) manager->prefetch(id_of("busy" + std::to_string(i)));
  manager->prefetch(kA);
  manager->forget(kA);
  CHECK(manager->stats().queued == 0);
  answer();
  CHECK(ca.calls == kMaxFetchesInFlight);
}

TEST_CASE_METHOD(ManagerFixture, "listeners hear of every certificate, of what there was before them, and of its end") {
  available(kA);
  std::vector<std::string> heard;
  manager->subscribe([&](const SpiffeId& id, const Credentials& now) {
    heard.push_back(id.service_account + (now.certificate ? " " + now.certificate->serial() : " gone"));
    CHECK((now.certificate == nullptr) == (now.trust == nullptr));
  });
  REQUIRE(heard.size() == 1);  // "a", from before
  const auto b = available(kB);
  CHECK(heard.back() == "b " + b->serial());
  next_request();
  const auto renewed = answer();
  CHECK(heard.back() == "a " + renewed->serial());
  manager->forget(kB);
  CHECK(heard.back() == "b gone");
  get(id_of("c"));
  manager->forget(id_of("c"));
  CHECK(heard.back() == "b gone");  // c never had one
}

TEST_CASE_METHOD(ManagerFixture, "callbacks may call the manager again") {
  bool called = false;
  manager->subscribe([&](const SpiffeId& id, const Credentials& now) {
    if (!now.certificate || id != kA) return;
    CHECK(manager->current(kA));
    manager->get(kA, [&](const Result<Credentials>& result) { called = result.has_value(); });
    manager->prefetch(kB);
    manager->subscribe([](const SpiffeId&, const Credentials&) {});
    manager->forget(kA);
  });
  bool answered = false;
  manager->get(kA, [&](const Result<Credentials>& result) {
    answered = result.has_value();
    manager->forget(kB);
  });
  answer();
  CHECK(called);
  CHECK(answered);
  CHECK(state(kA) == "(unknown)");
  CHECK(state(kB) == "(unknown)");
}

TEST_CASE_METHOD(ManagerFixture, "when the manager goes, who waits is told and later answers are dropped") {
  const auto waiting = get(kA);
  manager.reset();
  REQUIRE(waiting->size() == 1);
  CHECK_THAT(waiting->front().error().text, Catch::Contains("shutting down"));
  answer();
  CHECK(waiting->size() == 1);
  CHECK(scheduler.timers() == 0);
}

TEST_CASE_METHOD(ManagerFixture, "the number of waiting connections and of identities is limited") {
  std::vector<Answer> waiting;
  for (size_t i = 0; i < kMaxWaitersPerIdentity; ++i) waiting.push_back(get(kA));
  const auto refused = get(kA);
  REQUIRE(refused->size() == 1);
  CHECK(refused->front().error().reason == Reason::kResourceLimit);
  CHECK(waiting.front()->empty());
  answer();
  CHECK(waiting.back()->front());

  for (size_t i = manager->stats().identities; i < kMaxIdentities; ++i) manager->prefetch(id_of("i" + std::to_string(i)));
  manager->prefetch(id_of("too-many"));
  CHECK(state(id_of("too-many")) == "(unknown)");
  CHECK(get(id_of("too-many"))->front().error().reason == Reason::kResourceLimit);
  CHECK(get(kA)->front());  // known ones go on
}

TEST_CASE_METHOD(ManagerFixture, "the dump is sorted and holds certificates only of what is available") {
  get(kB);
  const auto a = available(id_of("z"));  // answers b's request, the older one
  refuse("no pod of this account");
  const auto rows = manager->snapshot();
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].identity == kB.to_string());
  CHECK(rows[0].state == "Available");
  CHECK(rows[0].credentials.certificate == a);
  CHECK(rows[0].credentials.certificate->dump_chain().size() == 1);
  CHECK(rows[0].credentials.trust->dump().size() == 1);
  CHECK(rows[1].state == "Unavailable: no pod of this account");
  CHECK(rows[1].credentials.certificate == nullptr);
}

TEST_CASE_METHOD(ManagerFixture, "statistics count what happened and how long it took") {
  get(kA);
  get(kA);
  scheduler.advance(2s);
  const auto certificate = answer();
  manager->prefetch(kB);
  scheduler.advance(1s);
  refuse();
  const auto stats = manager->stats();
  CHECK(stats.fetches == 2);
  CHECK(stats.fetch_successes == 1);
  CHECK(stats.fetch_failures == 1);
  CHECK(stats.fetch_time_sum == 3s);
  CHECK(stats.waits == 2);
  CHECK(stats.waiting == 0);
  CHECK(stats.identities == 2);
  REQUIRE(stats.expiries.size() == 1);
  CHECK(stats.expiries[0].identity == kA.to_string());
  CHECK(stats.expiries[0].not_after == certificate->not_after());
}

// Thousands of random events; after each the promises must hold.
TEST_CASE_METHOD(ManagerFixture,
                 "whatever happens in whatever order, every caller is answered once and never with an "
                 "expired certificate") {
  std::mt19937_64 random(GENERATE(1u, 2u, 3u, 4u, 5u));
  const auto roll = [&](unsigned sides) { return std::uniform_int_distribution<unsigned>(0, sides - 1)(random); };
  size_t asked = 0, answered = 0;
  manager->subscribe([&](const SpiffeId&, const Credentials& now) {
    if (now.certificate) REQUIRE_FALSE(now.certificate->expired(scheduler.wall_now()));
  });
  for (int step = 0; step < 4000; ++step) {
    const SpiffeId id = id_of(std::to_string(roll(30)));
    switch (roll(8)) {
      case 0:
      case 1:
        ++asked;
        manager->get(id, [&](const Result<Credentials>& result) {
          ++answered;
          if (result) REQUIRE_FALSE(result->certificate->expired(scheduler.wall_now()));
        });
        break;
      case 2: manager->prefetch(id); break;
      case 3:
        if (roll(4) == 0) manager->forget(id);
        break;
      case 4:
      case 5:
        if (ca.requests.empty()) break;
        std::swap(ca.requests.front(), ca.requests[roll(static_cast<unsigned>(ca.requests.size()))]);
        if (roll(3) == 0)
          refuse();
        else
          answer(std::chrono::seconds(1 + roll(600)));
        break;
      case 6: scheduler.advance(std::chrono::milliseconds(roll(20'000))); break;
      default:
        if (roll(50) == 0) scheduler.step_wall_clock(std::chrono::minutes(static_cast<int>(roll(20)) - 5));
    }
    const auto stats = manager->stats();
    REQUIRE(stats.in_flight <= kMaxFetchesInFlight);
    REQUIRE(stats.waiting == asked - answered);
  }
  scheduler.advance(kCertificateWaitLimit);
  CHECK(asked == answered);
}

}  // namespace
}  // namespace zt::identity
