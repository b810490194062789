// What a pod opens, without a listener or a thread: the loop is run by the test.
#include "ztunnel/proxy/outbound.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <set>

#include "workload_api/store/store.h"
#include "workload_api/yaml/yaml_source.h"
#include "ztunnel/proxy/pod_worker.h"

using namespace zt;
using namespace zt::ztunnel;
using namespace std::chrono_literals;

namespace {

struct Asked {
  std::string key, asker;
  workload_api::LookupDone done;
};

// A worker that the test runs, with one pod on it.
struct Fixture {
  MemoryLimit memory{16 << 20};
  WorkerSettings settings{.sockets = {}, .tunnel = {}, .memory = &memory};
  Metrics metrics{1, {}, "test"};
  std::vector<Asked> asked;
  Worker worker{0, settings, metrics, {}, [this](std::string key, std::string asker, workload_api::LookupDone done) {
                  asked.push_back({std::move(key), std::move(asker), std::move(done)});
                }};
  workload_api::Store store{{.node_name = std::nullopt}};
  std::unique_ptr<PodWorker> pod;
  UniqueFd application;

  Fixture() {
    know("");
    pod = std::make_unique<PodWorker>(worker, "uid-1", PodName{"client", "shop", "client"}, SocketOptions{},
                                      std::make_shared<PodCounts>(std::make_shared<std::atomic<size_t>>(0)));
  }
  ~Fixture() { pod.reset(); }

  // The client's workload and these.
  void know(const std::string& others, const std::string& services = "[]\n") {
    auto parsed = workload_api::parse_local_config(
        "workloads:\n- {uid: c, name: client, namespace: shop, serviceAccount: client, workloadIps: [127.0.0.1], protocol: "
        "HBONE, "
        "services: {}}\n" +
            others + "services: " + services + "policies: []\n",
        "test.yaml");
    REQUIRE(parsed);
    REQUIRE(store.replace_local(std::move(*parsed)).empty());
    worker.state().take(store.snapshot());
  }
  // A captured connection to `destination`; the application's end is `application`.
  void open(const std::string& destination) {
    UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::listen(listener.get(), 1) == 0);
    sockaddr_storage storage{};
    const socklen_t length = local_address(listener.get()).to_sockaddr(storage);
    reinterpret_cast<sockaddr_in*>(&storage)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    application.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::connect(application.get(), reinterpret_cast<sockaddr*>(&storage), length) == 0);
    UniqueFd accepted(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    REQUIRE(accepted);
    Arrival arrival;
    arrival.fd = std::move(accepted);
    arrival.client = local_address(application.get());
    pod->outbound().open(std::move(arrival), *SocketAddress::parse(destination));
  }
  bool run_until(const std::function<bool()>& done) { return worker.loop().run_until(done, 20s); }
  [[nodiscard]] size_t denied(const std::string& reason) {
    const std::string line = "zt_early_denials_total{reporter=\"source\",reason=\"" + reason + "\"} ";
    const std::string text = metrics.render();
    const size_t place = text.find(line);
    return place == std::string::npos ? 0 : std::stoul(text.substr(place + line.size()));
  }
  [[nodiscard]] bool application_sees_reset() const {
    char byte;
    return ::recv(application.get(), &byte, 1, 0) < 0 && errno == ECONNRESET;
  }
};

// An address that nothing is routed to: what should not be called is not reached either.
constexpr const char* kElsewhere = "240.0.0.1";

}  // namespace

TEST_CASE("on demand, an address about which the control plane does not answer is refused and not called in plain text") {
  Fixture f;
  const auto answer = GENERATE(LookupAnswer::kTimedOut, LookupAnswer::kRefused);
  f.open(std::string(kElsewhere) + ":80");
  REQUIRE(f.asked.size() == 1);
  CHECK(f.asked[0].key == std::string("/") + kElsewhere);
  CHECK(f.asked[0].asker == "uid-1");
  f.asked[0].done(answer);
  REQUIRE(f.run_until([&] { return f.pod->unfinished() == 0; }));
  CHECK(f.denied("lookup_failed") == 1);
  CHECK(f.pod->connection_count() == 0);
  CHECK(f.application_sees_reset());
}

