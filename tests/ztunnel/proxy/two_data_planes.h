#pragma once
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <future>
#include <set>
#include <thread>

#include "identity/embedded_ca.h"
#include "identity/loop_scheduler.h"
#include "tests/support/failing_calls/failing_calls.h"
#include "workload_api/store/store.h"
#include "workload_api/yaml/yaml_source.h"
#include "ztunnel/proxy/data_plane.h"

// Both ends of the proxy in this process, without root: two data planes with workers of their own on loopback addresses, real
// TLS from an embedded CA, and threads of the test as applications. Run under TSan it shows that connections, snapshots and
// certificates pass between threads without a race.
namespace zt::ztunnel::testing {

using namespace std::chrono_literals;
using zt::testing::OwnCalls;

// Addresses of this process only: tests may run side by side.
inline std::string address(int host) {
  const auto pid = static_cast<unsigned>(getpid());
  return "127." + std::to_string(1 + pid / 250 % 250) + "." + std::to_string(1 + pid % 250) + "." + std::to_string(host);
}
inline SocketAddress at(const std::string& ip, uint16_t port) { return {*IpAddress::parse(ip), port}; }

inline UniqueFd tcp_socket() { return UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)); }

// An application's server: echoes each connection on a thread of its own until it ends.
class EchoServer {
 public:
  explicit EchoServer(const SocketAddress& address) : listener_(tcp_socket()) {
    sockaddr_storage storage;
    const socklen_t length = address.to_sockaddr(storage);
    const int on = 1;
    setsockopt(listener_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    REQUIRE(bind(listener_.get(), reinterpret_cast<sockaddr*>(&storage), length) == 0);
    REQUIRE(listen(listener_.get(), 64) == 0);
    acceptor_ = std::thread([this] {
      const OwnCalls own;
      for (;;) {
        UniqueFd fd(accept(listener_.get(), nullptr, nullptr));
        if (!fd) return;
        handlers_.emplace_back([fd = std::move(fd)] {
          const OwnCalls mine;
          char buffer[16384];
          for (ssize_t n; (n = recv(fd.get(), buffer, sizeof buffer, 0)) > 0;) {
            if (send(fd.get(), buffer, static_cast<size_t>(n), MSG_NOSIGNAL) != n) return;
          }
        });
      }
    });
  }
  ~EchoServer() {
    shutdown(listener_.get(), SHUT_RDWR);
    acceptor_.join();
    for (auto& handler : handlers_) handler.join();
  }

 private:
  UniqueFd listener_;
  std::thread acceptor_;
  std::vector<std::thread> handlers_;
};

// One node's proxy: a control thread, its state, its certificates.
struct Node {
  EventLoop loop;
  ListenConfig listen;
  MemoryLimit memory{16 << 20};
  WorkerSettings settings;
  Metrics metrics{2, {}, "test"};
  workload_api::Store store{{.node_name = std::nullopt}};
  identity::LoopScheduler scheduler{loop};
  std::unique_ptr<identity::CaClient> ca;
  std::unique_ptr<identity::SecretManager> secrets;
  std::unique_ptr<DataPlane> data_plane;
  workload_api::Store::Subscription subscription;
  std::thread thread;

  Node(const std::string& ip, const std::filesystem::path& ca_folder, uint16_t outbound_port, LookupRequest lookups = {},
       Clock::duration source_wait = {}, std::optional<std::chrono::milliseconds> idle_release = {}) {
    if (idle_release) settings.pool.idle_release = *idle_release;
    listen.outbound = at(ip, outbound_port);
    listen.inbound_plaintext = at(ip, 15006);
    listen.inbound = at(ip, 15008);
    settings.handshake_timeout = settings.connect_answer_timeout = settings.certificate_timeout = 20s;
    settings.policy_wait = 1s;
    settings.source_wait = source_wait;
    settings.response_baggage = lookups == nullptr;  // with it the client says by itself who it is
    settings.illegal_ports = {15001, 15006, 15008};
    settings.memory = &memory;
    settings.transparency = Transparency::kNever;
    auto opened = identity::EmbeddedCa::open({.directory = ca_folder.string(), .ttl = 3600s, .wall_now = {}});
    REQUIRE(opened);
    ca = std::move(*opened);
    secrets = std::make_unique<identity::SecretManager>(*ca, scheduler);
    data_plane = std::make_unique<DataPlane>(
        loop, settings, listen, 2, metrics,
        [this](const identity::SpiffeId& id, identity::SecretManager::Waiter done) {
          loop.post([this, id, done = std::move(done)]() mutable { secrets->get(id, std::move(done)); });
        },
        std::move(lookups));
    secrets->subscribe([this](const auto& id, const auto& credentials) { data_plane->certificate_changed(id, credentials); });
    subscription = store.subscribe([this](const auto& snapshot, const auto&) { data_plane->publish(snapshot); });
  }
  void run(const PodName& workload) {
    auto bound = data_plane->bind_dedicated("dedicated", workload);
    REQUIRE(bound);
    data_plane->serve(std::move(*bound));
    thread = std::thread([this] { loop.run(); });
  }
  // On the control thread, and waits for it.
  void on_control(const std::function<void()>& fn) {
    std::atomic<bool> done{false};
    loop.post([&] {
      fn();
      done = true;
      done.notify_one();
    });
    done.wait(false);
  }
  // A fresh certificate for all workers, as after half of the old one's life.
  void rotate(const identity::SpiffeId& id) {
    ca->fetch(id, [this, id](Result<identity::CertificatePtr> made) {
      if (!made) return;
      loop.post([this, id, certificate = *made] { data_plane->certificate_changed(id, {certificate, certificate->roots()}); });
    });
  }
  ~Node() {
    loop.stop();
    if (thread.joinable()) thread.join();
  }
};

struct Mesh {
  std::filesystem::path folder = std::filesystem::temp_directory_path() / ("zt-data-plane-" + std::to_string(getpid()));
  std::string client_ip = address(1), server_ip = address(2), vip = address(3);
  static constexpr const char* kClientAsSeen = "127.0.0.1";  // by the server
  static constexpr uint16_t kVipPort = 18000, kAppPort = 18080;
  std::unique_ptr<Node> client, server;
  std::unique_ptr<EchoServer> app;

