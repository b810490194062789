#include "base/event_loop.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <thread>

using namespace zt;
using namespace std::chrono_literals;

namespace {

struct Recorder final : Watcher {
  uint32_t events = 0;
  int calls = 0;
  std::function<void()> then;
  void on_ready(uint32_t ready) noexcept override {
    events |= ready;
    ++calls;
    if (then) then();
  }
};

std::pair<UniqueFd, UniqueFd> socket_pair() {
  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

}  // namespace

TEST_CASE("timers fire once, in the order of their times, and not before them") {
  EventLoop loop;
  std::vector<int> fired;
  Timer late(loop), early(loop), cancelled(loop);
  const auto begun = Clock::now();
  late.start_after(20ms, [&] { fired.push_back(2); });
  early.start_after(5ms, [&] { fired.push_back(1); });
  cancelled.start_after(1ms, [&] { fired.push_back(0); });
  cancelled.cancel();
  REQUIRE(loop.run_until([&] { return fired.size() == 2; }, 5s));
  CHECK(fired == std::vector<int>{1, 2});
  CHECK(Clock::now() - begun >= 20ms);
  CHECK_FALSE(late.armed());
}

TEST_CASE("a timer may restart or destroy itself from its own function") {
  EventLoop loop;
  int count = 0;
  auto timer = std::make_unique<Timer>(loop);
  std::function<void()> again = [&] {
    if (++count < 3) {
      timer->start_after(1ms, again);
    } else {
      timer.reset();
    }
  };
  timer->start_after(1ms, again);
  REQUIRE(loop.run_until([&] { return timer == nullptr; }, 5s));
  CHECK(count == 3);
}

TEST_CASE("many timers keep their order when some are cancelled in between") {
  EventLoop loop;
  std::vector<std::unique_ptr<Timer>> timers;
  std::vector<int> fired;
  const auto begun = Clock::now();
  for (int i = 0; i < 200; ++i) {
    timers.push_back(std::make_unique<Timer>(loop));
    timers.back()->start(begun + std::chrono::microseconds((i * 7919) % 200 * 50),
                         [&fired, i] { fired.push_back((i * 7919) % 200); });
  }
  for (int i = 0; i < 200; i += 3) timers[static_cast<size_t>(i)]->cancel();
  const size_t expected = 200 - 67;
  REQUIRE(loop.run_until([&] { return fired.size() == expected; }, 5s));
  CHECK(std::is_sorted(fired.begin(), fired.end()));
}

TEST_CASE("work posted from other threads runs on the loop's thread, in order per thread") {
  EventLoop loop;
  std::vector<int> seen;
  std::thread poster([&] {
    for (int i = 0; i < 1000; ++i) loop.post([&, i] { seen.push_back(i); });
  });
  REQUIRE(loop.run_until([&] { return seen.size() == 1000; }, 10s));
  poster.join();
  CHECK(std::is_sorted(seen.begin(), seen.end()));
  CHECK(loop.in_loop_thread());
}

TEST_CASE("what was posted before a socket became ready runs before the socket is served") {
  EventLoop loop;
  const auto [near, far] = socket_pair();
  Recorder recorder;
  std::string order;
  recorder.then = [&] { order += "event "; };
  REQUIRE(loop.watch(near.get(), recorder));
  loop.run_once(0ms);  // it is writable
  order.clear();
  loop.post([&] { order += "posted "; });
  REQUIRE(::write(far.get(), "x", 1) == 1);
  loop.run_once(1s);
  CHECK(order == "posted event ");
}

TEST_CASE("stop ends run() from another thread") {
  EventLoop loop;
  std::thread runner([&] { loop.run(); });
  loop.stop();
  runner.join();
  SUCCEED();
}

TEST_CASE("readiness is an edge: told again only when more comes") {
  EventLoop loop;
  auto [a, b] = socket_pair();
  Recorder recorder;
  REQUIRE(loop.watch(a.get(), recorder));
  loop.run_once(10ms);  // writable
  recorder.calls = 0;
  REQUIRE(write(b.get(), "x", 1) == 1);
  loop.run_once(1s);
  CHECK(recorder.calls == 1);
  loop.run_once(10ms);
  CHECK(recorder.calls == 1);
  REQUIRE(write(b.get(), "y", 1) == 1);
  loop.run_once(1s);
  CHECK(recorder.calls == 2);
  loop.unwatch(a.get(), recorder);
}

TEST_CASE("a watcher that is removed during the turn hears nothing more of that turn") {
  EventLoop loop;
  auto [a, b] = socket_pair();
  auto [c, d] = socket_pair();
  Recorder first, second;
  REQUIRE(loop.watch(a.get(), first));
  REQUIRE(loop.watch(c.get(), second));
  loop.run_once(10ms);
  first.calls = second.calls = 0;
  // Whoever comes first removes the other.
  first.then = [&] { loop.unwatch(c.get(), second); };
  second.then = [&] { loop.unwatch(a.get(), first); };
  REQUIRE(write(b.get(), "x", 1) == 1);
  REQUIRE(write(d.get(), "x", 1) == 1);
  loop.run_once(1s);
  CHECK(first.calls + second.calls == 1);
}

TEST_CASE("work put off to the end of the turn runs once however often it is asked for") {
  struct Work final : Deferred {
    int runs = 0;
    void on_turn_end() noexcept override { ++runs; }
  };
  EventLoop loop;
  Work work, dropped;
  loop.defer(work);
  loop.defer(work);
  loop.defer(dropped);
  loop.cancel_deferred(dropped);
  loop.run_once(0ms);
  CHECK(work.runs == 1);
  CHECK(dropped.runs == 0);
}

namespace {

void work_for(Clock::duration time) {
  for (const auto until = Clock::now() + time; Clock::now() < until;) {
  }
}

struct Busy final : Deferred {
  int runs = 0;
  std::function<void()> then;
  void on_turn_end() noexcept override {
    ++runs;
    if (then) then();
  }
};

}  // namespace

TEST_CASE("a turn ends at its limit and what it left comes before what is new") {
  EventLoop loop;
  std::vector<int> order;
  std::vector<std::pair<UniqueFd, UniqueFd>> pairs;
  std::vector<std::unique_ptr<Recorder>> watchers;
  for (int i = 0; i < 6; ++i) {
    pairs.push_back(socket_pair());
    watchers.push_back(std::make_unique<Recorder>());
  }
  for (int i = 0; i < 6; ++i) REQUIRE(loop.watch(pairs[i].first.get(), *watchers[i]));
  for (int i = 0; i < 6; ++i) {
    watchers[i]->then = [&, i] {
      order.push_back(i);
      work_for(EventLoop::kTurnLimit);
    };
  }
  bool timer_fired = false;
  int events_before_timer = 0;
  Timer timer(loop);
  timer.start_after(0ms, [&] {
    timer_fired = true;
    events_before_timer = static_cast<int>(order.size());
  });
  loop.run_once(0ms);
  CHECK(order.size() == 1);
  CHECK(timer_fired);
  CHECK(events_before_timer == 1);
  // A new event of the first one waits for those that were ready before it.
  REQUIRE(write(pairs[0].second.get(), "x", 1) == 1);
  for (int i = 0; i < 7; ++i) loop.run_once(0ms);
  REQUIRE(order.size() >= 7);
  std::vector<int> first(order.begin(), order.begin() + 6);
  std::sort(first.begin(), first.end());
  CHECK(first == std::vector<int>{0, 1, 2, 3, 4, 5});
  CHECK(loop.longest_turn() >= EventLoop::kTurnLimit);
  for (int i = 0; i < 6; ++i) loop.unwatch(pairs[i].first.get(), *watchers[i]);
}

TEST_CASE("a watcher that is removed hears nothing of what an earlier turn left") {
  EventLoop loop;
  auto [a, a_peer] = socket_pair();
  auto [b, b_peer] = socket_pair();
  Recorder first, second;
  REQUIRE(loop.watch(a.get(), first));
  REQUIRE(loop.watch(b.get(), second));
  Recorder *told = nullptr, *left = nullptr;
  first.then = [&] {
    told = &first, left = &second;
    work_for(EventLoop::kTurnLimit);
  };
  second.then = [&] {
    told = &second, left = &first;
    work_for(EventLoop::kTurnLimit);
  };
  loop.run_once(0ms);
  REQUIRE(told != nullptr);
  CHECK(left->calls == 0);
  loop.unwatch(left == &first ? a.get() : b.get(), *left);
  loop.run_once(0ms);
  CHECK(left->calls == 0);
}

TEST_CASE("posted and end-of-turn work that does not fit into a turn goes on in the next, in order") {
  EventLoop loop;
  std::vector<int> order;
  for (int i = 0; i < 4; ++i) {
    loop.post([&, i] {
      order.push_back(i);
      work_for(EventLoop::kTurnLimit);
    });
  }
  Busy one, two;
  one.then = [&] { work_for(EventLoop::kTurnLimit); };
  loop.defer(one);
  loop.defer(two);
  loop.run_once(0ms);
  CHECK(order.size() == 1);
  CHECK(one.runs + two.runs <= 1);
  REQUIRE(loop.run_until([&] { return order.size() == 4 && two.runs == 1; }, 10s));
  CHECK(order == std::vector<int>{0, 1, 2, 3});
  CHECK(one.runs == 1);
}

TEST_CASE("timers that are due together and do not fit into a turn go on in the next, in order") {
  EventLoop loop;
  std::vector<int> order;
  std::vector<std::unique_ptr<Timer>> timers;
  const auto due = Clock::now();
  for (int i = 0; i < 4; ++i) {
    timers.push_back(std::make_unique<Timer>(loop));
    timers.back()->start(due + std::chrono::nanoseconds(i), [&, i] {
      order.push_back(i);
      work_for(EventLoop::kTurnLimit);
    });
  }
  loop.run_once(0ms);
  CHECK(order.size() == 1);
  loop.run_once(0ms);
  CHECK(order.size() == 2);
  REQUIRE(loop.run_until([&] { return order.size() == 4; }, 10s));
  CHECK(order == std::vector<int>{0, 1, 2, 3});
}

TEST_CASE("the more are ready the less each may do in a turn") {
  EventLoop loop;
  std::vector<std::unique_ptr<Busy>> work;
  std::vector<size_t> shares;
  const auto run_with = [&](size_t count) {
    shares.clear();
    work.clear();
    for (size_t i = 0; i < count; ++i) {
      work.push_back(std::make_unique<Busy>());
      work.back()->then = [&] { shares.push_back(loop.share(1 << 20, 16 << 10)); };
      loop.defer(*work.back());
    }
    REQUIRE(loop.run_until([&] { return shares.size() == count; }, 10s));
  };
  run_with(1);
  CHECK(shares.back() == 1 << 20);
  run_with(32);
  CHECK(shares.front() == 1 << 20);
  run_with(128);
  CHECK(shares.front() == (1 << 20) / 4);
  run_with(10'000);
  CHECK(shares.front() == 16 << 10);
}
