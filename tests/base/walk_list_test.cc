#include "base/walk_list.h"

#include <catch2/catch.hpp>
#include <memory>
#include <vector>

using namespace zt;

namespace {

struct Item final : WalkList<Item>::Element {
  explicit Item(int number) : value(number) {}
  int value;
};

struct Fixture {
  WalkList<Item> list;
  std::vector<std::unique_ptr<Item>> items;
  explicit Fixture(int count) {
    for (int i = 0; i < count; ++i) add(i);
  }
  void add(int value) { list.add(*items.emplace_back(std::make_unique<Item>(value))); }
  void remove(int value) {
    std::erase_if(items, [value](const auto& item) { return item->value == value; });
  }
};

}  // namespace

TEST_CASE("a walk visits each element once, the newest first, however small its pieces are") {
  Fixture f(10);
  WalkList<Item>::Walk walk;
  std::vector<int> seen;
  int pieces = 0;
  for (bool anew = true, done = false; !done; anew = false, ++pieces) {
    const size_t before = seen.size();
    done = walk.some(f.list, anew, 3, [&](Item& item) { seen.push_back(item.value); });
    CHECK(seen.size() - before <= 3);
  }
  CHECK(seen == std::vector<int>{9, 8, 7, 6, 5, 4, 3, 2, 1, 0});
  CHECK(pieces == 4);
}

TEST_CASE("what comes and goes between two pieces disturbs no walk") {
  Fixture f(6);
  WalkList<Item>::Walk walk;
  walk.begin(f.list);
  CHECK(walk.next()->value == 5);
  f.remove(5);  // the one it stands at
  f.remove(4);  // the next
  f.add(6);
  CHECK(walk.next()->value == 3);
  f.remove(2);
  f.remove(1);
  CHECK(walk.next()->value == 0);
  CHECK_FALSE(walk.done());
  f.remove(0);
  CHECK(walk.next() == nullptr);
  CHECK(walk.done());
}

TEST_CASE("walks that go on at the same time do not see each other") {
  Fixture f(4);
  WalkList<Item>::Walk a, b;
  a.begin(f.list);
  CHECK(a.next()->value == 3);
  b.begin(f.list);
  CHECK(f.list.front()->value == 3);
  for (int i = 3; i >= 0; --i) CHECK(b.next()->value == i);
  for (int i = 2; i >= 0; --i) CHECK(a.next()->value == i);
  CHECK(a.next() == nullptr);
  CHECK(b.next() == nullptr);
}

TEST_CASE("a list may be empty, and may go before its walks") {
  WalkList<Item>::Walk walk;
  CHECK(walk.done());
  {
    Fixture f(0);
    CHECK(f.list.front() == nullptr);
    walk.begin(f.list);
    CHECK(f.list.front() == nullptr);
    CHECK(walk.next() == nullptr);
    f.add(1);
    walk.begin(f.list);
    f.remove(1);
  }
  CHECK(walk.done());
}
