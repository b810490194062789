#include "ztunnel/admin/readiness.h"

#include <catch2/catch.hpp>
#include <thread>
#include <vector>

#include "base/log.h"

using zt::ztunnel::Readiness;

TEST_CASE("a proxy is ready when no task is held, and says what it waits for in order of names") {
  Readiness readiness;
  CHECK(readiness.ready());
  auto manager = readiness.hold("workload proxy manager");
  auto state = readiness.hold("state manager");
  CHECK_FALSE(readiness.ready());
  CHECK(readiness.text() == "not ready, pending: state manager, workload proxy manager\n");
  state.done();
  state.done();
  CHECK(readiness.text() == "not ready, pending: workload proxy manager\n");
  manager = {};
  CHECK(readiness.ready());
  CHECK(readiness.text() == "ready\n");
}

TEST_CASE("a task may be held again, and by several") {
  Readiness readiness;
  auto first = readiness.hold("proxy");
  auto second = readiness.hold("proxy");
  first.done();
  CHECK_FALSE(readiness.ready());
  second.done();
  CHECK(readiness.ready());
  const auto again = readiness.hold("proxy");
  CHECK_FALSE(readiness.ready());
}

TEST_CASE("whoever gives up makes nothing ready") {
  Readiness readiness;
  {
    const auto given_up = readiness.hold("proxy");
  }
  CHECK_FALSE(readiness.ready());
}

TEST_CASE("moving a hold keeps the task held once") {
  Readiness readiness;
  auto first = readiness.hold("dns proxy");
  auto second = std::move(first);
  CHECK_FALSE(first);
  first.done();
  CHECK_FALSE(readiness.ready());
  second.done();
  CHECK(readiness.ready());
}

TEST_CASE("tasks are held and done by many threads") {
  REQUIRE(zt::log::append_filter("readiness=off"));
  Readiness readiness;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        auto hold = readiness.hold("proxy");
        (void)readiness.text();
        hold.done();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  zt::log::reset_filter();
  CHECK(readiness.ready());
}
