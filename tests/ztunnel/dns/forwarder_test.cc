#include "ztunnel/dns/forwarder.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <set>

#include "tests/ztunnel/dns/support.h"

namespace zt::ztunnel::dns::test {
namespace {

using namespace std::chrono_literals;
using Outcome = Forwarder::Outcome;

// A name server on loopback whose answers the test gives.
class Upstream {
 public:
  Upstream() : fd_(::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  }
  [[nodiscard]] SocketAddress address() const { return local_address(fd_.get()); }
  // The next query, or nothing.
  std::optional<Bytes> receive() {
    Bytes query(4096);
    socklen_t length = sizeof from_;
    const ssize_t n = ::recvfrom(fd_.get(), query.data(), query.size(), 0, reinterpret_cast<sockaddr*>(&from_), &length);
    if (n < 0) return std::nullopt;
    query.resize(static_cast<size_t>(n));
    ports_.insert(SocketAddress::from_sockaddr(from_).port);
    return query;
  }
  void send(View response) {
    ::sendto(fd_.get(), response.data(), response.size(), 0, reinterpret_cast<sockaddr*>(&from_), sizeof(sockaddr_in));
  }
  [[nodiscard]] size_t ports() const { return ports_.size(); }

 private:
  UniqueFd fd_;
  sockaddr_storage from_{};
  std::set<uint16_t> ports_;
};

Bytes reply(Bytes query, uint16_t flags = 0x8180) {
  write16(query, 2, flags);
  return query;
}

struct Fixture {
  EventLoop loop;
  SocketOptions options;
  ForwardLimits limits{.attempt = 50ms, .total = 2000ms};
  MemoryLimit limit{1 << 20};
  MemoryAccount memory{limit};
  Counter strange;
  Forwarder forwarder{loop, options, limits, memory, strange};
  std::vector<std::pair<Outcome, Bytes>> outcomes;

