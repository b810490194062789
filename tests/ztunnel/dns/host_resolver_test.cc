#include "ztunnel/dns/host_resolver.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <map>

#include "tests/ztunnel/dns/support.h"
#include "ztunnel/dns/sockets.h"

namespace zt::ztunnel::dns::test {
namespace {

using namespace std::chrono_literals;

// A name server on loopback, on the loop of the test.
class NameServer final : Watcher {
 public:
  explicit NameServer(EventLoop& loop) : loop_(loop), fd_(::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(loop.watch(fd_.get(), *this));
  }
  ~NameServer() { loop_.unwatch(fd_.get(), *this); }
  [[nodiscard]] SocketAddress address() const { return local_address(fd_.get()); }

  std::vector<std::string> v4, v6;  // addresses of every name; none: there is no such name
  uint32_t ttl = 60;
  bool silent = false;
  uint8_t rcode = 0;
  size_t queries = 0;

 private:
  void on_ready(uint32_t) noexcept override {
    Bytes query(4096);
    sockaddr_storage from{};
    socklen_t length = sizeof from;
    for (;;) {
      query.resize(4096);
      const ssize_t n = ::recvfrom(fd_.get(), query.data(), query.size(), 0, reinterpret_cast<sockaddr*>(&from), &length);
      if (n < 0) return;
      query.resize(static_cast<size_t>(n));
      ++queries;
      if (silent) continue;
      const Bytes answer = answer_to(query);
      ::sendto(fd_.get(), answer.data(), answer.size(), 0, reinterpret_cast<const sockaddr*>(&from), length);
    }
  }
  [[nodiscard]] Bytes answer_to(const Bytes& query) const {
    size_t end = 12;
    while (query[end] != 0) end += query[end] + 1u;
    const bool a = query[end + 2] == ns_t_a;
    Bytes answer(query.begin(), query.begin() + static_cast<ptrdiff_t>(end) + 5);
    const auto& ips = a ? v4 : v6;
    answer[2] = 0x81;
    answer[3] = static_cast<uint8_t>(0x80 | (v4.empty() && v6.empty() ? 3 : rcode));
    answer[7] = static_cast<uint8_t>(ips.size());
    answer[9] = answer[11] = 0;
    for (const std::string& ip : ips) {
      const auto address = *IpAddress::parse(ip);
      const auto bytes = address.bytes();
      const uint8_t head[] = {0xc0,
                              12,
                              0,
                              static_cast<uint8_t>(a ? ns_t_a : ns_t_aaaa),
                              0,
                              1,
                              static_cast<uint8_t>(ttl >> 24),
                              static_cast<uint8_t>(ttl >> 16),
                              static_cast<uint8_t>(ttl >> 8),
                              static_cast<uint8_t>(ttl),
                              0,
                              static_cast<uint8_t>(bytes.size())};
      answer.insert(answer.end(), std::begin(head), std::end(head));
      answer.insert(answer.end(), bytes.begin(), bytes.end());
    }
    return answer;
  }
  EventLoop& loop_;
  UniqueFd fd_;
};

struct Fixture {
  EventLoop loop;
  NameServer server{loop};
  HostResolverSettings settings{
      .name_servers = {}, .try_timeout = 100ms, .least_ttl = 50ms, .stale = 10s, .patience = 30ms, .retry = 20ms};
  std::unique_ptr<HostResolver> resolver;

