// Listeners of two proxies on one port, as during an upgrade; connections from borrowed addresses.
#include "ztunnel/proxy/sockets.h"

#include <linux/capability.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <optional>
#include <thread>
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

namespace {

// Of the calling thread only.
void drop_capabilities() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct none[2]{};
  ::syscall(SYS_capset, &header, none);
}

Task<void> connect(EventLoop& loop, ConnectTarget target, std::optional<Result<UniqueFd>>& result) {
  const SocketOptions options;
  result.emplace(co_await connect_tcp(loop, options, target));
}

}  // namespace

TEST_CASE("a connection that must keep its source fails without it, and else goes on") {
  const ListenSocket listener = listen_on({*IpAddress::parse("127.0.0.1"), 0});
  const bool required = GENERATE(true, false);
  std::optional<Result<UniqueFd>> result;
  // Without privileges no address can be borrowed.
  std::thread unprivileged([&] {
    drop_capabilities();
    EventLoop loop;
    TaskScope tasks(loop);
    tasks.spawn(connect(loop,
                        {.destination = local_address(listener.fd.get()),
                         .source = *IpAddress::parse("192.0.2.1"),
                         .source_required = required,
                         .local_leg = true},
                        result));
    loop.run_until([&] { return result.has_value(); }, std::chrono::seconds(10));
  });
  unprivileged.join();
  REQUIRE(result);
  CHECK(result->has_value() != required);
  if (!*result) CHECK(result->error().text == "cannot connect from 192.0.2.1: Operation not permitted (ENABLE_ORIG_SRC=true)");
}