  bool server_knows_client;  // of the server's control thread

  // `lookups`: the server's, which is on demand then, and does not know the client at first.
  explicit Mesh(LookupRequest lookups = {}, Clock::duration source_wait = {},
                std::optional<std::chrono::milliseconds> idle_release = {})
      : server_knows_client(lookups == nullptr) {
    std::filesystem::remove_all(folder);
    std::filesystem::create_directory(folder);
    app = std::make_unique<EchoServer>(at(server_ip, kAppPort));
    client = std::make_unique<Node>(vip, folder / "ca", kVipPort, LookupRequest{}, Clock::duration{},
                                    idle_release);  // captures what goes to the VIP by being there
    server = std::make_unique<Node>(server_ip, folder / "ca", 15001, std::move(lookups), source_wait);
    apply("");
    client->run({"client", "shop", "client"});
    server->run({"server", "shop", "server"});
  }
  ~Mesh() {
    client.reset();
    server.reset();
    app.reset();
    std::filesystem::remove_all(folder);
  }
  // The state with these policies, on both nodes. Before run(): at once.
  void apply(const std::string& policies) {
    for (Node* node : {client.get(), server.get()}) {
      bool taken = false;
      const auto replace = [&] { taken = take(*node, policies); };
      if (node->thread.joinable()) {
        node->on_control(replace);
      } else {
        replace();
      }
      REQUIRE(taken);
    }
  }
  // On the node's control thread.
  bool take(Node& node, const std::string& policies) {
    const std::string client_workload =
        "- {uid: c, name: client, workloadName: client, namespace: shop, serviceAccount: client, workloadIps: [" + client_ip +
        ", " + kClientAsSeen + "], protocol: HBONE, services: {}}\n";
    auto parsed = workload_api::parse_local_config("workloads:\n" +
                                                       (&node == client.get() || server_knows_client ? client_workload : "") + R"(
- {uid: s, name: server, namespace: shop, serviceAccount: server, workloadIps: [)" +
                                                       server_ip + R"(], protocol: HBONE, services: {shop/s.shop: {18000: 18080}}}
services:
- {name: s, namespace: shop, hostname: s.shop, vips: [/)" +
                                                       vip + R"(], ports: {18000: 18080}}
)" + policies,
                                                   "test.yaml");
    return parsed && node.store.replace_local(std::move(*parsed)).empty();
  }
  // Of any thread: checks nothing itself. Empty if it fails.
  UniqueFd dial() const {
    UniqueFd fd = tcp_socket();
    sockaddr_storage storage;
    socklen_t length = at(client_ip, 0).to_sockaddr(storage);
    if (bind(fd.get(), reinterpret_cast<sockaddr*>(&storage), length) != 0) return {};
    length = at(vip, kVipPort).to_sockaddr(storage);
    const timeval limit{.tv_sec = 60, .tv_usec = 0};
    setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(fd.get(), reinterpret_cast<sockaddr*>(&storage), length) != 0) return {};
    return fd;
  }
};

// Sends `size` bytes and reads them back; how many came.
inline size_t echo(int fd, size_t size) {
  std::thread writer([fd, size] {
    const std::string chunk(8192, 'e');
    for (size_t left = size; left > 0;) {
      const ssize_t n = send(fd, chunk.data(), std::min(left, chunk.size()), MSG_NOSIGNAL);
      if (n <= 0) return;
      left -= static_cast<size_t>(n);
    }
  });
  size_t got = 0;
  char buffer[16384];
  while (got < size) {
    const ssize_t n = recv(fd, buffer, sizeof buffer, 0);
    if (n <= 0) break;
    got += static_cast<size_t>(n);
  }
  writer.join();
  return got;
}

}  // namespace zt::ztunnel::testing
