#include "ztunnel/dns/pod_server.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "tests/ztunnel/dns/support.h"

namespace zt::ztunnel::dns::test {
namespace {

using namespace std::chrono_literals;

UniqueFd tcp_socket() { return UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)); }

// Somebody else who needs memory.
struct Other final : MemoryAccount::Claim {
  using Claim::Claim;
  void revoke() noexcept override { release(); }
};

// A pod's server on loopback. Queries come to it directly, so they go to the node's name server: one that takes connections, and
// reads or says what the test does.
struct Fixture {
  Fixture() {
    auto bound = bind_listeners({}, *SocketAddress::parse("127.0.0.1:0"), false);
    REQUIRE(bound);
    address = local_address(bound->tcp[0].get());
    server.emplace(share, PodName{"client", "shop", "client"}, SocketOptions{}, std::move(*bound));
    REQUIRE(server->start());
  }
  static UniqueFd listen() {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_storage storage;
    const socklen_t length = SocketAddress::parse("127.0.0.1:0")->to_sockaddr(storage);
    REQUIRE(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&storage), length) == 0);
    REQUIRE(::listen(fd.get(), 8) == 0);
    return fd;
  }
  UniqueFd connect() {
    auto fd = tcp_socket();
    REQUIRE(connect_to(fd.get(), address));
    return fd;
  }
  static void send(int fd, View message) {
    Bytes framed{static_cast<uint8_t>(message.size() >> 8), static_cast<uint8_t>(message.size())};
    framed.insert(framed.end(), message.begin(), message.end());
    REQUIRE(::send(fd, framed.data(), framed.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(framed.size()));
  }
  // What comes next, without its length; nothing at the end.
  Bytes receive(int fd) {
    Bytes message(2);
    size_t got = 0;
    bool ended = false;
    REQUIRE(loop.run_until(
        [&] {
          const ssize_t n = ::recv(fd, message.data() + got, message.size() - got, MSG_DONTWAIT);
          ended = n == 0 || (n < 0 && errno != EAGAIN);
          got += static_cast<size_t>(std::max<ssize_t>(n, 0));
          if (got == 2) message.resize(2u + read16(message, 0));
          return ended || (got > 2 && got == message.size());
        },
        5s));
    return ended ? Bytes() : Bytes(message.begin() + 2, message.end());
  }

  EventLoop loop;
  MemoryLimit limit{1 << 20};
  MemoryAccount memory{limit};
  UniqueFd upstream = listen();
  Settings settings{.listen = LocalhostPort{0},
                    .network = {},
                    .preferred_ns = {},
                    .search = {},
                    .upstreams = {local_address(upstream.get())},
                    .forward = {}};
  Metrics metrics{1, {}, "test"};
  workload_api::SnapshotPtr snapshot = mesh(R"(
services:
- {name: web, namespace: shop, hostname: web.shop.svc.cluster.local, vips: [/10.96.0.1], ports: {"80": 8080}}
)");
  WorkerShare share{loop, memory, settings, metrics, [this]() -> const workload_api::SnapshotPtr& { return snapshot; }};
  SocketAddress address;
  std::optional<PodServer> server;
};

TEST_CASE_METHOD(Fixture, "Queries of one TCP connection are answered, by the mesh and by the name server") {
  const auto client = connect();
  send(client.get(), ask("web.shop", {.id = 1}));
  send(client.get(), ask("www.example.com", {.id = 2}));
  send(client.get(), ask("web", {.id = 3}));
  CHECK(describe(receive(client.get())) == "NOERROR aa web.shop 10.96.0.1");
  UniqueFd asked;
  REQUIRE(loop.run_until(
      [&] { return static_cast<bool>(asked = UniqueFd(::accept4(upstream.get(), nullptr, nullptr, SOCK_NONBLOCK))); }, 5s));
  Bytes answer = receive(asked.get());
  CHECK(answer == ask("www.example.com", {.id = 2}));
  write16(answer, 2, 0x8183);
  send(asked.get(), answer);
  CHECK(describe(receive(client.get())) == "NOERROR aa web 10.96.0.1");
  CHECK(describe(receive(client.get())) == "NXDOMAIN");
}

TEST_CASE_METHOD(Fixture, "A TCP connection is charged for what it holds, and closed when the memory is needed elsewhere") {
  const auto client = connect();
  const size_t before = memory.used();
  Bytes update = ask("example.com", {.type = ns_t_soa, .flags = 0x2800});
  update.resize(60'000);
  send(client.get(), update);
  REQUIRE(loop.run_until([&] { return memory.used() > before + 60'000; }, 5s));
  MemoryAccount neighbour(memory, "shop/web");
  Other other(neighbour);
  limit.set(64 * 1024);
  CHECK(neighbour.update(other, 32 * 1024, true));
  CHECK(memory.used() == 32 * 1024);
  CHECK(receive(client.get()).empty());
  // Others are served.
  const auto second = connect();
  send(second.get(), ask("web.shop"));
  CHECK(describe(receive(second.get())) == "NOERROR aa web.shop 10.96.0.1");
}

TEST_CASE_METHOD(Fixture, "A server that leaves waits for those who have connected and not asked yet") {
  const auto client = connect();
  server->drain([](int) {});
  const auto closed = [&] { return !connect_to(tcp_socket().get(), address); };
  REQUIRE(loop.run_until(closed, 5s));
  CHECK(server->unfinished() == 1);
  send(client.get(), ask("web.shop"));
  CHECK(describe(receive(client.get())) == "NOERROR aa web.shop 10.96.0.1");
  CHECK(server->unfinished() == 0);  // it may ask more, but need not
}

TEST_CASE_METHOD(Fixture, "A server that goes gives back what its connections held") {
  const auto client = connect();
  send(client.get(), ask("www.example.com"));
  REQUIRE(loop.run_until([&] { return memory.used() > 0; }, 5s));
  server.reset();
  CHECK(memory.used() == 0);
  CHECK(receive(client.get()).empty());
}

}  // namespace
}  // namespace zt::ztunnel::dns::test
