#include "tests/ztunnel/proxy/two_data_planes.h"

using namespace zt;
using namespace zt::ztunnel;
using namespace zt::ztunnel::testing;
using namespace std::chrono_literals;

TEST_CASE("many applications at once, over two workers each side, while state and certificates change") {
  Mesh mesh;
  std::atomic<int> good{0};
  std::vector<std::thread> apps;
  for (int i = 0; i < 12; ++i) {
    apps.emplace_back([&, i] {
      for (int round = 0; round < 3; ++round) {
        UniqueFd fd = mesh.dial();
        const size_t size = 1000 + static_cast<size_t>(i) * 30'000;
        if (fd && echo(fd.get(), size) == size) ++good;
      }
    });
  }
  for (int i = 0; i < 5; ++i) {
    mesh.apply("policies: [{name: p" + std::to_string(i) +
               ", namespace: shop, scope: Namespace, action: Deny, rules: [[[{destinationPorts: [9]}]]]}]\n");
    mesh.server->rotate({"cluster.local", "shop", "server"});
    mesh.client->rotate({"cluster.local", "shop", "client"});
  }
  for (auto& app : apps) app.join();
  CHECK(good == 36);
  CHECK(mesh.client->metrics.render().find("zt_pool_dials_total{result=\"ok\"}") != std::string::npos);
  size_t client_tunnels = 0, server_tunnels = 0;
  for (const auto& worker : mesh.client->data_plane->workers()) client_tunnels += worker->io().client_tunnels;
  for (const auto& worker : mesh.server->data_plane->workers()) server_tunnels += worker->io().server_tunnels;
  CHECK(client_tunnels > 0);
  CHECK(server_tunnels > 0);
  CHECK(mesh.server->metrics.render().find(
            "istio_tcp_connections_opened_total{reporter=\"destination\",source_workload=\"client\"") != std::string::npos);
}

TEST_CASE("on demand, a source is asked for once by each worker, and all who come from there are named by the answer") {
  std::atomic<int> asked{0};
  std::set<std::string> keys;  // of the server's control thread
  std::atomic<Mesh*> where{nullptr};
  const auto answer = [&](std::string key, const std::string&, workload_api::LookupDone done) {
    ++asked;
    Mesh& mesh = *where.load();
    mesh.server->loop.post([&, key = std::move(key), done = std::move(done)] {
      keys.insert(key);
      mesh.server_knows_client = true;
      mesh.take(*mesh.server, "");
      done(LookupAnswer::kAnswered);
    });
  };
  Mesh mesh(answer, 20s);
  where = &mesh;
  std::vector<std::thread> apps;
  std::atomic<int> good{0};
  for (int i = 0; i < 12; ++i) {
    apps.emplace_back([&] {
      UniqueFd fd = mesh.dial();
      if (fd && echo(fd.get(), 100) == 100) ++good;
    });
  }
  for (auto& app : apps) app.join();
  CHECK(good == 12);
  CHECK(asked >= 1);
  CHECK(asked <= 2);
  mesh.server->on_control([&] { CHECK(keys == std::set<std::string>{std::string("/") + Mesh::kClientAsSeen}); });
  const std::string metrics = mesh.server->metrics.render();
  CHECK(metrics.find("opened_total{reporter=\"destination\",source_workload=\"client\"") != std::string::npos);
  CHECK(metrics.find("opened_total{reporter=\"destination\",source_workload=\"unknown\"") == std::string::npos);
}

TEST_CASE("on demand, no answer about a source costs one short wait") {
  std::atomic<int> asked{0};
  Mesh mesh([&](const std::string&, const std::string&, const workload_api::LookupDone&) { ++asked; }, 10ms);
  for (int i = 0; i < 10; ++i) {
    UniqueFd fd = mesh.dial();
    REQUIRE(fd);
    CHECK(echo(fd.get(), 100) == 100);
  }
  CHECK(asked >= 1);
  CHECK(asked <= 2);
  CHECK(mesh.server->metrics.render().find("source_workload=\"unknown\"") != std::string::npos);
}

TEST_CASE("a policy that comes cuts the connections it denies, on whichever worker they are") {
  Mesh mesh;
  std::vector<UniqueFd> open;
  for (int i = 0; i < 8; ++i) {
    open.push_back(mesh.dial());
    REQUIRE(open.back());
    REQUIRE(echo(open.back().get(), 1) == 1);
  }
  mesh.apply(
      "policies: [{name: no, namespace: shop, scope: Namespace, action: Deny, rules: [[[{principals: [{Exact: "
      "cluster.local/ns/shop/sa/client}]}]]]}]\n");
  for (auto& fd : open) {
    char byte;
    CHECK(recv(fd.get(), &byte, 1, 0) <= 0);
  }
  mesh.apply("");
}

