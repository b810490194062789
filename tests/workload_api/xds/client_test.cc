// The client over gRPC and TLS, against a control plane in this process that behaves as the recorded ones do,
// and misbehaves as real ones do at times.
#include "workload_api/xds/xds_client.h"

#include <memory>

#include "tests/support/istiod/fake_istiod.h"
#include "tests/support/istiod/temp_dir.h"
#include "tests/workload_api/xds/support.h"
#include "workload_api/xds/ads_stream.h"
#include "workload_api/xds/reconnect.h"

namespace zt::workload_api::test {
namespace {

using namespace std::chrono_literals;
using zt::test::FakeAds;
using zt::test::FakeIstiod;
using zt::test::FakeStatus;
using zt::test::MountedFile;
using zt::test::TempDir;
using zt::test::TestPki;

constexpr auto kLimit = 20s;  // for what should come at once; the machine may be slow

struct Fixture {
  explicit Fixture(FakeIstiod::Options server = {}) : istiod(server) {
    put(addresses_url, "a", pod("a"), "v1");
    put(addresses_url, "shop/web.example", service("web.example"), "v1", {"/10.96.0.1"});
    put(policies_url, "shop/p", policy("p"), "");
    options.endpoint.address = istiod.address();
    options.endpoint.roots = {Roots::Source::kInline, istiod.pki().root_pem()};
    options.endpoint.credentials.token = {Token::Source::kLiteral, "secret-token"};
    options.endpoint.credentials.with_token = {{"clusterid", "Kubernetes"}};
    options.node_id = "ztunnel~1.1.1.1~z.istio-system~istio-system.svc.cluster.local";
    options.node_metadata = {{"NODE_NAME", "node-a"}};
  }

  void put(const std::string& url, const std::string& name, const google::protobuf::Message& content, const std::string& version,
           std::vector<std::string> aliases = {}) {
    istiod.ads().change({url, {{name, {version, content.SerializeAsString(), std::move(aliases)}}}, {}});
  }
  void remove(const std::string& url, const std::string& name) { istiod.ads().change({url, {}, {name}}); }

  void start() {
    client = must(XdsClient::create(loop, store, options));
    client->start([this] { ++ready_calls; });
  }
  void start_ready() {
    start();
    REQUIRE(until([this] { return client->ready(); }));
  }
  bool until(const std::function<bool()>& done, Clock::duration limit = kLimit) { return loop.run_until(done, limit); }
  bool has(const std::string& uid) const { return store.snapshot()->workload(uid) != nullptr; }

