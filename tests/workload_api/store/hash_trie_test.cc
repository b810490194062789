#include "workload_api/store/hash_trie.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <vector>

namespace zt::workload_api {
namespace {

// Entries that count themselves, with a hash as bad as `kHashBits` allows.
template <uint64_t kMask>
struct NumberRules {
  struct Entry {
    uint64_t key = 0;
    std::shared_ptr<int> value;
  };
  static uint64_t scatter(uint64_t key) { return (key * 0x9e3779b97f4a7c15) & kMask; }
  static uint64_t hash(const Entry& entry) { return scatter(entry.key); }
  static uint64_t hash(uint64_t key) { return scatter(key); }
  static uint64_t key(const Entry& entry) { return entry.key; }
  static bool equal(const Entry& entry, uint64_t key) { return entry.key == key; }
};

// Random changes against std::map, with copies of the table kept and checked at the end to be what they were.
template <uint64_t kMask>
void compare_with_map(uint64_t keys, int steps) {
  using Rules = NumberRules<kMask>;
  using Model = std::map<uint64_t, std::shared_ptr<int>>;
  std::mt19937_64 random(keys);
  HashTrie<Rules> trie;
  Model model;
  std::vector<std::pair<HashTrie<Rules>, Model>> kept;

  const auto check = [](const HashTrie<Rules>& table, const Model& expected) {
    REQUIRE(table.size() == expected.size());
    for (const auto& [key, value] : expected) {
      const auto* found = table.find(key);
      REQUIRE(found != nullptr);
      REQUIRE(found->value == value);
    }
    size_t visited = 0;
    table.for_each([&](const auto& entry) {
      ++visited;
      REQUIRE(expected.at(entry.key) == entry.value);
    });
    REQUIRE(visited == expected.size());
  };

  for (int step = 0; step < steps; ++step) {
    const uint64_t key = random() % keys;
    if (random() % 40 == 0) {
      std::map<uint64_t, std::shared_ptr<int>> many;
      for (uint64_t i = random() % (keys / 4); i > 0; --i) many[random() % keys] = std::make_shared<int>(step);
      std::vector<typename HashTrie<Rules>::Item> items;
      for (const auto& [added, value] : many) items.push_back({Rules::hash(added), {added, value}});
      std::ranges::sort(items, {}, &HashTrie<Rules>::Item::hash);
      trie.put_all(items);
      for (const auto& [added, value] : many) model[added] = value;
    } else if (random() % 5 == 0) {
      const auto value = std::make_shared<int>(step);
      REQUIRE(trie.edit(key, [&](auto& entry) { entry.value = value; }) == model.contains(key));
      if (model.contains(key)) model[key] = value;
    } else if (random() % 3 == 0) {
      REQUIRE(trie.erase(key) == (model.erase(key) == 1));
    } else {
      const auto value = std::make_shared<int>(step);
      trie.put(key, {key, value});
      model[key] = value;
    }
    REQUIRE((trie.find(key) != nullptr) == model.contains(key));
    if (step % (steps / 10) == 0) kept.emplace_back(trie, model);
  }
  check(trie, model);
  for (const auto& [table, expected] : kept) check(table, expected);

  // Nothing is held twice or for ever: with all tables gone only the model has the values.
  kept.clear();
  trie = {};
  for (const auto& [key, value] : model) REQUIRE(value.use_count() == 1);
}

}  // namespace

TEST_CASE("A hash trie holds what a map holds, and old copies stay what they were") {
  compare_with_map<~uint64_t{0}>(2000, 20000);
}
TEST_CASE("A hash trie survives hashes that are equal in nearly every bit") { compare_with_map<uint64_t{3} << 5>(200, 5000); }
TEST_CASE("A hash trie survives hashes that are all equal") { compare_with_map<0>(50, 2000); }

TEST_CASE("Emptying a hash trie leaves nothing") {
  HashTrie<NumberRules<~uint64_t{0}>> trie;
  for (uint64_t key = 0; key < 1000; ++key) trie.put(key, {key, nullptr});
  for (uint64_t key = 0; key < 1000; ++key) REQUIRE(trie.erase(key));
  REQUIRE(trie.empty());
  REQUIRE_FALSE(trie.erase(uint64_t{7}));
  trie.for_each([](const auto&) { FAIL("an entry is left"); });
}

}  // namespace zt::workload_api