  Fixture() { make(); }
  void make(std::vector<SocketAddress> servers = {}) {
    settings.name_servers = servers.empty() ? std::vector{server.address()} : std::move(servers);
    resolver = std::make_unique<HostResolver>(loop, settings);
    REQUIRE(resolver->start());
  }
  HostAnswerPtr resolve(const std::string& name = "db.example") {
    HostAnswerPtr got;
    resolver->resolve(name, [&](HostAnswerPtr answer) { got = std::move(answer); });
    REQUIRE(loop.run_until([&] { return got != nullptr; }, 10s));
    return got;
  }
  static std::string text(const HostAnswerPtr& answer) {
    std::string all;
    for (const IpAddress& ip : answer->addresses) all += ip.to_string() + " ";
    return all + answer->error;
  }
  void pass(Clock::duration time) {
    const auto until = Clock::now() + time;
    while (Clock::now() < until) loop.run_once(until - Clock::now());
  }
};

TEST_CASE("A host name stands for its addresses of both families, for as long as its name server says") {
  Fixture f;
  f.server.v4 = {"192.0.2.1", "192.0.2.2"};
  f.server.v6 = {"2001:db8::1"};
  const auto first = f.resolve();
  CHECK(first->addresses.size() == 3);
  CHECK(f.server.queries == 2);
  CHECK(first->fresh_until > Clock::now() + 50s);
  f.resolve();
  CHECK(f.server.queries == 2);

  f.server.ttl = 0;  // counts as the least time
  f.resolve("other.example");
  f.pass(60ms);
  f.server.v4 = {"192.0.2.9"};
  f.server.v6 = {};
  CHECK(Fixture::text(f.resolve("other.example")) == "192.0.2.9 ");
}

TEST_CASE("Without IPv6 only A is asked for") {
  Fixture f;
  f.settings.ipv6 = false;
  f.make();
  f.server.v4 = {"192.0.2.1"};
  f.server.v6 = {"2001:db8::1"};
  CHECK(Fixture::text(f.resolve()) == "192.0.2.1 ");
  CHECK(f.server.queries == 1);
}

TEST_CASE("Two hundred who wait for a name share one query") {
  Fixture f;
  f.server.v4 = {"192.0.2.1"};
  size_t told = 0;
  for (int i = 0; i < 200; ++i)
    f.resolver->resolve("db.example", [&](const HostAnswerPtr& answer) { told += answer->addresses.size(); });
  REQUIRE(f.loop.run_until([&] { return told == 200; }, 10s));
  CHECK(f.server.queries == 2);  // A and AAAA
  CHECK(f.resolver->queries() == 1);
}

TEST_CASE("While a name cannot be asked for anew, its old addresses are given, and later the new ones") {
  Fixture f;
  f.server.v4 = {"192.0.2.1"};
  f.server.ttl = 0;
  f.resolve();
  f.pass(60ms);
  SECTION("its server is silent: after a moment, and whoever comes then at once") {
    f.server.silent = true;
    CHECK(Fixture::text(f.resolve()) == "192.0.2.1 ");
    const auto queries = f.resolver->queries();
    bool told = false;
    f.resolver->resolve("db.example", [&](const HostAnswerPtr&) { told = true; });
    CHECK(told);
    CHECK(f.resolver->queries() == queries);
    f.server.silent = false;
  }
  SECTION("its server fails") {
    f.server.rcode = 2;
    CHECK(Fixture::text(f.resolve()) == "192.0.2.1 ");
    f.server.rcode = 0;
  }
  f.server.v4 = {"192.0.2.7"};
  REQUIRE(f.loop.run_until([&] { return Fixture::text(f.resolve()) == "192.0.2.7 "; }, 10s));
}

TEST_CASE("Old addresses are given for the stated time and not longer") {
  Fixture f;
  f.settings.stale = 100ms;
  f.make();
  f.server.v4 = {"192.0.2.1"};
  f.server.ttl = 0;
  f.resolve();
  f.pass(200ms);
  f.server.silent = true;
  const auto answer = f.resolve();
  CHECK(answer->addresses.empty());
  CHECK_FALSE(answer->error.empty());
}

TEST_CASE("A name that is said to be gone is gone at once") {
  Fixture f;
  f.server.v4 = {"192.0.2.1"};
  f.server.ttl = 0;
  f.resolve();
  f.pass(60ms);
  f.server.v4 = {};
  CHECK(Fixture::text(f.resolve()) == "there is no such name, or it has no addresses");
  const auto asked = f.server.queries;
  f.resolve();
  CHECK(f.server.queries == asked);
}

TEST_CASE("A name server that is silent is passed over for the next") {
  Fixture f;
  NameServer dead(f.loop);
  dead.silent = true;
  f.make({dead.address(), f.server.address()});
  f.server.v4 = {"192.0.2.1"};
  CHECK(Fixture::text(f.resolve()) == "192.0.2.1 ");
  CHECK(dead.queries > 0);
}

TEST_CASE("Other name servers are asked as soon as what is being asked has ended") {
  Fixture f;
  f.server.silent = true;
  NameServer other(f.loop);
  other.v4 = {"192.0.2.2"};
  size_t told = 0;
  std::string second;
  f.resolver->resolve("a.example", [&](const HostAnswerPtr&) { ++told; });
  f.pass(5ms);
  REQUIRE(f.server.queries > 0);
  f.resolver->set_name_servers({other.address()});
  f.resolver->resolve("b.example", [&](const HostAnswerPtr& answer) { second = Fixture::text(answer), ++told; });
  REQUIRE(f.loop.run_until([&] { return told == 2; }, 10s));
  CHECK(second == "192.0.2.2 ");
  // At once if nothing is.
  f.server.silent = false;
  f.server.v4 = {"192.0.2.1"};
  f.resolver->set_name_servers({f.server.address()});
  CHECK(Fixture::text(f.resolve("c.example")) == "192.0.2.1 ");
}

TEST_CASE("Names, waiting and queries have limits that are said, and other names go on") {
  Fixture f;
  f.server.v4 = {"192.0.2.1"};
  f.server.silent = true;
  f.settings.names = 3;
  f.settings.waiting = 4;
  f.settings.queries = 2;
  f.make();
  size_t failed = 0, answered = 0;
  const auto count = [&](const HostAnswerPtr& answer) { ++(answer->addresses.empty() ? failed : answered); };
  for (const char* name : {"a.example", "b.example", "c.example"}) f.resolver->resolve(name, count);
  CHECK(f.resolver->queries() == 2);
  std::string why;
  f.resolver->resolve("d.example", [&](const HostAnswerPtr& answer) { why = answer->error; });
  CHECK(why == "too many host names are being resolved");
  f.resolver->resolve("a.example", count);
  f.resolver->resolve("a.example", [&](const HostAnswerPtr& answer) { why = answer->error; });
  CHECK(why == "too many wait for host names to be resolved");
  f.server.silent = false;
  REQUIRE(f.loop.run_until([&] { return answered == 4; }, 10s));
  CHECK(failed == 0);
  // A name that nobody waits for makes room.
  CHECK(Fixture::text(f.resolve("e.example")) == "192.0.2.1 ");
  CHECK(f.resolver->known() == 3);
}

TEST_CASE("What programs ask for makes room for the mesh's names and never puts one of them out") {
  Fixture f;
  f.server.v4 = {"192.0.2.1"};
  f.settings.names = 3;
  f.make();
  const auto ask = [&](const std::string& name, NamedBy by) {
    std::optional<std::string> why;
    f.resolver->resolve(name, [&](const HostAnswerPtr& answer) { why = answer->error; }, by);
    REQUIRE(f.loop.run_until([&] { return why.has_value(); }, 10s));
    return *why;
  };
  CHECK(ask("db.example", NamedBy::kMesh).empty());
  for (int i = 0; i < 8; ++i) CHECK(ask("n" + std::to_string(i) + ".example", NamedBy::kProgram).empty());
  const auto before = f.resolver->queries();
  CHECK(ask("db.example", NamedBy::kMesh).empty());
  CHECK(f.resolver->queries() == before);
  // One that the mesh asks for as well is the mesh's from then on.
  CHECK(ask("n7.example", NamedBy::kMesh).empty());
  CHECK(ask("other.example", NamedBy::kMesh).empty());
  CHECK(ask("n8.example", NamedBy::kProgram) == "too many host names are being resolved");
  CHECK(f.resolver->known() == 3);
}

TEST_CASE("A resolver may end while it is asked") {
  Fixture f;
  f.server.silent = true;
  f.resolver->resolve("db.example", [](const HostAnswerPtr&) { FAIL("told"); });
  f.pass(5ms);
  f.resolver.reset();
  f.pass(5ms);
}

}  // namespace
}  // namespace zt::ztunnel::dns::test
