#include "base/buffer_pool.h"

#include <catch2/catch.hpp>

using namespace zt;
using namespace std::chrono_literals;

TEST_CASE("a lent buffer comes back and is lent again") {
  EventLoop loop;
  BufferPool pool(loop, 1 << 20, 2);
  uint8_t* first = nullptr;
  {
    auto lease = pool.borrow();
    first = lease.data();
    first[(1 << 20) - 1] = 1;
    CHECK(pool.lent() == 1);
  }
  CHECK(pool.lent() == 0);
  auto again = pool.borrow();
  CHECK(again.data() == first);
  auto moved = std::move(again);
  CHECK_FALSE(again);
  moved = pool.borrow();
  CHECK(pool.lent() == 1);
}

TEST_CASE("buffers that nobody needs go back to the system") {
  EventLoop loop;
  BufferPool pool(loop, 1 << 20, 4);
  {
    auto a = pool.borrow(), b = pool.borrow();
  }
  CHECK(pool.spare() == 2);
  CHECK(loop.run_until([&] { return pool.spare() == 0; }, 10s));
}
