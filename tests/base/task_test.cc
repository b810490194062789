#include "base/task.h"

#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <memory>

using namespace zt;
using namespace std::chrono_literals;

namespace {
struct Flag {
  explicit Flag(bool& flag) : set(flag) {}
  ~Flag() { set = true; }
  bool& set;
};
Task<int> add(EventLoop& loop, int a, int b) {
  co_await Sleep(loop, 1ms);
  co_return a + b;
}
}  // namespace

TEST_CASE("tasks await tasks and return their values") {
  EventLoop loop;
  TaskScope scope(loop);
  int result = 0;
  scope.spawn([](EventLoop& event_loop, int& out) -> Task<void> {
    out = co_await add(event_loop, 2, 3) + co_await add(event_loop, 4, 5);
  }(loop, result));
  REQUIRE(loop.run_until([&] { return result == 14; }, 5s));
  REQUIRE(loop.run_until([&] { return scope.size() == 0; }, 5s));
}

TEST_CASE("destroying a scope unwinds what is suspended, however deep") {
  EventLoop loop;
  bool outer = false, inner = false;
  struct Bodies {
    static Task<void> deep(EventLoop& event_loop, bool& flag) {
      Flag guard(flag);
      co_await Sleep(event_loop, 1h);
    }
    static Task<void> root(EventLoop& event_loop, bool& outer_flag, bool& inner_flag) {
      Flag guard(outer_flag);
      co_await deep(event_loop, inner_flag);
    }
  };
  {
    TaskScope scope(loop);
    scope.spawn(Bodies::root(loop, outer, inner));
    loop.run_once(0ms);
    CHECK_FALSE(inner);
  }
  CHECK(inner);
  CHECK(outer);
  loop.run_once(0ms);  // nothing of it is left in the loop
}

TEST_CASE("an event wakes its waiters, and a waiter's limit passes without it") {
  EventLoop loop;
  TaskScope scope(loop);
  Event event;
  int woken = 0, timed_out = 0;
  const auto waiter = [](EventLoop& event_loop, Event& on, Clock::duration limit, int& yes, int& no) -> Task<void> {
    if (co_await on.wait(event_loop, limit)) {
      ++yes;
    } else {
      ++no;
    }
  };
  scope.spawn(waiter(loop, event, 10s, woken, timed_out));
  scope.spawn(waiter(loop, event, 10s, woken, timed_out));
  scope.spawn(waiter(loop, event, 2ms, woken, timed_out));
  REQUIRE(loop.run_until([&] { return timed_out == 1; }, 5s));
  CHECK(woken == 0);
  event.set();
  REQUIRE(loop.run_until([&] { return woken == 2; }, 5s));
  scope.spawn(waiter(loop, event, 10s, woken, timed_out));  // set already
  CHECK(woken == 3);
}

TEST_CASE("an event with many waiters wakes as many as a turn has time for, and the others in the next ones, in order") {
  EventLoop loop;
  TaskScope scope(loop);
  auto event = std::make_unique<Event>();
  std::vector<int> woken;
  std::optional<TaskScope> leaves(std::in_place, loop);
  const auto waiter = [](EventLoop& event_loop, Event& on, std::vector<int>& order, int number) -> Task<void> {
    const bool set = co_await on.wait(event_loop, 10s);
    order.push_back(set ? number : -1);
    for (const auto until = Clock::now() + EventLoop::kTurnLimit; Clock::now() < until;) {
    }
  };
  for (int i = 0; i < 3; ++i) scope.spawn(waiter(loop, *event, woken, i));
  leaves->spawn(waiter(loop, *event, woken, 3));
  scope.spawn(waiter(loop, *event, woken, 4));
  loop.post([&] {
    event->set();
    CHECK(woken.size() == 1);
    event.reset();
    leaves.reset();  // one that goes before its turn
  });
  loop.run_once(0ms);
  CHECK(woken.size() == 1);
  loop.run_once(0ms);
  CHECK(woken.size() == 2);
  REQUIRE(loop.run_until([&] { return woken.size() == 4; }, 10s));
  CHECK(woken == std::vector<int>{0, 1, 2, 4});
  REQUIRE(loop.run_until([&] { return scope.size() == 0; }, 10s));
}

TEST_CASE("tasks that are cancelled end where they wait") {
  EventLoop loop;
  TaskScope scope(loop);
  Event event;
  bool unwound = false, woken = false;
  scope.spawn([](EventLoop& event_loop, Event& on, bool& gone, bool& went_on) -> Task<void> {
    Flag guard(gone);
    co_await on.wait(event_loop, 10s);
    went_on = true;
  }(loop, event, unwound, woken));
  scope.cancel();
  CHECK(unwound);
  CHECK(scope.size() == 0);
  event.set();
  loop.run_once(0ms);
  CHECK_FALSE(woken);
}

TEST_CASE("whoever is woken may destroy the event") {
  EventLoop loop;
  TaskScope scope(loop);
  auto event = std::make_unique<Event>();
  scope.spawn([](EventLoop& event_loop, std::unique_ptr<Event>& on) -> Task<void> {
    Event& held = *on;
    co_await held.wait(event_loop, 10s);
    on.reset();
  }(loop, event));
  event->set();
  CHECK(event == nullptr);
}

TEST_CASE("a waiter that goes away is not woken") {
  EventLoop loop;
  Event event;
  int woken = 0;
  {
    TaskScope scope(loop);
    scope.spawn([](EventLoop& event_loop, Event& on, int& count) -> Task<void> {
      co_await on.wait(event_loop, 10s);
      ++count;
    }(loop, event, woken));
  }
  event.set();
  CHECK(woken == 0);
}

TEST_CASE("readiness of a descriptor is awaited with a deadline") {
  EventLoop loop;
  TaskScope scope(loop);
  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0);
  UniqueFd a(ends[0]), b(ends[1]);
  FdWaiter waiter(loop);
  REQUIRE(waiter.attach(a.get()));
  std::vector<bool> results;
  scope.spawn([](FdWaiter& fd, std::vector<bool>& out) -> Task<void> {
    out.push_back(co_await fd.wait(EPOLLIN, Clock::now() + 5ms));
    out.push_back(co_await fd.wait(EPOLLIN, Clock::now() + 10s));
  }(waiter, results));
  REQUIRE(loop.run_until([&] { return results.size() == 1; }, 5s));
  CHECK_FALSE(results[0]);
  REQUIRE(write(b.get(), "x", 1) == 1);
  REQUIRE(loop.run_until([&] { return results.size() == 2; }, 5s));
  CHECK(results[1]);
}
