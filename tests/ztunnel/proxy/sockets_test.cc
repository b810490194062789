// Listeners of two proxies on one port, as during an upgrade.
#include "ztunnel/proxy/sockets.h"

#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <vector>

using namespace zt;
using namespace zt::ztunnel;

namespace {

constexpr int kConnections = 64;

ListenSocket listen_on(const SocketAddress& address) {
  SocketOptions options;
  options.reuse_port = true;
  auto listener = listen_tcp(options, address, Transparency::kNever, false);
  REQUIRE(listener);
  return std::move(*listener);
}

// Client ends of complete connections to this address.
std::vector<UniqueFd> connect_many(const SocketAddress& address) {
  std::vector<UniqueFd> clients;
  sockaddr_storage storage;
  const socklen_t length = address.to_sockaddr(storage);
  for (int i = 0; i < kConnections; ++i) {
    auto& client = clients.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::connect(client.get(), reinterpret_cast<sockaddr*>(&storage), length) == 0);
  }
  return clients;
}

int accept_all(const ListenSocket& listener) {
  int accepted = 0;
  while (UniqueFd(::accept4(listener.fd.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC))) ++accepted;
  return accepted;
}

}  // namespace

TEST_CASE("once the older proxy's listener steps back, all new connections go to the newer one's") {
  const ListenSocket older = listen_on({*IpAddress::parse("127.0.0.1"), 0});
  const SocketAddress address = local_address(older.fd.get());
  const ListenSocket newer = listen_on(address);
  {
    const auto clients = connect_many(address);
    const int to_older = accept_all(older);
    CHECK(to_older > 0);
    CHECK(to_older + accept_all(newer) == kConnections);
  }
  steer_to_second(older.fd.get());
  const auto clients = connect_many(address);
  CHECK(accept_all(older) == 0);
  CHECK(accept_all(newer) == kConnections);
}

TEST_CASE("a listener that steps back from nobody goes on, and so does the one that remains") {
  ListenSocket older = listen_on({*IpAddress::parse("127.0.0.1"), 0});
  const SocketAddress address = local_address(older.fd.get());
  steer_to_second(older.fd.get());
  {
    const auto clients = connect_many(address);
    CHECK(accept_all(older) == kConnections);
  }
  const ListenSocket newer = listen_on(address);
  older.fd.reset();
  const auto clients = connect_many(address);
  CHECK(accept_all(newer) == kConnections);
}