TEST_CASE("on demand, an address that the control plane does not know is called as it is") {
  Fixture f;
  f.open(std::string(kElsewhere) + ":80");
  REQUIRE(f.asked.size() == 1);
  f.asked[0].done(LookupAnswer::kAnswered);
  REQUIRE(f.run_until([&] { return f.pod->connection_count() == 1 || f.pod->unfinished() == 0; }));
  CHECK(f.denied("lookup_failed") == 0);
  CHECK(f.asked.size() == 1);
}

TEST_CASE("on demand, what has come by other ways while the control plane was silent is used") {
  Fixture f;
  f.open(std::string(kElsewhere) + ":80");
  f.know("- {uid: s, name: s, namespace: shop, serviceAccount: s, workloadIps: [240.0.0.1], protocol: TCP, services: {}}\n");
  f.asked.at(0).done(LookupAnswer::kTimedOut);
  REQUIRE(f.run_until([&] { return f.pod->connection_count() == 1 || f.pod->unfinished() == 0; }));
  CHECK(f.denied("lookup_failed") == 0);
}

namespace {

// A server on an address of the loopback that nobody accepts from: the kernel answers.
struct Server {
  UniqueFd fd;
  uint16_t port = 0;
  explicit Server(const std::string& ip, uint16_t wanted = 0) : fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_storage storage{};
    const socklen_t length = SocketAddress{*IpAddress::parse(ip), wanted}.to_sockaddr(storage);
    REQUIRE(::bind(fd.get(), reinterpret_cast<sockaddr*>(&storage), length) == 0);
    REQUIRE(::listen(fd.get(), 1024) == 0);
    port = local_address(fd.get()).port;
  }
};

// Of a metric's series with all of these in them.
size_t sum_of(Metrics& metrics, const std::string& name, const std::vector<std::string>& labels) {
  const std::string text = metrics.render();
  size_t sum = 0;
  for (size_t at = text.find(name + "{"); at != std::string::npos; at = text.find(name + "{", at + 1)) {
    const std::string line = text.substr(at, text.find('\n', at) - at);
    if (std::ranges::all_of(labels, [&](const std::string& label) { return line.find(label) != std::string::npos; }))
      sum += std::stoul(line.substr(line.rfind(' ') + 1));
  }
  return sum;
}

// Endpoints e0, e1, … at 127.0.9.1, 127.0.9.2, …, of one service at 240.1.0.1:80.
std::string plain_endpoints(int count) {
  std::string endpoints;
  for (int i = 0; i < count; ++i) {
    const std::string number = std::to_string(i);
    endpoints += "- {uid: e" + number + ", name: e" + number + ", workloadName: e" + number +
                 ", namespace: shop, serviceAccount: s, workloadIps: [127.0.9." + std::to_string(i + 1) +
                 "], protocol: TCP, services: {shop/s.shop: {}}}\n";
  }
  return endpoints;
}
std::string service_at(uint16_t port) {
  return "\n- {name: s, namespace: shop, hostname: s.shop, vips: [/240.1.0.1], ports: {80: " + std::to_string(port) + "}}\n";
}

}  // namespace

TEST_CASE("a connect that fails goes to another endpoint, and one that keeps failing is passed over") {
  Fixture f;
  const Server first("127.0.9.1"), second("127.0.9.2", first.port);
  f.know(plain_endpoints(3), service_at(first.port));  // e2 refuses
  std::vector<UniqueFd> applications;
  constexpr size_t kConnections = 60;
  for (size_t i = 0; i < kConnections; ++i) {
    f.open("240.1.0.1:80");
    REQUIRE(f.run_until([&] { return f.pod->unfinished() == 0; }));
    REQUIRE(f.pod->connection_count() == i + 1);
    applications.push_back(std::move(f.application));
  }
  const size_t failed = sum_of(f.metrics, "istio_tcp_connections_failed_total", {"destination_workload=\"e2\""});
  CHECK(failed == SetAside::kFailures);
  CHECK(sum_of(f.metrics, "zt_connect_failovers_total", {"connect_failed"}) == failed);
  CHECK(f.metrics.render().find("zt_endpoints_set_aside_total 1\n") != std::string::npos);
  const size_t to_first = sum_of(f.metrics, "istio_tcp_connections_opened_total", {"destination_workload=\"e0\""});
  const size_t to_second = sum_of(f.metrics, "istio_tcp_connections_opened_total", {"destination_workload=\"e1\""});
  CHECK(to_first + to_second == kConnections);
  CHECK(to_first > kConnections / 4);
  CHECK(to_second > kConnections / 4);
}

