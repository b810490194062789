#include "ztunnel/dns/cache.h"

#include <chrono>

#include "tests/ztunnel/dns/support.h"

namespace zt::ztunnel::dns::test {
namespace {

using namespace std::chrono_literals;

const SocketAddress kServer{*IpAddress::parse("10.96.0.10"), 53};
constexpr std::string_view kA77 = "c00c000100010000004d00045db8d822";  // A, TTL 77

Bytes respond(View query, std::string_view records = kA77) {
  Bytes response(query.begin(), query.end());
  write16(response, 2, 0x8180);
  write16(response, 6, 1);
  const Bytes rest = unhex(records);
  response.insert(response.end(), rest.begin(), rest.end());
  return response;
}

struct Fixture {
  MemoryLimit limit{1 << 20};
  MemoryAccount memory{limit};
  MemoryAccount pod{memory, "shop/client/dns"};
  CacheAccount account{64 * 1024};
  PodCache cache{account, pod};
  Clock::time_point now = Clock::now();

  void keep(View message, const SocketAddress& server = kServer) {
    cache.put(exchange_key(server, Query(message)), respond(message), now);
  }
  std::string find(View message, const SocketAddress& server = kServer) {
    const Query query(message);
    Bytes out;
    return cache.find(exchange_key(server, query), query, now, out) ? hex(out) : "";
  }
};

TEST_CASE_METHOD(Fixture, "An answer is kept for as long as it says, with the id and the letters of whoever asks") {
  keep(ask("www.example.com"));
  now += 7s;
  const Bytes other = ask("WWW.example.COM", {.id = 0x5678});
  Bytes expected = respond(other);
  write16(expected, expected.size() - 8, 70);
  CHECK(find(other) == hex(expected));
  now += 69s;
  CHECK(find(other) != "");
  now += 1s;
  CHECK(find(other) == "");
  CHECK(cache.size() == 0);
}

TEST_CASE_METHOD(Fixture, "Another question, flag, option or name server has another answer") {
  keep(ask("www.example.com"));
  CHECK(find(ask("www.example.com")) != "");
  CHECK(find(ask("www.example.org")) == "");
  CHECK(find(ask("www.example.com", {.type = ns_t_aaaa})) == "");
  CHECK(find(ask("www.example.com", {.flags = 0x0110})) == "");
  CHECK(find(ask("www.example.com", {.edns = 1232})) == "");
  CHECK(find(ask("www.example.com"), {*IpAddress::parse("10.96.0.11"), 53}) == "");
  CHECK(find(ask("www.example.com"), {kServer.ip, 54}) == "");
}

TEST_CASE_METHOD(Fixture, "What one pod was told is not told to another") {
  keep(ask("www.example.com"));
  PodCache other(account, pod);
  const Bytes message = ask("www.example.com");
  Bytes out;
  CHECK_FALSE(other.find(exchange_key(kServer, Query(message)), Query(message), now, out));
}

TEST_CASE_METHOD(Fixture, "The caches of a worker stay within their account, at the cost of the pod that holds the most") {
  PodCache modest(account, pod);
  const Bytes kept = ask("kept.example.com");
  modest.put(exchange_key(kServer, Query(kept)), respond(kept), now);
  for (int i = 0; i < 1000; ++i) {
    keep(ask("n" + std::to_string(i) + ".example.com"));
    REQUIRE(account.used() <= 64 * 1024);
    REQUIRE(account.used() == cache.bytes() + modest.bytes());
  }
  CHECK(cache.size() > 50);
  CHECK(find(ask("n999.example.com")) != "");
  CHECK(find(ask("n0.example.com")) == "");
  CHECK(modest.size() == 1);
}

TEST_CASE("What a pod held is given back when it goes") {
  MemoryLimit limit(1 << 20);
  MemoryAccount pod(limit);
  CacheAccount account(1 << 20);
  {
    PodCache cache(account, pod);
    const Bytes message = ask("www.example.com");
    cache.put(exchange_key(kServer, Query(message)), respond(message), Clock::now());
    CHECK(account.used() > 0);
    CHECK(pod.used() == account.used());
  }
  CHECK(account.used() == 0);
  CHECK(pod.used() == 0);
}

TEST_CASE_METHOD(Fixture, "A cache is charged to its pod, and gives up what is oldest when others need the memory") {
  limit.set(16 * 1024);
  for (int i = 0; i < 1000; ++i) {
    keep(ask("n" + std::to_string(i) + ".example.com"));
    REQUIRE(pod.used() == cache.bytes());
    REQUIRE(cache.bytes() <= 16 * 1024);
  }
  CHECK(find(ask("n0.example.com")) == "");
  CHECK(cache.size() > 5);
  const auto newest = cache.size();
  // Somebody else in another pod holds less than this one.
  struct Other final : MemoryAccount::Claim {
    using Claim::Claim;
    void revoke() noexcept override { release(); }
  };
  MemoryAccount neighbour(memory, "shop/web");
  Other other(neighbour);
  CHECK(neighbour.update(other, 8 * 1024, true));
  CHECK(other.bytes() == 8 * 1024);
  CHECK(cache.size() < newest);
  CHECK(pod.used() == cache.bytes());
}

}  // namespace
}  // namespace zt::ztunnel::dns::test
