#include "base/event_loop.h"

#include <sys/socket.h>

#include <catch2/catch.hpp>
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