  const std::string addresses_url{kAddressTypeUrl};
  const std::string policies_url{kAuthorizationTypeUrl};
  FakeIstiod istiod;
  EventLoop loop;
  Store store{{}};
  XdsOptions options;
  std::unique_ptr<XdsClient> client;
  int ready_calls = 0;
};

uint64_t count(const XdsStats& stats, StreamEnd end) { return stats.terminations[static_cast<size_t>(end)]; }

}  // namespace

TEST_CASE(
    "Connected, the store holds what the control plane has, every call carries who we are, and readiness is "
    "told once") {
  Fixture f;
  f.options.endpoint.headers = {{"x-extra", "value"}};
  f.start_ready();
  CHECK(f.ready_calls == 1);
  CHECK(f.has("a"));
  CHECK(f.store.snapshot()->service("shop/web.example") != nullptr);
  CHECK(f.store.snapshot()->policy("shop/p") != nullptr);
  const auto headers = f.istiod.last_headers();
  CHECK(headers.at("authorization") == "Bearer secret-token");
  CHECK(headers.at("clusterid") == "Kubernetes");
  CHECK(headers.at("x-extra") == "value");

  const auto acked = [](const std::vector<FakeAds::Received>& all) { return all.size() == 4; };
  REQUIRE(f.istiod.ads().wait(acked));
  const auto received = f.istiod.ads().received();
  CHECK(received[0].request.node().id() == f.options.node_id);
  CHECK(received[0].request.type_url() == kAddressTypeUrl);
  CHECK(received[1].request.type_url() == kAuthorizationTypeUrl);
  CHECK(received[2].request.response_nonce() == "nonce-1");
  CHECK_FALSE(received[2].request.has_node());
  CHECK_FALSE(received[2].request.has_error_detail());

  f.put(f.addresses_url, "b", pod("b"), "v1");
  CHECK(f.until([&] { return f.has("b"); }));
  f.remove(f.addresses_url, "a");
  CHECK(f.until([&] { return !f.has("a"); }));
  CHECK(f.ready_calls == 1);
  const XdsStats stats = f.client->stats();
  CHECK(stats.connected);
  CHECK(stats.messages[0] == 3);
  CHECK(stats.retained[0] == 2);
  CHECK(stats.last_ack);
}

TEST_CASE("A malformed resource is named in the NACK over the wire, and the stream goes on") {
  Fixture f;
  f.start_ready();
  f.put(f.addresses_url, "bad", pod("bad", "abc"), "v1");
  const auto nacked = [](const std::vector<FakeAds::Received>& all) {
    return !all.empty() && all.back().request.has_error_detail();
  };
  CHECK(f.until([&] { return f.istiod.ads().wait(nacked, 0ms); }));
  const auto error = f.istiod.ads().received().back().request.error_detail();
  CHECK(error.message() == "bad: failed to parse address, had 3 bytes");
  CHECK(error.code() == 3);
  f.put(f.addresses_url, "b", pod("b"), "v1");
  CHECK(f.until([&] { return f.has("b"); }));
  CHECK(f.istiod.ads().streams() == 1);
}

TEST_CASE("A control plane that is down at the start is tried with growing pauses, and used as soon as it is up") {
  Fixture f;
  f.istiod.stop();
  f.start();
  CHECK_FALSE(f.until([&] { return f.client->ready(); }, 1500ms));
  const XdsStats stats = f.client->stats();
  CHECK(stats.streams >= 3);
  CHECK(stats.streams <= 12);
  CHECK(count(stats, StreamEnd::kConnectionError) >= 2);
  CHECK_FALSE(stats.connected);
  f.istiod.start();
  CHECK(f.until([&] { return f.client->ready(); }));
}

TEST_CASE("Through an outage everything stays, and afterwards only what changed comes") {
  Fixture f;
  f.start_ready();
  f.istiod.stop();
  CHECK(f.until([&] { return !f.client->stats().connected; }));
  CHECK(f.has("a"));
  CHECK(f.client->ready());
  f.remove(f.addresses_url, "a");
  f.put(f.addresses_url, "b", pod("b"), "v7");
  f.istiod.start();
  CHECK(f.until([&] { return f.has("b") && !f.has("a"); }));
  for (const auto& [stream, request] : f.istiod.ads().received())
    if (stream > 1 && request.has_node() && request.type_url() == kAddressTypeUrl) {
      CHECK(request.initial_resource_versions_size() == 2);
      CHECK(request.initial_resource_versions().at("a") == "v1");
      CHECK(request.initial_resource_versions().at("shop/web.example") == "v1");
    }
  CHECK(f.store.snapshot()->service("shop/web.example") != nullptr);
}

TEST_CASE("However a stream ends, a new one follows, and the metric says how it ended") {
  const auto [status, end] = GENERATE(table<FakeStatus, StreamEnd>({
      {{0, ""}, StreamEnd::kComplete},
      {{14, "transport is closing"}, StreamEnd::kReconnect},
      {{2, "something"}, StreamEnd::kReconnect},
      {{14, "overloaded"}, StreamEnd::kError},
      {{13, "broken"}, StreamEnd::kError},
  }));
  INFO(status.code << " " << status.message);
  Fixture f;
  f.start_ready();
  f.istiod.ads().end_streams(status);
  CHECK(f.until([&] { return f.istiod.ads().streams() == 2 && f.client->stats().connected; }));
  CHECK(count(f.client->stats(), end) == 1);
  CHECK(f.has("a"));
}

TEST_CASE("A control plane that refuses us, or hangs up after each answer, is not called in a loop") {
  Fixture f;
  SECTION("refused: PERMISSION_DENIED") {
    f.istiod.ads().refuse_streams(FakeStatus{7, "authorization failed"});
    f.start();
    CHECK_FALSE(f.until([&] { return f.client->ready(); }, 1500ms));
    CHECK(f.client->stats().streams <= 12);
    CHECK(count(f.client->stats(), StreamEnd::kConnectionError) >= 2);
    f.istiod.ads().refuse_streams(std::nullopt);
    CHECK(f.until([&] { return f.client->ready(); }));
  }
  SECTION("answers and hangs up") {
    f.start();
    const auto until = Clock::now() + 1500ms;
    while (Clock::now() < until) {
      f.loop.run_once(5ms);
      if (f.client->stats().connected) f.istiod.ads().end_streams({0, ""});
    }
    CHECK(f.client->stats().streams >= 2);
    CHECK(f.client->stats().streams <= 12);
    CHECK(f.has("a"));
  }
}

TEST_CASE("A message that is no message ends the stream, not the state") {
  Fixture f;
  f.start_ready();
  f.istiod.ads().send_raw("this is not a protobuf message at all");
  CHECK(f.until([&] { return f.istiod.ads().streams() == 2 && f.client->stats().connected; }));
  const XdsStats stats = f.client->stats();
  CHECK(stats.undecodable_messages == 1);
  CHECK(count(stats, StreamEnd::kError) == 1);
  CHECK(f.has("a"));
}

TEST_CASE("A message above 200 MiB ends the stream, not the state") {
  Fixture f;
  f.start_ready();
  f.istiod.ads().send_raw(std::string(kMaxResponseBytes + 1, 'x'));
  CHECK(f.until([&] { return f.istiod.ads().streams() == 2 && f.client->stats().connected; }, 60s));
  CHECK(count(f.client->stats(), StreamEnd::kError) == 1);
  CHECK(f.has("a"));
}

TEST_CASE("A control plane that accepts and then says nothing leaves us not ready, without calling again") {
  Fixture f;
  f.istiod.ads().answer(false);
  f.start();
  CHECK_FALSE(f.until([&] { return f.client->ready(); }, 300ms));
  CHECK(f.istiod.ads().streams() <= 1);
}

TEST_CASE("The token file is read for each stream, a missing or empty one fails that stream and says so") {
  Fixture f;
  f.istiod.require_token("second");
  TempDir dir;
  f.options.endpoint.credentials.token = {Token::Source::kFile, dir.file("token")};
  f.start();
  CHECK_FALSE(f.until([&] { return f.client->ready(); }, 100ms));
  CHECK(f.istiod.last_headers().empty());  // nothing was called without it
  dir.write("token", "\n");
  CHECK_FALSE(f.until([&] { return f.client->ready(); }, 100ms));
  CHECK(f.istiod.last_headers().empty());
  dir.write("token", "first");
  CHECK(f.until([&] { return !f.istiod.last_headers().empty(); }));
  CHECK_FALSE(f.client->ready());
  dir.write("token", "second\n");
  CHECK(f.until([&] { return f.client->ready(); }));
  CHECK(f.istiod.last_token() == "second");
}

TEST_CASE("Without a token neither it nor the cluster id is sent") {
  Fixture f;
  f.options.endpoint.credentials.token = {};
  f.start_ready();
  CHECK_FALSE(f.istiod.last_headers().contains("authorization"));
  CHECK_FALSE(f.istiod.last_headers().contains("clusterid"));
}

TEST_CASE("The server's certificate must have the host's name or the alternative one") {
  FakeIstiod::Options server;
  server.server_names = {"istiod.istio-system.svc", "*.mesh.example"};
  Fixture f(server);
  SECTION("it has neither") {
    f.options.endpoint.alt_hostname = "deep.in.mesh.example";
    f.start();
    CHECK_FALSE(f.until([&] { return f.client->ready(); }, 500ms));
    CHECK(f.istiod.ads().streams() == 0);
    CHECK(count(f.client->stats(), StreamEnd::kConnectionError) >= 1);
  }
  SECTION("it has the alternative") {
    f.options.endpoint.alt_hostname = "istiod.istio-system.svc";
    f.start_ready();
  }
  SECTION("a wildcard is the alternative") {
    f.options.endpoint.alt_hostname = "any.mesh.example";
    f.start_ready();
  }
}

TEST_CASE("The roots are read for each connection: a file swapped as Kubernetes does it is noticed") {
  Fixture f;
  const TestPki other("another root");
  MountedFile roots("root-cert.pem", other.root_pem());
  f.options.endpoint.roots = {Roots::Source::kFile, roots.path()};
  f.start();
  CHECK_FALSE(f.until([&] { return f.client->ready(); }, 300ms));
  CHECK(f.istiod.ads().streams() == 0);
  roots.publish("no certificate at all");
  CHECK_FALSE(f.until([&] { return f.client->ready(); }, 100ms));
  roots.publish(other.root_pem() + f.istiod.pki().root_pem());
  CHECK(f.until([&] { return f.client->ready(); }));
}

TEST_CASE("On demand, addresses are looked up one by one") {
  Fixture f;
  f.options.on_demand = true;
  std::vector<std::pair<std::string, LookupAnswer>> answers;
  const auto look_up = [&](const std::string& key) {
    f.client->look_up(key, "pod", [&answers, key](LookupAnswer answer) { answers.emplace_back(key, answer); });
  };
  f.start_ready();
  CHECK_FALSE(f.has("a"));
  look_up("/10.96.0.1");
  look_up("/10.96.0.1");
  look_up("a");
  look_up("/192.0.2.9");
  CHECK(f.until([&] { return answers.size() == 4; }));
  for (const auto& [key, answer] : answers) CHECK(answer == LookupAnswer::kAnswered);
  CHECK(f.has("a"));
  CHECK(f.store.snapshot()->service("shop/web.example") != nullptr);
  const size_t requests = f.istiod.ads().received().size();
  look_up("a");
  CHECK(answers.size() == 5);  // at once, without a request
  f.loop.run_once(0ms);
  for (const auto& [stream, request] : f.istiod.ads().received())
    CHECK((request.resource_names_unsubscribe_size() == 0 || request.has_node()));
  CHECK(f.istiod.ads().received().size() <= requests + 1);  // an ACK may have been under way

  SECTION("what was asked in vain comes by itself once it is there") {
    f.put(f.addresses_url, "late", pod("late", std::string("\xc0\x00\x02\x09", 4)), "v1", {"/192.0.2.9"});
    CHECK(f.until([&] { return f.has("late"); }));
  }
  SECTION("who waits over a break of the stream is answered by the next one") {
    f.istiod.stop();
    CHECK(f.until([&] { return !f.client->stats().connected; }));
    look_up("/10.1.1.1");
    CHECK(f.client->stats().lookups_waiting == 1);
    f.istiod.start();
    CHECK(f.until([&] { return answers.size() == 6; }));
    CHECK(answers.back().second == LookupAnswer::kAnswered);
  }
  SECTION("who waits at the end is refused") {
    f.istiod.ads().answer(false);
    look_up("/10.1.1.1");
    f.client.reset();
    CHECK(answers.back() == std::pair{std::string("/10.1.1.1"), LookupAnswer::kRefused});
  }
}

TEST_CASE("A lookup that the control plane does not answer ends in time") {
  Fixture f;
  f.options.on_demand = true;
  f.start_ready();
  f.istiod.ads().answer(false);
  std::optional<LookupAnswer> answer;
  const auto begun = Clock::now();
  f.client->look_up("/10.1.1.1", "pod", [&](LookupAnswer given) { answer = given; });
  CHECK(f.until([&] { return answer.has_value(); }));
  CHECK(answer == LookupAnswer::kTimedOut);
  CHECK(Clock::now() - begun >= kLookupLimit);
  CHECK(f.client->stats().lookup_timeouts == 1);
}

TEST_CASE("The client can go at any moment") {
  Fixture f;
  for (int i = 0; i < 40; ++i) {
    f.start();
    const auto until = Clock::now() + std::chrono::milliseconds(i);
    while (Clock::now() < until) f.loop.run_once(1ms);
    f.client.reset();
  }
  f.loop.run_once(0ms);
  SECTION("also while a large message is being decoded") {
    Push push = addresses();
    for (int i = 0; i < 20'000; ++i) push.add("p" + std::to_string(i), pod("p" + std::to_string(i)));
    f.start_ready();
    f.istiod.ads().send_raw(push.bytes());
    f.loop.run_once(20ms);
    f.client.reset();
  }
}

TEST_CASE("What cannot be right is refused when the client is made") {
  EventLoop loop;
  Store store{{}};
  const auto why = [&](const std::function<void(XdsOptions&)>& change) {
    XdsOptions options;
    options.endpoint.address = "https://istiod:15012";
    change(options);
    const auto client = XdsClient::create(loop, store, options);
    return client ? "" : client.error().text;
  };
  CHECK(why([](auto&) {}) == "");
  CHECK(why([](auto& o) { o.endpoint.address = "http://istiod:15010"; }) == "http://istiod:15010 is not https://host:port");
  CHECK(why([](auto& o) { o.endpoint.address = "https://istiod"; }) == "https://istiod is not https://host:port");
  CHECK(why([](auto& o) { o.endpoint.headers = {{"grpc-timeout", "1"}}; }) == "the extra header grpc-timeout cannot be sent");
  CHECK(why([](auto& o) { o.endpoint.headers = {{"ok", "line\nbreak"}}; }) == "the extra header ok cannot be sent");
  CHECK(why([](auto& o) { o.node_json = {{"K", "{"}}; }).starts_with("node metadata K is not JSON"));
}

TEST_CASE("Ends of streams are told apart") {
  CHECK(classify_end(0, "", false) == StreamEnd::kComplete);
  CHECK(classify_end(14, "failed to connect to all addresses", false) == StreamEnd::kConnectionError);
  CHECK(classify_end(16, "authentication failure", false) == StreamEnd::kConnectionError);
  CHECK(classify_end(14, "Socket closed", true) == StreamEnd::kReconnect);
  CHECK(classify_end(1, "", true) == StreamEnd::kReconnect);
  CHECK(classify_end(4, "", true) == StreamEnd::kReconnect);
  CHECK(classify_end(8, "message larger than max", true) == StreamEnd::kError);
}

TEST_CASE("A stream that was good is followed by the next in milliseconds, only failures in a row make the pauses grow") {
  using Time = Reconnect::Time;
  const Time start = Clock::now();
  Reconnect reconnect([] { return 0.999999; });
  Time now = start;
  // 30 s of restarts: each attempt that reaches nobody, then a good stream.
  for (int restart = 0; restart < 3; ++restart) {
    CHECK(reconnect.pause(now, {.answered = now - 5s}) < 20ms);
    std::chrono::milliseconds longest{};
    for (const Time back = now + 30s; now < back;) {
      const auto pause = reconnect.pause(now, {.answered = {}, .unreachable = true});
      longest = std::max(longest, pause);
      now += pause + 1ms;
    }
    CHECK(longest >= 500ms);
    CHECK(longest < 1s);
    now += 10s;
  }
}

TEST_CASE("Nobody there at the start is tried every second, an outage of minutes and a refusal with growing pauses") {
  using Time = Reconnect::Time;
  const auto longest = [](Reconnect& reconnect, Time from, Time to, const Reconnect::End& end) {
    std::chrono::milliseconds most{};
    for (Time now = from; now < to;) {
      const auto pause = reconnect.pause(now, end);
      most = std::max(most, pause);
      now += pause;
    }
    return most;
  };
  const Time start = Clock::now();
  const auto random = [] { return 0.999999; };
  Reconnect at_start(random);
  CHECK(longest(at_start, start, start + 10min, {.answered = {}, .unreachable = true}) < 1s);
  Reconnect refused(random);
  CHECK(longest(refused, start, start + 10min, {.answered = {}, .unreachable = false}) > 14s);
  Reconnect long_outage(random);
  (void)long_outage.pause(start, {.answered = start - 1min});
  CHECK(longest(long_outage, start, start + 10min, {.answered = {}, .unreachable = true}) > 14s);
  Reconnect hangs_up(random);
  Time now = start;
  int streams = 0;
  while (now < start + 10s) {
    now += 5ms + hangs_up.pause(now + 5ms, {.answered = now});
    ++streams;
  }
  CHECK(streams < 12);
}

}  // namespace zt::workload_api::test
