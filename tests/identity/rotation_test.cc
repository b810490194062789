#include <openssl/ssl.h>
#include <sys/socket.h>

#include <set>
#include <thread>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "identity/embedded_ca.h"
#include "identity/loop_scheduler.h"
#include "identity/secret_manager.h"
#include "tests/identity/fake_scheduler.h"
#include "tests/identity/support.h"

// The embedded CA and the secret manager together, with real TLS connections.
namespace zt::identity {
namespace {

using namespace test;
using namespace std::chrono_literals;

using SslCtxPtr = std::unique_ptr<SSL_CTX, OpensslFree<SSL_CTX_free>>;
using SslPtr = std::unique_ptr<SSL, OpensslFree<SSL_free>>;

SslCtxPtr context_of(const Credentials& credentials, WallTime now) {
  SslCtxPtr context(SSL_CTX_new(TLS_method()));
  SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION);
  REQUIRE(SSL_CTX_use_certificate(context.get(), credentials.certificate->leaf()) == 1);
  REQUIRE(SSL_CTX_use_PrivateKey(context.get(), credentials.certificate->private_key()) == 1);
  for (const X509Ptr& link : credentials.certificate->intermediates())
    REQUIRE(SSL_CTX_add1_chain_cert(context.get(), link.get()) == 1);
  SSL_CTX_set_cert_store(context.get(), must(credentials.trust->make_store()).release());
  X509_VERIFY_PARAM_set_time(SSL_CTX_get0_param(context.get()),
                             std::chrono::floor<std::chrono::seconds>(now).time_since_epoch().count());
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  return context;
}

// A mutual TLS connection between two identities over a pair of sockets, both ends driven here.
class Connection {
 public:
  Connection(const Credentials& client, const Credentials& server, WallTime now) {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
    client_fd_.reset(ends[0]);
    server_fd_.reset(ends[1]);
    client_.reset(SSL_new(context_of(client, now).get()));
    server_.reset(SSL_new(context_of(server, now).get()));
    SSL_set_fd(client_.get(), ends[0]);
    SSL_set_fd(server_.get(), ends[1]);
    SSL_set_connect_state(client_.get());
    SSL_set_accept_state(server_.get());
    for (int turn = 0; turn < 10 && !established(); ++turn) {
      SSL_do_handshake(client_.get());
      SSL_do_handshake(server_.get());
    }
    REQUIRE(established());
  }

  // A round trip of application data, the client's question there and back.
  [[nodiscard]] bool echo() {
    char buffer[16] = {};
    return SSL_write(client_.get(), "ping", 4) == 4 && SSL_read(server_.get(), buffer, sizeof buffer) == 4 &&
           SSL_write(server_.get(), buffer, 4) == 4 && SSL_read(client_.get(), buffer, sizeof buffer) == 4 &&
           std::string_view(buffer, 4) == "ping";
  }
  [[nodiscard]] std::string server_serial() const { return serial_decimal(SSL_get0_peer_certificate(client_.get())); }
  [[nodiscard]] SpiffeId client_identity() const { return spiffe_sans(SSL_get0_peer_certificate(server_.get())).at(0); }

 private:
  [[nodiscard]] bool established() const {
    return SSL_is_init_finished(client_.get()) == 1 && SSL_is_init_finished(server_.get()) == 1;
  }
  UniqueFd client_fd_, server_fd_;
  SslPtr client_, server_;
};

TEST_CASE("certificates rotate without a dropped connection, and new connections use the new ones") {
  constexpr int kDays = 3;
  const TempDir temp;
  FakeScheduler scheduler;  // its clock stands while the CA's thread works
  const auto ca =
      must(EmbeddedCa::open({.directory = temp.path(), .ttl = 24h, .wall_now = [&scheduler] { return scheduler.wall_now(); }}));
  SecretManager manager(*ca, scheduler);
  const SpiffeId client = id_of("client"), server = id_of("server");
  std::set<std::string> rotated;
  manager.subscribe([&](const SpiffeId& id, const Credentials& now) {
    if (id == server) rotated.insert(now.certificate ? now.certificate->serial() : "none");
  });
  const auto settle = [&] {
    while (manager.stats().in_flight + manager.stats().queued > 0) {
      scheduler.run_posted();
      std::this_thread::yield();
    }
  };
  manager.prefetch(client);
  manager.prefetch(server);
  settle();

  std::vector<std::unique_ptr<Connection>> connections;
  std::set<std::string> used;
  for (int hour = 0; hour < kDays * 24; ++hour) {
    const auto ours = must(manager.current(client)), theirs = must(manager.current(server));
    connections.push_back(std::make_unique<Connection>(ours, theirs, scheduler.wall_now()));
    CHECK(connections.back()->client_identity() == client);
    CHECK(connections.back()->server_serial() == theirs.certificate->serial());
    used.insert(connections.back()->server_serial());
    for (const auto& connection : connections) REQUIRE(connection->echo());
    for (int minute = 0; minute < 60; ++minute) {
      scheduler.advance(60s, [&] { return manager.stats().in_flight > 0; });  // stops at a fetch,
      settle();                                                               // which is then answered
    }
  }
  // A renewal may fall into the last hour.
  const Connection last(must(manager.current(client)), must(manager.current(server)), scheduler.wall_now());
  used.insert(last.server_serial());
  CHECK_FALSE(rotated.contains("none"));  // never a gap
  CHECK(rotated.size() >= kDays * 2 - 1);
  CHECK(used == rotated);
}

TEST_CASE("workers that ask through posts all get their certificates") {
  const TempDir temp;
  EventLoop loop;
  LoopScheduler scheduler(loop);
  const auto ca = must(EmbeddedCa::open({.directory = temp.path(), .ttl = 1h, .wall_now = {}}));
  auto manager = std::make_unique<SecretManager>(*ca, scheduler);
  constexpr int kWorkers = 3, kAsks = 300;
  std::atomic<int> good = 0, done = 0;
  std::vector<std::thread> workers;
  for (int worker = 0; worker < kWorkers; ++worker)
    workers.emplace_back([&, worker] {
      for (int i = 0; i < kAsks; ++i)
        loop.post([&, id = id_of(std::to_string((worker + i) % 40))] {
          manager->get(id, [&](const Result<Credentials>& result) {
            if (result) ++good;
            ++done;
          });
        });
    });
  CHECK(loop.run_until([&] { return done == kWorkers * kAsks; }, 20s));
  for (std::thread& worker : workers) worker.join();
  CHECK(good == kWorkers * kAsks);
  CHECK(manager->stats().fetch_failures == 0);
  manager.reset();  // fetches may be in flight; their answers find nobody
}

TEST_CASE("a timer of the loop's scheduler runs once, and not after it was dropped") {
  EventLoop loop;
  LoopScheduler scheduler(loop);
  int ran = 0;
  auto kept = scheduler.after(1ms, [&] { ++ran; });
  auto dropped = scheduler.after(1ms, [&] { ran += 100; });
  dropped.reset();
  std::unique_ptr<Scheduler::Timer> self;
  self = scheduler.after(2ms, [&] {
    self.reset();  // inside its own callback
    scheduler.post([&] { ++ran; });
  });
  CHECK(loop.run_until([&] { return ran == 2; }, 5s));
  loop.run_once(5ms);
  CHECK(ran == 2);
}

}  // namespace
}  // namespace zt::identity
