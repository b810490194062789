// What a pod opens, without a listener or a thread: the loop is run by the test.
#include "ztunnel/proxy/outbound.h"

#include <netinet/in.h>
#include <sys/socket.h>

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
  WorkerSettings settings{.sockets = {}, .memory = &memory};
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
  void know(const std::string& others) {
    auto parsed = workload_api::parse_local_config(
        "workloads:\n- {uid: c, name: client, namespace: shop, serviceAccount: client, workloadIps: [127.0.0.1], protocol: "
        "HBONE, "
        "services: {}}\n" +
            others + "services: []\npolicies: []\n",
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
