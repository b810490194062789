#include <catch2/catch.hpp>

#include <thread>
#include <vector>

#include "workload_api/model/port_map.h"
#include "workload_api/model/str.h"
#include "workload_api/store/interner.h"

namespace zt::workload_api {

TEST_CASE("Texts compare bytewise and the empty one owns nothing") {
  const Str a = "shop", b = std::string("shop"), other = "Shop", empty = "";
  CHECK(a == b);
  CHECK(a != other);
  CHECK(a == "shop");
  CHECK(other < a);
  CHECK(empty.empty());
  CHECK(empty == Str());
  CHECK(Str(std::string_view("a\0b", 3)).size() == 3);
  CHECK(std::hash<Str>{}(a) == std::hash<Str>{}(b));
}

TEST_CASE("Interned texts share one block, and those nobody holds are given back under churn") {
  Interner interner;
  const Str kept = interner.make("kept");
  Str same = "kept";
  interner.intern(same);
  CHECK(same.view().data() == kept.view().data());

  for (int i = 0; i < 100'000; ++i) (void)interner.make("passing-" + std::to_string(i));
  CHECK(interner.capacity() <= 128);
  CHECK(interner.make("kept").view().data() == kept.view().data());

  std::vector<Str> many;
  for (int i = 0; i < 10'000; ++i) many.push_back(interner.make("many-" + std::to_string(i)));
  CHECK(interner.size() >= 10'000);
  many.clear();
  interner.sweep();
  CHECK(interner.size() == 1);
  CHECK(interner.capacity() <= 128);
}

TEST_CASE("Texts may be copied and dropped on several threads at once") {
  Interner interner;
  std::vector<Str> texts;
  for (int i = 0; i < 100; ++i) texts.push_back(interner.make("text-" + std::to_string(i)));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([texts] {
      for (int round = 0; round < 200; ++round) {
        const std::vector<Str> copies = texts;
        if (copies[static_cast<size_t>(round) % 100].empty()) std::abort();
      }
    });
  texts.clear();
  for (int i = 0; i < 1000; ++i) (void)interner.make("other-" + std::to_string(i));  // sweeps meanwhile
  for (auto& thread : threads) thread.join();
  interner.sweep();
  CHECK(interner.size() == 0);
}

TEST_CASE("A port map finds service ports, and the later of two counts") {
  const PortMap ports{{443, 8443}, {80, 8080}, {80, 9090}, {22, 0}};
  CHECK(ports.size() == 3);
  CHECK(ports.find(80) == 9090);
  CHECK(ports.find(443) == 8443);
  CHECK(ports.find(22) == 0);
  CHECK_FALSE(ports.find(81));
  CHECK(ports.leads_to(8443));
  CHECK_FALSE(ports.leads_to(8080));
  CHECK(ports == PortMap{{22, 0}, {80, 9090}, {443, 8443}});
  CHECK(PortMap().empty());
  CHECK_FALSE(PortMap().find(0));
}

}  // namespace zt::workload_api