TEST_CASE("a burst of connections that is accepted in one turn is spread over the workers") {
  Mesh mesh;
  constexpr size_t kBurst = 40;
  // Both workers are busy until all of them wait in the listener's queue.
  std::atomic<bool> go{false};
  for (const auto& worker : mesh.client->data_plane->workers()) {
    worker->post([&] { go.wait(false); });
  }
  std::vector<UniqueFd> burst;
  for (size_t i = 0; i < kBurst; ++i) burst.push_back(mesh.dial());
  go = true;
  go.notify_all();
  for (const auto& fd : burst) {
    REQUIRE(fd);
    CHECK(echo(fd.get(), 100) == 100);
  }
  for (const auto& worker : mesh.client->data_plane->workers()) {
    INFO("worker " << worker->index());
    CHECK(worker->connections >= kBurst / 2 - 8);
    CHECK(worker->connections <= kBurst / 2 + 8);
  }
}

TEST_CASE("the admin dump and a shutdown pass over many connections in pieces, and miss none") {
  Mesh mesh;
  constexpr size_t kOpen = 160;  // more than a piece for each worker
  std::vector<UniqueFd> open;
  for (size_t i = 0; i < kOpen; ++i) {
    open.push_back(mesh.dial());
    REQUIRE(open.back());
    if (i % 50 == 49) {
      CHECK(echo(open.back().get(), 10) == 10);
    }
  }
  for (const auto& fd : open) CHECK(echo(fd.get(), 1) == 1);
  std::promise<size_t> lines;
  mesh.client->loop.post([&] {
    mesh.client->data_plane->collect_connections([&](const std::map<std::string, PodConnections>& pods) {
      size_t count = 0;
      for (const auto& [uid, connections] : pods) count += connections.outbound.size();
      lines.set_value(count);
    });
  });
  auto counted = lines.get_future();
  REQUIRE(counted.wait_for(20s) == std::future_status::ready);
  CHECK(counted.get() == kOpen);

  std::promise<void> ended;
  mesh.client->loop.post([&] { mesh.client->data_plane->shutdown(0s, [&] { ended.set_value(); }); });
  REQUIRE(ended.get_future().wait_for(20s) == std::future_status::ready);
  size_t left = 0;
  for (const auto& worker : mesh.client->data_plane->workers()) left += worker->connections;
  CHECK(left == 0);
}

TEST_CASE("a pod that is taken away ends all of its connections and tunnels, and comes back anew") {
  Mesh mesh;
  constexpr size_t kOpen = 300;  // more than a piece for each worker
  std::vector<UniqueFd> open;
  for (size_t i = 0; i < kOpen; ++i) {
    open.push_back(mesh.dial());
    REQUIRE(open.back());
  }
  for (const auto& fd : open) REQUIRE(echo(fd.get(), 1) == 1);
  const bool client = GENERATE(true, false);
  CAPTURE(client);
  Node& node = client ? *mesh.client : *mesh.server;
  const auto tunnels = [&] {
    size_t count = 0;
    for (const auto& worker : node.data_plane->workers()) count += worker->io().client_tunnels + worker->io().server_tunnels;
    return count;
  };
  REQUIRE(tunnels() > 0);
  node.on_control([&] { node.data_plane->stop("dedicated"); });
  for (const auto& fd : open) {
    char byte;
    CHECK(recv(fd.get(), &byte, 1, 0) <= 0);
  }
  for (const auto limit = Clock::now() + 20s; tunnels() > 0 && Clock::now() < limit;) std::this_thread::sleep_for(1ms);
  CHECK(tunnels() == 0);
  for (const auto& worker : node.data_plane->workers()) CHECK(worker->connections == 0);
  node.on_control([&] {
    auto bound =
        node.data_plane->bind_dedicated("dedicated", {client ? "client" : "server", "shop", client ? "client" : "server"});
    REQUIRE(bound);
    node.data_plane->serve(std::move(*bound));
  });
  const UniqueFd again = mesh.dial();
  REQUIRE(again);
  CHECK(echo(again.get(), 1000) == 1000);
}

TEST_CASE("a handshake that has begun is charged to its pod and peer, and what is charged goes with it") {
  Mesh mesh;
  const auto held = [&] {
    size_t bytes = 0;
    for (const auto& worker : mesh.server->data_plane->workers()) bytes += worker->io().budget.used();
    return bytes;
  };
  const auto becomes = [&](size_t least, size_t most) {
    for (const auto limit = Clock::now() + 20s; Clock::now() < limit; std::this_thread::sleep_for(1ms)) {
      if (const size_t now = held(); now >= least && now <= most) return true;
    }
    return false;
  };
  CHECK(held() == 0);
  UniqueFd peer = tcp_socket();
  sockaddr_storage storage;
  const socklen_t length = at(mesh.server_ip, 15008).to_sockaddr(storage);
  REQUIRE(connect(peer.get(), reinterpret_cast<sockaddr*>(&storage), length) == 0);
  // A whole record, and the beginning of a ClientHello.
  const std::string begun("\x16\x03\x01\x00\x06\x01\x00\x10\x00\x03\x03", 11);
  REQUIRE(::send(peer.get(), begun.data(), begun.size(), 0) == static_cast<ssize_t>(begun.size()));
  CHECK(becomes(40 * 1024, 64 * 1024));
  peer.reset();
  CHECK(becomes(0, 0));
}
