#include "base/turn_queue.h"

#include <catch2/catch.hpp>
#include <vector>

#include "base/task.h"

using namespace zt;
using namespace std::chrono_literals;

namespace {

Task<void> steps(TurnQueue& queue, int who, int count, std::vector<int>& order) {
  for (int i = 0; i < count; ++i) {
    co_await queue.turn();
    order.push_back(who);
  }
}

}  // namespace

TEST_CASE("of those that wait for their turn one goes on per turn of the loop, in order") {
  EventLoop loop;
  TurnQueue queue(loop);
  std::vector<int> order;
  TaskScope tasks(loop);
  for (int who = 0; who < 3; ++who) tasks.spawn(steps(queue, who, 2, order));
  CHECK(order.empty());
  for (size_t turns = 1; turns <= 6; ++turns) {
    loop.run_once(0ms);
    CHECK(order.size() == turns);
  }
  CHECK(order == std::vector<int>{0, 1, 2, 0, 1, 2});
}

TEST_CASE("who is gone before its turn is passed over") {
  EventLoop loop;
  TurnQueue queue(loop);
  std::vector<int> order;
  TaskScope stays(loop);
  {
    TaskScope goes(loop);
    goes.spawn(steps(queue, 1, 1, order));
    stays.spawn(steps(queue, 2, 1, order));
  }
  loop.run_once(0ms);
  CHECK(order == std::vector<int>{2});
  {
    TaskScope goes(loop);
    goes.spawn(steps(queue, 3, 1, order));
  }
  loop.run_once(0ms);
  CHECK(order == std::vector<int>{2});
}
