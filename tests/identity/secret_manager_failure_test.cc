#include "identity/secret_manager.h"
#include "mesh/reason.h"
#include "tests/identity/manager_fixture.h"

namespace zt::identity {
namespace {

using namespace test;
using namespace std::chrono_literals;

const SpiffeId kA = id_of("a"), kB = id_of("b");

TEST_CASE_METHOD(ManagerFixture, "a failed fetch fails who waits, and is retried after a back-off that grows to 150 seconds") {
  const auto waiting = get(kA);
  refuse("istiod says no");
  REQUIRE(waiting->size() == 1);
  CHECK(waiting->front().error().reason == Reason::kIdentityUnavailable);
  CHECK(waiting->front().error().text == "cannot get a certificate for " + kA.to_string() + ": istiod says no");
  CHECK(state(kA) == "Unavailable: istiod says no");

  size_t calls = 1;
  for (const auto delay : {1s, 2s, 4s, 8s, 16s, 32s, 64s, 128s, 150s, 150s, 150s}) {
    CAPTURE(delay.count());
    scheduler.advance(delay - 1ms);
    REQUIRE(ca.calls == calls);
    scheduler.advance(1ms);
    REQUIRE(ca.calls == ++calls);
    refuse();
  }
}

TEST_CASE_METHOD(ManagerFixture, "a success resets the back-off") {
  manager->prefetch(kA);
  refuse_times(5);
  next_request();
  answer();
  CHECK(state(kA) == "Available");
  next_request();
  refuse();  // of the renewal
  scheduler.advance(999ms);
  CHECK(ca.requests.empty());
  scheduler.advance(1ms);
  CHECK(ca.requests.size() == 1);  // one second again
}

TEST_CASE_METHOD(ManagerFixture, "identities back off on their own") {
  manager->prefetch(kA);
  refuse_times(6);
  const auto b = available(kB);
  CHECK(get(kB)->front()->certificate == b);
  CHECK_THAT(state(kA), Catch::StartsWith("Unavailable"));
}

TEST_CASE_METHOD(ManagerFixture, "a certificate that is still valid is served through failures, until it expires and no longer") {
  const auto certificate = available(kA, 1h);
  std::vector<bool> told;
  manager->subscribe([&](const SpiffeId&, const Credentials& now) { told.push_back(now.certificate != nullptr); });
  CHECK(told == std::vector<bool>{true});

  const auto expiry = certificate->not_after();
  while (scheduler.wall_now() < expiry - 1s) {
    scheduler.advance(std::min<std::chrono::milliseconds>(10s, expiry - 1s - scheduler.wall_now()));
    while (!ca.requests.empty()) refuse("down");
    REQUIRE(get(kA)->front()->certificate == certificate);
    REQUIRE(state(kA) == "Available");
  }
  CHECK(told == std::vector<bool>{true});
  scheduler.advance(1s);  // the very millisecond
  CHECK_FALSE(manager->current(kA));
  CHECK(told == std::vector<bool>{true, false});
  CHECK(state(kA) == "Unavailable: down");
  CHECK(manager->stats().expirations == 1);
  CHECK(manager->stats().expiries.empty());
  const auto waiting = get(kA);
  CHECK(waiting->empty());  // it waits for a retry instead of getting the old one

  scheduler.advance(kRealTimeRetryMax);
  const auto renewed = answer();
  CHECK(waiting->front()->certificate == renewed);
  CHECK(told == std::vector<bool>{true, false, true});
}

TEST_CASE_METHOD(ManagerFixture, "renewals that hang past the expiry are given up and tried again") {
  available(kA, 1h);
  next_request();
  scheduler.advance(31min);  // given up, retried, given up again, past the expiry
  CHECK(state(kA) == "Unavailable: the CA did not answer within 30 s");
  CHECK(manager->stats().expirations == 1);
  ca.requests.clear();
  next_request();
  answer();
  CHECK(state(kA) == "Available");
}

TEST_CASE_METHOD(ManagerFixture, "an expired certificate is not served even before any timer has noticed") {
  available(kA);
  scheduler.step_wall_clock(25h);
  CHECK_FALSE(manager->current(kA));
  CHECK_THAT(state(kA), Catch::StartsWith("Unavailable"));
  const auto waiting = get(kA);
  CHECK(waiting->empty());
  const auto fresh = answer();
  CHECK(waiting->front()->certificate == fresh);
}

TEST_CASE_METHOD(ManagerFixture, "a stepped calendar clock is noticed within minutes") {
  SECTION("forward past half life: renewed") {
    available(kA);
    scheduler.step_wall_clock(13h);
    scheduler.advance(kClockRecheckInterval);
    CHECK(ca.requests.size() == 1);
  }
  SECTION("forward past the expiry: dropped, listeners told, fetched anew") {
    available(kA);
    bool gone = false;
    manager->subscribe([&](const SpiffeId&, const Credentials& now) { gone = now.certificate == nullptr; });
    scheduler.step_wall_clock(25h);
    scheduler.advance(kClockRecheckInterval);
    CHECK(gone);
    CHECK(ca.requests.size() == 1);
  }
  SECTION("backward: renewed no later than planned") {
    available(kA);
    scheduler.step_wall_clock(-48h);
    next_request(12h);
  }
}

TEST_CASE_METHOD(ManagerFixture, "a clock that jumps an hour ahead and back costs renewals, and nothing expired is served") {
  const auto first = available(kA, 30min);
  scheduler.step_wall_clock(1h);
  CHECK_FALSE(manager->current(kA));
  const auto waiting = get(kA);
  const auto ahead = answer(30min);
  CHECK(waiting->front()->certificate == ahead);

  scheduler.step_wall_clock(-1h);  // what was issued meanwhile is of the future
  REQUIRE(ahead->not_before() > scheduler.wall_now());
  scheduler.advance(kClockRecheckInterval);
  REQUIRE(ca.requests.size() == 1);
  CHECK(manager->current(kA)->certificate == ahead);  // better than none: peers may be ahead as well
  const auto now_valid = answer();
  CHECK(manager->current(kA)->certificate == now_valid);
  scheduler.advance(2 * kClockRecheckInterval);
  CHECK(ca.requests.empty());
}

TEST_CASE_METHOD(ManagerFixture, "a CA whose clock is ahead of ours is not asked again and again") {
  const auto early = authority.issue(kA, kTtl, scheduler.wall_now() + 1h);
  manager->prefetch(kA);
  ca.take().done(early);
  scheduler.run_posted();
  scheduler.advance(30min);
  CHECK(ca.requests.empty());
  CHECK(manager->current(kA)->certificate == early);
}

TEST_CASE_METHOD(ManagerFixture, "a connection that waits hastens the retry, but not below the minimum interval") {
  manager->prefetch(kA);
  refuse_times(7);  // the next would come after 64 s
  const size_t calls = ca.calls;
  const auto first = get(kA), second = get(kA);
  scheduler.advance(kRealTimeRetryMax - 1ms);
  CHECK(ca.calls == calls);
  const auto third = get(kA);
  scheduler.advance(1ms);
  CHECK(ca.calls == calls + 1);  // one fetch for all three
  const auto certificate = answer();
  for (const auto& got : {first, second, third}) CHECK(got->front()->certificate == certificate);
}

TEST_CASE_METHOD(ManagerFixture, "a connection long after the last failure gets a fetch at once") {
  manager->prefetch(kA);
  refuse_times(9);
  scheduler.advance(60s);
  CHECK(ca.requests.empty());
  get(kA);
  CHECK(ca.requests.size() == 1);
}

TEST_CASE_METHOD(ManagerFixture, "connections that keep asking cannot hammer the CA") {
  size_t answered = 0;
  for (int second = 0; second < 600; ++second) {
    for (int i = 0; i < 10; ++i) manager->get(kA, [&](const Result<Credentials>&) { ++answered; });
    while (!ca.requests.empty()) refuse();
    scheduler.advance(1s);
  }
  // 1 + 2 + 4 s, then one every five.
  CHECK(ca.calls >= 600 / 5);
  CHECK(ca.calls <= 600 / 5 + 4);
  CHECK(answered > 5000);
  manager.reset();  // it answers who still waits, into `answered`
}

TEST_CASE_METHOD(ManagerFixture, "a caller waits for a silent CA no longer than the limit, and the fetch goes on") {
  const auto early = get(kA);
  scheduler.advance(4s);
  const auto late = get(kA);
  scheduler.advance(kCertificateWaitLimit - 4s - 1ms);
  CHECK(early->empty());
  scheduler.advance(1ms);
  REQUIRE(early->size() == 1);
  CHECK(early->front().error().reason == Reason::kIdentityTimeout);
  CHECK_THAT(early->front().error().text, Catch::Contains("did not come within 10 s"));
  CHECK(late->empty());
  CHECK(manager->stats().wait_timeouts == 1);
  scheduler.advance(4s - 1ms);
  const auto certificate = answer();
  CHECK(late->front()->certificate == certificate);
  CHECK(early->size() == 1);
}

TEST_CASE_METHOD(ManagerFixture, "a caller that times out while the CA fails is told why") {
  get(kA);
  refuse("denied");
  const auto waiting = get(kA);
  scheduler.advance(1s);  // the retry, which hangs
  scheduler.advance(kCertificateWaitLimit);
  REQUIRE(waiting->size() == 1);
  CHECK_THAT(waiting->front().error().text, Catch::EndsWith("before that: denied"));
}

TEST_CASE_METHOD(ManagerFixture, "fetches that the CA never answers give their slots back") {
  for (size_t i = 0; i < kMaxFetchesInFlight; ++i) manager->prefetch(id_of("hung" + std::to_string(i)));
  const auto waiting = get(kA);
  auto hung = std::exchange(ca.requests, {});
  scheduler.advance(kFetchLimit - 1ms);
  CHECK(ca.requests.empty());
  scheduler.advance(1ms);
  CHECK(manager->stats().fetch_timeouts == 8);
  CHECK(state(hung[0].id) == "Unavailable: the CA did not answer within 30 s");
  REQUIRE_FALSE(ca.requests.empty());
  CHECK(ca.requests.front().id == kA);

  hung[0].done(issue(hung[0].id));  // too late
  scheduler.run_posted();
  CHECK_THAT(state(hung[0].id), Catch::StartsWith("Unavailable"));
  CHECK(manager->stats().fetches_discarded == 1);
}

TEST_CASE_METHOD(ManagerFixture, "an answer that is no use is a failure") {
  SECTION("expired") {
    const auto waiting = get(kA);
    const auto old = issue(kA, 1h);
    scheduler.advance(2s);
    scheduler.step_wall_clock(2h);
    ca.take().done(old);
    scheduler.run_posted();
    CHECK_THAT(waiting->front().error().text, Catch::Contains("expired at") && Catch::Contains("is our clock right?"));
  }
  SECTION("nothing") {
    const auto waiting = get(kA);
    ca.take().done(CertificatePtr());
    scheduler.run_posted();
    CHECK_FALSE(waiting->front());
  }
}

TEST_CASE_METHOD(ManagerFixture, "a certificate that comes past its half life is not renewed in a tight loop") {
  authority = TestCa(scheduler.wall_now() - 48h);
  manager->prefetch(kA);
  for (int i = 0; i < 20; ++i) {
    FakeCa::Request request = ca.take();
    // The CA's clock is 20 of 24 hours behind ours.
    request.done(authority.issue(request.id, 4h + 20h, scheduler.wall_now() - 20h));
    scheduler.run_posted();
    CHECK(state(kA) == "Available");
    scheduler.advance(2h - 1s);
    CHECK(ca.requests.empty());
    next_request(1min);
  }
}

// ---- roots

TEST_CASE_METHOD(ManagerFixture, "a new root that comes with any certificate applies to all identities at once") {
  const auto a = available(kA), b = available(kB);
  const auto held = get(kB)->front();
  const TestCa next(scheduler.wall_now());
  const auto both = bundle_of({authority.root(), next.root()});
  std::vector<std::string> told;
  manager->subscribe([&](const SpiffeId& id, const Credentials& now) {
    if (now.trust->same_roots(*both)) told.push_back(id.service_account);
  });

  authority.use_roots(both, scheduler.wall_now());
  available(id_of("c"));
  std::ranges::sort(told);
  CHECK(told == std::vector<std::string>{"a", "b", "c"});
  CHECK(must(manager->current(kB)).trust->same_roots(*both));
  CHECK(must(manager->current(kB)).certificate == b);              // no need to renew: its root is still there
  CHECK(held->trust->same_roots(*bundle_of({authority.root()})));  // an open connection keeps what it has
  CHECK(manager->stats().root_changes == 1);
  scheduler.advance(5min);
  CHECK(ca.calls == 3);
}

TEST_CASE_METHOD(ManagerFixture, "when a root is dropped, certificates below it are renewed soon, spread out") {
  const auto a = available(kA);
  scheduler.advance(1h);
  const TestCa next(scheduler.wall_now());
  authority = TestCa(scheduler.wall_now());
  jitter = GENERATE(-1.0, 1.0);
  const auto spread = jitter < 0 ? 0s : kRootChangeSpread;
  available(kB);
  REQUIRE(ca.calls == 2);
  CHECK(must(manager->current(kA)).certificate == a);
  scheduler.advance(spread);
  REQUIRE(ca.calls == 3);
  CHECK(ca.requests.front().id == kA);
  const auto renewed = answer();
  CHECK(must(manager->current(kA)).certificate == renewed);
}

TEST_CASE_METHOD(ManagerFixture, "two CAs that disagree about the root do not drive renewals in circles") {
  const TestCa one(scheduler.wall_now()), two(scheduler.wall_now());
  const auto give = [&](const TestCa& from) {
    FakeCa::Request request = ca.take();
    request.done(from.issue(request.id, kTtl, scheduler.wall_now()));
    scheduler.run_posted();
  };
  manager->prefetch(kA);
  give(one);
  manager->prefetch(kB);
  give(two);
  bool first = false;
  for (int second = 0; second < 600; ++second) {
    while (!ca.requests.empty()) give((first = !first) ? one : two);
    scheduler.advance(1s);
  }
  CHECK(ca.calls <= 2 + 2 * (600 / 60 + 1));
}

TEST_CASE_METHOD(ManagerFixture, "an answer that was overtaken does not bring old roots back") {
  manager->prefetch(kA);
  const auto slow = ca.take();
  const auto old = issue(kA);
  scheduler.advance(1s);
  authority = TestCa(scheduler.wall_now());  // the CA changes its root
  available(kB);
  slow.done(old);
  scheduler.run_posted();
  CHECK(must(manager->current(kA)).certificate == old);
  CHECK(must(manager->current(kA)).trust->same_roots(*authority.roots()));
  scheduler.advance(kRootRenewalInterval + kRootChangeSpread);
  CHECK(ca.requests.front().id == kA);  // it leads to the dropped root
}

TEST_CASE_METHOD(ManagerFixture, "a later request decides about the roots even if the CA's clock went back") {
  available(kA);
  scheduler.advance(1s);
  authority = TestCa(scheduler.wall_now() - 1h);
  manager->prefetch(kB);
  const auto request = ca.take();
  request.done(authority.issue(kB, kTtl, scheduler.wall_now() - 1h));
  scheduler.run_posted();
  CHECK(must(manager->current(kA)).trust->same_roots(*authority.roots()));
}

}  // namespace
}  // namespace zt::identity
