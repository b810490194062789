// Shutting down, and what waits then.
#include "tests/ztunnel/proxy/two_data_planes.h"

using namespace zt;
using namespace zt::ztunnel;
using namespace zt::ztunnel::testing;
using namespace std::chrono_literals;

TEST_CASE("shutting down waits for connections until the deadline, then cuts them") {
  Mesh mesh;
  UniqueFd stays = mesh.dial();
  REQUIRE(stays);
  REQUIRE(echo(stays.get(), 5) == 5);
  std::atomic<bool> done{false};
  mesh.client->loop.post([&] {
    mesh.client->data_plane->shutdown(300ms, [&] {
      done = true;
      done.notify_one();
    });
  });
  REQUIRE(echo(stays.get(), 5) == 5);  // what is there goes on
  done.wait(false);
  char byte;
  CHECK(recv(stays.get(), &byte, 1, 0) <= 0);
  for (const auto& worker : mesh.client->data_plane->workers()) CHECK(worker->connections == 0);
}

namespace {
// A CA that is away: it answers only when it is destroyed.
class SilentCa final : public identity::CaClient {
 public:
  explicit SilentCa(std::function<void()> asked) : asked_(std::move(asked)) {}
  ~SilentCa() override {
    for (const Done& done : waiting_) done(fail(Reason::kIdentityUnavailable, "the CA is away"));
  }
  void fetch(const identity::SpiffeId&, Done done) override {
    waiting_.push_back(std::move(done));
    asked_();
  }

 private:
  std::function<void()> asked_;
  std::vector<Done> waiting_;
};
}  // namespace

TEST_CASE("ending while a connection waits for a certificate of a CA that is away touches nothing that has gone") {
  // In the order in which the program makes and destroys them.
  EventLoop loop;
  WorkerSettings settings;
  settings.certificate_timeout = settings.handshake_timeout = 20s;
  MemoryLimit memory{16 << 20};
  settings.memory = &memory;
  ListenConfig listen;
  listen.outbound = at(address(4), 15001);
  listen.inbound_plaintext = at(address(4), 15006);
  listen.inbound = at(address(4), 15008);
  Metrics metrics{1, {}, "test"};
  workload_api::Store store{{.node_name = std::nullopt}};
  identity::LoopScheduler scheduler{loop};
  bool asked = false;
  auto ca = std::make_unique<SilentCa>([&] { asked = true; });
  auto secrets = std::make_unique<identity::SecretManager>(*ca, scheduler);
  auto data_plane = std::make_unique<DataPlane>(loop, settings, listen, 1, metrics, [&](const auto& id, auto done) {
    loop.post([&secrets, id, done = std::move(done)]() mutable { secrets->get(id, std::move(done)); });
  });
  auto parsed = workload_api::parse_local_config(
      "workloads: [{uid: s, name: server, namespace: shop, serviceAccount: server, workloadIps: [" + address(4) +
          "], protocol: HBONE, services: {}}]\nservices: []\npolicies: []\n",
      "test.yaml");
  REQUIRE(parsed);
  REQUIRE(store.replace_local(std::move(*parsed)).empty());
  data_plane->publish(store.snapshot());
  auto bound = data_plane->bind_dedicated("dedicated", {"server", "shop", "server"});
  REQUIRE(bound);
  data_plane->serve(std::move(*bound));
  UniqueFd peer = tcp_socket();
  sockaddr_storage storage;
  const socklen_t length = listen.inbound.to_sockaddr(storage);
  REQUIRE(connect(peer.get(), reinterpret_cast<sockaddr*>(&storage), length) == 0);
  REQUIRE(::send(peer.get(), "x", 1, 0) == 1);  // whoever says nothing is not worth a certificate
  REQUIRE(loop.run_until([&] { return asked; }, 20s));
  data_plane.reset();
  secrets.reset();  // answers those who wait
  ca.reset();
  loop.run_once(0s);
}