TEST_CASE("an endpoint that does not answer leaves time for another within the limit of a connect") {
  Fixture f;
  const Server good("127.0.9.1");
  // A server whose queue is full does not answer. One connection fills a backlog of none.
  UniqueFd full(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage storage{};
  const socklen_t length = SocketAddress{*IpAddress::parse("127.0.9.2"), good.port}.to_sockaddr(storage);
  REQUIRE(::bind(full.get(), reinterpret_cast<sockaddr*>(&storage), length) == 0);
  REQUIRE(::listen(full.get(), 0) == 0);
  std::vector<UniqueFd> fillers;
  for (int i = 0; i < 3; ++i) {
    fillers.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    (void)::connect(fillers.back().get(), reinterpret_cast<sockaddr*>(&storage), length);
  }
  f.know(plain_endpoints(2), service_at(good.port));
  const auto begun = Clock::now();
  std::vector<UniqueFd> applications;
  for (size_t i = 0; i < 2;
       ++i) {  // one at least begins with the silent one; both, if the first does, since its second try is a turn too
    f.open("240.1.0.1:80");
    REQUIRE(f.run_until([&] { return f.pod->unfinished() == 0; }));
    REQUIRE(f.pod->connection_count() == i + 1);
    applications.push_back(std::move(f.application));
  }
  CHECK(Clock::now() - begun < kConnectTimeout);
  const size_t failovers = sum_of(f.metrics, "zt_connect_failovers_total", {"connect_timeout"});
  CHECK((failovers == 1 || failovers == 2));
}

TEST_CASE("if no endpoint can be reached each is tried once, and the application sees a reset") {
  Fixture f;
  f.know(plain_endpoints(3), service_at(1));
  for (int i = 1; i <= 5; ++i) {
    f.open("240.1.0.1:80");
    REQUIRE(f.run_until([&] { return f.pod->unfinished() == 0; }));
    CHECK(f.pod->connection_count() == 0);
    CHECK(f.application_sees_reset());
    // All are set aside by and by, and tried all the same: never all of them.
    CHECK(sum_of(f.metrics, "istio_tcp_connections_failed_total", {"destination_service=\"s.shop\""}) ==
          static_cast<size_t>(3 * i));
  }
}

TEST_CASE("clients of one connection each are spread over the endpoints of a service, however many pods they are") {
  constexpr int kPods = 500, kEndpoints = 10;
  Fixture f;
  std::vector<Server> servers;
  for (int i = 0; i < kEndpoints; ++i)
    servers.emplace_back("127.0.9." + std::to_string(i + 1), i == 0 ? uint16_t{0} : servers.front().port);
  f.know(plain_endpoints(kEndpoints), service_at(servers.front().port));
  std::vector<std::unique_ptr<PodWorker>> pods;
  std::vector<UniqueFd> applications;
  for (int i = 0; i < kPods; ++i) {
    f.open("240.1.0.1:80");
    REQUIRE(f.run_until([&] { return f.pod->unfinished() == 0; }));
    applications.push_back(std::move(f.application));
    pods.push_back(std::exchange(
        f.pod,
        std::make_unique<PodWorker>(f.worker, "uid-" + std::to_string(i + 2), PodName{"client", "shop", "client"},
                                    SocketOptions{}, std::make_shared<PodCounts>(std::make_shared<std::atomic<size_t>>(0)))));
  }
  for (int i = 0; i < kEndpoints; ++i) {
    const std::string label = "destination_workload=\"e" + std::to_string(i) + "\"";
    INFO(label);
    CHECK(sum_of(f.metrics, "istio_tcp_connections_opened_total", {label}) == kPods / kEndpoints);
  }
  pods.clear();
}
