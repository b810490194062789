// How long a worker is busy at a time.
#include "tests/ztunnel/proxy/two_data_planes.h"

using namespace zt;
using namespace zt::ztunnel;
using namespace zt::ztunnel::testing;
using namespace std::chrono_literals;

namespace {

// How long a worker is busy between two looks at its sockets, by the processor's time: what else runs on the machine does not count.
class TurnProbe {
 public:
  explicit TurnProbe(Worker& worker) : worker_(worker) {
    worker_.post([this] { look(); });
  }
  std::chrono::microseconds longest() {
    ending_ = true;
    ended_.get_future().wait();
    return std::chrono::duration_cast<std::chrono::microseconds>(longest_);
  }

 private:
  void look() {
    timespec spent;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &spent);
    const auto now = std::chrono::seconds(spent.tv_sec) + std::chrono::nanoseconds(spent.tv_nsec);
    if (last_.count() > 0) longest_ = std::max<std::chrono::nanoseconds>(longest_, now - last_);
    last_ = now;
    if (ending_) return ended_.set_value();
    worker_.post([this] { look(); });
  }
  Worker& worker_;
  std::chrono::nanoseconds last_{0}, longest_{0};
  std::atomic<bool> ending_{false};
  std::promise<void> ended_;
};

// An application that takes connections and does nothing with them.
class QuietServer {
 public:
  explicit QuietServer(const SocketAddress& address) : listener_(tcp_socket()) {
    sockaddr_storage storage;
    const socklen_t length = address.to_sockaddr(storage);
    const int on = 1;
    setsockopt(listener_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    REQUIRE(bind(listener_.get(), reinterpret_cast<sockaddr*>(&storage), length) == 0);
    REQUIRE(listen(listener_.get(), 4096) == 0);
    acceptor_ = std::thread([this] {
      for (;;) {
        UniqueFd fd(accept(listener_.get(), nullptr, nullptr));
        if (!fd) return;
        taken_.push_back(std::move(fd));
        ++count;
      }
    });
  }
  ~QuietServer() {
    shutdown(listener_.get(), SHUT_RDWR);
    acceptor_.join();
  }
  std::atomic<size_t> count{0};

 private:
  UniqueFd listener_;
  std::thread acceptor_;
  std::vector<UniqueFd> taken_;
};

// A turn has 2 ms and goes on with one more piece. Sanitizers make all of it slower.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::chrono::milliseconds kLongTurn{200};
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr std::chrono::milliseconds kLongTurn{200};
#else
constexpr std::chrono::milliseconds kLongTurn{20};
#endif
#endif
}  // namespace

TEST_CASE("with thousands of connections no turn of a worker is long, whatever concerns all of them") {
  rlimit files;
  REQUIRE(getrlimit(RLIMIT_NOFILE, &files) == 0);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  // Four sockets each are in this process: the application's, two of each proxy's, and the other application's.
  const size_t count = std::min<size_t>(4500, (files.rlim_cur - 1000) / 4);
  Mesh mesh;
  mesh.app.reset();
  QuietServer app(at(mesh.server_ip, Mesh::kAppPort));
  std::vector<std::unique_ptr<TurnProbe>> probes;
  for (Node* node : {mesh.client.get(), mesh.server.get()}) {
    for (const auto& worker : node->data_plane->workers()) probes.push_back(std::make_unique<TurnProbe>(*worker));
  }
  std::vector<UniqueFd> open;
  for (size_t i = 0; i < count; ++i) {
    open.push_back(mesh.dial());
    REQUIRE(open.back());
  }
  const auto until = [](const auto& done) {
    for (const auto limit = Clock::now() + 60s; Clock::now() < limit; std::this_thread::sleep_for(1ms)) {
      if (done()) return true;
    }
    return false;
  };
  REQUIRE(until([&] { return app.count == count; }));
  const auto left = [](const Node& node) {
    size_t all = 0;
    for (const auto& worker : node.data_plane->workers()) all += worker->connections;
    return all;
  };
  // Policies are asked again for all of them, tunnels are held against revocation lists, the admin dump names them.
  for (int i = 0; i < 3; ++i) {
    mesh.apply("policies: [{name: p" + std::to_string(i) +
               ", namespace: shop, scope: Namespace, action: Deny, rules: [[[{destinationPorts: [9]}]]]}]\n");
    for (Node* node : {mesh.client.get(), mesh.server.get()}) {
      std::promise<size_t> lines;
      node->loop.post([&] {
        node->data_plane->set_revocations(nullptr);
        node->data_plane->collect_connections([&](const std::map<std::string, PodConnections>& pods) {
          size_t all = 0;
          for (const auto& [uid, connections] : pods) all += connections.outbound.size() + connections.inbound.size();
          lines.set_value(all);
        });
      });
      auto counted = lines.get_future();
      REQUIRE(counted.wait_for(60s) == std::future_status::ready);
      CHECK(counted.get() == count);
    }
  }
  // Peers are told to leave, and the pod goes.
  mesh.server->on_control([&] { mesh.server->data_plane->drain_all(); });
  mesh.client->on_control([&] { mesh.client->data_plane->stop("dedicated"); });
  REQUIRE(until([&] { return left(*mesh.client) == 0 && left(*mesh.server) == 0; }));
  for (auto& probe : probes) {
    const auto longest = probe->longest();
    CAPTURE(longest.count());
    CHECK(longest < kLongTurn);
  }
}
