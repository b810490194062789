#include "ztunnel/proxy/host_names.h"

#include <catch2/catch.hpp>
#include <map>

using namespace zt;
using namespace zt::ztunnel;
using namespace std::chrono_literals;

namespace {

Task<void> ask(HostNames& names, std::string host, dns::NamedBy by, dns::HostAnswerPtr& answer) {
  answer = co_await names.find(std::move(host), 20s, by);
}

// A resolver that answers at once, each name with the same address.
struct Fixture {
  EventLoop loop;
  std::map<std::string, size_t> asked;
  HostNames names{loop, [this](const std::string& host, dns::NamedBy, const dns::HostDone& done) {
                    ++asked[host];
                    done(std::make_shared<const dns::HostAnswer>(dns::HostAnswer{
                        .addresses = {*IpAddress::parse("192.0.2.1")}, .error = {}, .fresh_until = loop.now() + ttl}));
                  }};
  Clock::duration ttl = 1h;
  TaskScope tasks{loop};

  bool find(const std::string& host, dns::NamedBy by) {
    dns::HostAnswerPtr answer;
    tasks.spawn(ask(names, host, by, answer));
    return loop.run_until([&] { return answer != nullptr; }, 20s) && answer->addresses.size() == 1;
  }
};

}  // namespace

TEST_CASE("however many names a program asks for, those of the mesh stay known") {
  Fixture f;
  REQUIRE(f.find("db.example", dns::NamedBy::kMesh));
  for (size_t i = 0; i < HostNames::kMostNames + 10; ++i)
    REQUIRE(f.find("n" + std::to_string(i) + ".example", dns::NamedBy::kProgram));
  REQUIRE(f.find("db.example", dns::NamedBy::kMesh));
  CHECK(f.asked["db.example"] == 1);
}

TEST_CASE("of too many names the one that would have to be asked for first is forgotten, and no other") {
  Fixture f;
  const auto by = GENERATE(dns::NamedBy::kMesh, dns::NamedBy::kProgram);
  f.ttl = 30min;
  REQUIRE(f.find("first.example", by));
  f.ttl = 1h;
  for (size_t i = 0; i < HostNames::kMostNames; ++i) REQUIRE(f.find("n" + std::to_string(i) + ".example", by));
  REQUIRE(f.find("n0.example", by));
  CHECK(f.asked["n0.example"] == 1);
  REQUIRE(f.find("first.example", by));
  CHECK(f.asked["first.example"] == 2);
}