  bool send(View query, std::vector<SocketAddress> upstreams, std::string key) {
    return forwarder.ask(query, std::move(upstreams), std::move(key), [this](Outcome outcome, View response, Clock::duration) {
      outcomes.emplace_back(outcome, Bytes(response.begin(), response.end()));
    });
  }
  Bytes await(Upstream& upstream) {
    std::optional<Bytes> query;
    REQUIRE(loop.run_until([&] { return (query = upstream.receive()).has_value(); }, 5s));
    return *query;
  }
  void await_outcomes(size_t count) {
    REQUIRE(loop.run_until([&] { return outcomes.size() >= count; }, 10s));
  }
};

const Bytes& query_for_www() {
  static const Bytes query = ask("www.example.com");
  return query;
}

TEST_CASE_METHOD(Fixture, "Those who ask the same at the same time share one query, and all get its answer") {
  Upstream upstream;
  CHECK_FALSE(send(query_for_www(), {upstream.address()}, "same"));
  CHECK(send(query_for_www(), {upstream.address()}, "same"));
  CHECK(send(query_for_www(), {upstream.address()}, "same"));
  const Bytes query = await(upstream);
  CHECK(View(query).subspan(2).size() == query_for_www().size() - 2);
  CHECK(std::ranges::equal(View(query).subspan(2), View(query_for_www()).subspan(2)));
  upstream.send(reply(query));
  await_outcomes(3);
  for (const auto& [outcome, response] : outcomes) {
    CHECK(outcome == Outcome::kAnswered);
    CHECK(response == reply(query));
  }
  CHECK_FALSE(upstream.receive());
  CHECK(forwarder.exchanges() == 0);
}

TEST_CASE_METHOD(Fixture, "Each query has a port and an id of its own, and only an answer to it counts") {
  Upstream upstream;
  std::set<uint16_t> ids;
  for (int i = 0; i < 20; ++i) {
    send(query_for_www(), {upstream.address()}, "n" + std::to_string(i));
    const Bytes query = await(upstream);
    ids.insert(read16(query, 0));
    Bytes forged = reply(query);
    write16(forged, 0, static_cast<uint16_t>(read16(query, 0) + 1));
    upstream.send(forged);
    Bytes other = reply(ask("www.example.org"));
    write16(other, 0, read16(query, 0));
    upstream.send(other);
    upstream.send(query);  // no response
    upstream.send(reply(query));
    await_outcomes(static_cast<size_t>(i) + 1);
    CHECK(outcomes.back().first == Outcome::kAnswered);
    CHECK(outcomes.back().second == reply(query));
  }
  CHECK(ids.size() > 15);
  CHECK(upstream.ports() > 15);
  CHECK(strange.value() == 60);
}

TEST_CASE_METHOD(Fixture, "Where somebody guesses at answers the query is asked anew, from another port") {
  Upstream upstream;
  send(query_for_www(), {upstream.address()}, "k");
  Bytes query = await(upstream);
  for (int i = 1; i < 60; ++i) {
    Bytes forged = reply(query);
    write16(forged, 0, static_cast<uint16_t>(read16(query, 0) + i));
    upstream.send(forged);
  }
  query = await(upstream);
  upstream.send(reply(query));
  await_outcomes(1);
  CHECK(outcomes[0].first == Outcome::kAnswered);
}

TEST_CASE_METHOD(Fixture, "A silent upstream gives way to the next, and may still answer") {
  Upstream silent, second;
  send(query_for_www(), {silent.address(), second.address()}, "k");
  const Bytes first = await(silent);
  const Bytes query = await(second);
  silent.send(reply(first, 0x8183));
  await_outcomes(1);
  CHECK(outcomes[0].second == reply(first, 0x8183));
}

TEST_CASE_METHOD(Fixture, "What comes too late for one query is not taken for the next, though its socket is") {
  Upstream slow, second;
  send(query_for_www(), {slow.address(), second.address()}, "a");
  const Bytes late = await(slow);
  second.send(reply(await(second)));
  await_outcomes(1);
  slow.send(reply(late));
  for (int i = 0; i < 5; ++i) {
    send(query_for_www(), {slow.address()}, "b" + std::to_string(i));
    const Bytes query = await(slow);
    slow.send(reply(query));
    await_outcomes(2 + static_cast<size_t>(i));
    CHECK(outcomes.back().second == reply(query));
  }
  CHECK(slow.ports() == 6);
  CHECK(strange.value() == 0);
}

TEST_CASE_METHOD(Fixture, "An upstream that refuses gives way to the next at once, and is believed if there is none") {
  Upstream unwilling, second;
  send(query_for_www(), {unwilling.address(), second.address()}, "k");
  unwilling.send(reply(await(unwilling), 0x8182));
  second.send(reply(await(second)));
  await_outcomes(1);
  CHECK((read16(outcomes[0].second, 2) & flag::kRcode) == 0);
  send(query_for_www(), {unwilling.address()}, "k");
  unwilling.send(reply(await(unwilling), 0x8182));
  await_outcomes(2);
  CHECK(outcomes[1].first == Outcome::kAnswered);
  CHECK((read16(outcomes[1].second, 2) & flag::kRcode) == 2);
}

TEST_CASE_METHOD(Fixture, "Where nobody listens the client is told at once, where nobody answers in time") {
  SocketAddress nobody;
  {
    const Upstream gone;
    nobody = gone.address();
  }
  const auto began = Clock::now();
  send(query_for_www(), {nobody}, "a");
  send(query_for_www(), {}, "b");
  await_outcomes(2);
  CHECK(Clock::now() - began < limits.total);
  CHECK(outcomes[0].first == Outcome::kUnreachable);
  CHECK(outcomes[1].first == Outcome::kUnreachable);
  Upstream silent;
  send(query_for_www(), {silent.address()}, "c");
  await_outcomes(3);
  CHECK(outcomes[2].first == Outcome::kTimedOut);
  await(silent);
  await(silent);
  CHECK_FALSE(silent.receive());  // no more than the rounds
}

TEST_CASE_METHOD(Fixture, "What may not be done twice is sent once") {
  Upstream silent, second;
  const Bytes update = ask("example.com", {.type = ns_t_soa, .flags = 0x2800});
  send(update, {silent.address(), second.address()}, "");
  await(silent);
  await_outcomes(1);
  CHECK(outcomes[0].first == Outcome::kTimedOut);
  CHECK_FALSE(silent.receive());
  CHECK_FALSE(second.receive());
}

TEST_CASE_METHOD(Fixture, "Queries under way are limited, and so are those who wait for one") {
  limits.exchanges = 3;
  limits.askers = 2;
  Upstream silent;
  for (const char* key : {"a", "b", "c", "d"}) send(query_for_www(), {silent.address()}, key);
  await_outcomes(1);
  CHECK(outcomes[0].first == Outcome::kBusy);
  CHECK(forwarder.exchanges() == 3);
  CHECK(send(query_for_www(), {silent.address()}, "a"));
  CHECK_FALSE(send(query_for_www(), {silent.address()}, "a"));
  await_outcomes(2);
  CHECK(outcomes[1].first == Outcome::kBusy);
  await_outcomes(6);
}

TEST_CASE_METHOD(Fixture, "Who waits for an answer is charged for it, and told at once when the memory is needed elsewhere") {
  Upstream silent;
  send(query_for_www(), {silent.address()}, "a");
  const size_t one = memory.used();
  CHECK(one > query_for_www().size());
  send(query_for_www(), {silent.address()}, "a");
  CHECK(memory.used() > one);
  limit.set(64 * 1024);
  for (int i = 0; i < 100; ++i) send(query_for_www(), {silent.address()}, "n" + std::to_string(i));
  CHECK(memory.used() <= 64 * 1024);
  CHECK(forwarder.exchanges() < 100);
  await_outcomes(102);
  CHECK(std::ranges::count(outcomes, Outcome::kBusy, &std::pair<Outcome, Bytes>::first) > 50);
  CHECK(memory.used() == 0);
}

TEST_CASE("A forwarder that ends tells nobody any more") {
  EventLoop loop;
  const SocketOptions options;
  const ForwardLimits limits;
  MemoryLimit limit(1 << 20);
  MemoryAccount memory(limit);
  Counter strange;
  Upstream upstream;
  bool told = false;
  {
    Forwarder forwarder(loop, options, limits, memory, strange);
    forwarder.ask(query_for_www(), {upstream.address()}, "k", [&](Outcome, View, Clock::duration) { told = true; });
    loop.run_until([&] { return upstream.receive().has_value(); }, 5s);
  }
  loop.run_once(10ms);
  CHECK_FALSE(told);
}

}  // namespace
}  // namespace zt::ztunnel::dns::test
