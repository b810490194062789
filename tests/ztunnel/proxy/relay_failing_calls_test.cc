// Relays while their system calls fail, one at a time.
#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <optional>
#include <string>
#include <utility>

#include "tests/hbone/tunnel_pair.h"
#include "tests/support/failing_calls/failing_calls.h"
#include "ztunnel/proxy/relay.h"

using namespace zt;
using namespace zt::ztunnel;
using namespace zt::testing;
using namespace std::chrono_literals;
using hbone::testing::tcp_pair;

namespace {

constexpr size_t kBytes = 1'000'000;  // each way: many batches and pipes

// An application's end: sends kBytes and then its end, takes what comes. Its own calls do not fail.
struct App {
  UniqueFd fd;
  size_t left = kBytes;
  size_t received = 0;
  bool ended = false;
  int error = 0;

  void step() {
    const OwnCalls own;
    static const std::string bytes(64 * 1024, 'x');
    if (left > 0) {
      const ssize_t n = ::send(fd.get(), bytes.data(), std::min(bytes.size(), left), MSG_NOSIGNAL);
      if (n > 0 && (left -= static_cast<size_t>(n)) == 0) ::shutdown(fd.get(), SHUT_WR);
      if (n < 0 && errno != EAGAIN) error = errno;
    }
    char buffer[65536];
    while (!ended && error == 0) {
      const ssize_t n = ::recv(fd.get(), buffer, sizeof buffer, 0);
      if (n > 0) received += static_cast<size_t>(n);
      if (n == 0) ended = true;
      if (n < 0 && errno == EAGAIN) return;
      if (n < 0) error = errno;
    }
  }
  [[nodiscard]] bool over() const { return ended || error != 0; }
};

// Two applications and what is between them, on one loop.
struct Between {
  struct Again final : Deferred {
    void on_turn_end() noexcept override {}
  };
  hbone::testing::Pair pair;
  Again again;
  App client, server;
  UniqueFd client_socket, server_socket;
  std::unique_ptr<Relay> near, far;
  size_t relays_over = 0;

  Between() {
    std::tie(client.fd, client_socket) = tcp_pair();
    std::tie(server_socket, server.fd) = tcp_pair();
  }
  ~Between() { pair.loop.cancel_deferred(again); }

  bool run(const std::function<bool()>& done) {
    return pair.run([&] {
      client.step();
      server.step();
      pair.loop.defer(again);  // the applications are not watched: keep turning
      return done();
    });
  }
  auto count() {
    return [this](Relay&) { ++relays_over; };
  }
  Result<> splice() {
    auto relay = std::make_unique<SpliceRelay>(pair.io, std::shared_ptr<MemoryAccount>(std::shared_ptr<void>(), &pair.io.budget));
    ZT_TRY(relay->start(std::move(client_socket), std::move(server_socket), count()));
    near = std::move(relay);
    return {};
  }
  // Up to the answer nothing fails: the tunnel's tests do that.
  Result<> tunnel() {
    auto outgoing = std::make_unique<StreamRelay>(pair.io, StreamRelay::Side::kSocketIsClient);
    auto incoming = std::make_unique<StreamRelay>(pair.io, StreamRelay::Side::kSocketIsServer);
    {
      const OwnCalls own;
      const auto opened = pair.client.tunnel->open(hbone::testing::kConnect, *outgoing);
      REQUIRE(opened);
      outgoing->attach(**opened);
      REQUIRE(pair.run([&] { return outgoing->answered().is_set(); }));
      hbone::Stream& stream = *std::exchange(pair.server.users[0]->stream, nullptr);
      incoming->attach(stream);
      stream.set_handler(incoming.get());
    }
    ZT_TRY(outgoing->start(std::move(client_socket), count()));
    near = std::move(outgoing);
    ZT_TRY(incoming->start(std::move(server_socket), count()));
    far = std::move(incoming);
    return {};
  }
};

// Whatever happens, both applications see an end in time: an orderly one only if they have all bytes. Returns whether all went
// well.
bool relay(bool tunnelled) {
  std::optional<Between> between;
  {
    const OwnCalls own;
    between.emplace();
  }
  const auto started = tunnelled ? between->tunnel() : between->splice();
  const bool finished = !started || between->run([&] {
    return between->client.over() && between->server.over() && between->relays_over == (tunnelled ? 2 : 1);
  });
  CHECK(finished);
  bool well = started.has_value();
  for (const App* app : {&between->client, &between->server}) {
    well = well && app->ended && app->error == 0;
    if (started && app->ended) CHECK(app->received == kBytes);
  }
  const OwnCalls own;
  between.reset();
  return well;
}

}  // namespace

TEST_CASE("whatever call of a relay fails, both applications see an end in time, and an orderly one only with all bytes") {
  const bool tunnelled = GENERATE(false, true);
  CAPTURE(tunnelled);
  // No setsockopt: what a relay sets cannot fail for want of anything, and without SO_LINGER there is no reset.
  const size_t calls = fail_each(without(every_call(), {Call::kSetsockopt}), [&](const FailNth& fail) {
    const bool well = relay(tunnelled);
    if (fail.failed().empty()) CHECK(well);
  });
  CHECK(calls > 20);
}

TEST_CASE("signals that interrupt a relay's calls change nothing") {
  const bool tunnelled = GENERATE(false, true);
  CAPTURE(tunnelled);
  const size_t calls = fail_each(interrupted_calls(), [&](const FailNth&) { CHECK(relay(tunnelled)); });
  CHECK(calls > 20);
}
