#include "ztunnel/admin/http_server.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "tests/ztunnel/admin/http_test_client.h"
#include "ztunnel/admin/http_negotiate.h"

using namespace zt;
using namespace zt::ztunnel;
using namespace std::chrono_literals;
using testing::Client;
using testing::request;

namespace {

const ListenAddress kAnyPort = SocketAddress{*IpAddress::parse("127.0.0.1"), 0};

SocketAddress serve(HttpServer& server, HttpHandler handler) {
  const auto bound = server.listen("test", kAnyPort, false, std::move(handler));
  REQUIRE(bound);
  return bound->front();
}

HttpHandler echo() {
  return [](const HttpRequest& request, const HttpRespond& respond) {
    respond(HttpResponse::text(200, request.method + " " + request.path + "?" + request.query + " " + request.body));
  };
}

// A handler whose answer the test gives later.
class Later {
 public:
  HttpHandler handler() {
    return [this](const HttpRequest&, HttpRespond respond) {
      const std::lock_guard lock(mutex_);
      respond_ = std::move(respond);
      asked_.notify_all();
    };
  }
  HttpRespond take() {
    std::unique_lock lock(mutex_);
    REQUIRE(asked_.wait_for(lock, 10s, [&] { return respond_ != nullptr; }));
    return std::exchange(respond_, nullptr);
  }

 private:
  std::mutex mutex_;
  std::condition_variable asked_;
  HttpRespond respond_;
};

}  // namespace

TEST_CASE("requests reach the handler in parts, and answers carry length and date") {
  HttpServer server;
  const auto address = serve(server, echo());
  const auto answer = request(address, "POST", "/a/b?c=d&e", "content-length: 4\r\n\r\nbody");
  CHECK(answer.status == 200);
  CHECK(answer.body == "POST /a/b?c=d&e body");
  CHECK(answer.headers.at("content-type") == "text/plain");
  CHECK(answer.headers.at("content-length") == "20");
  CHECK_THAT(answer.headers.at("date"), Catch::EndsWith(" GMT"));
}

TEST_CASE("a connection serves several requests, until the client asks to close") {
  HttpServer server;
  Client client(serve(server, echo()));
  for (int i = 0; i < 3; ++i) {
    client.send("GET /" + std::to_string(i) + " HTTP/1.1\r\nhost: x\r\n\r\n");
    CHECK(client.receive().body == "GET /" + std::to_string(i) + "? ");
  }
  client.send("GET /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
  CHECK(client.receive().status == 200);
  CHECK(client.at_end());
}

TEST_CASE("HEAD gets the length and no body") {
  HttpServer server;
  const auto answer = request(serve(server, echo()), "HEAD", "/x");
  CHECK(answer.status == 200);
  CHECK(answer.headers.at("content-length") == "9");
}

TEST_CASE("answers may come later, from another thread, others are served meanwhile") {
  HttpServer server;
  Later later;
  const auto slow = serve(server, later.handler());
  const auto fast = serve(server, echo());
  Client waiting(slow);
  waiting.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
  auto respond = later.take();
  CHECK(request(fast, "GET", "/").status == 200);
  std::thread([&] { respond(HttpResponse::text(200, "late")); }).join();
  respond(HttpResponse::text(200, "twice"));
  CHECK(waiting.receive().body == "late");
  waiting.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
  later.take()(HttpResponse::text(200, "second"));
  CHECK(waiting.receive().body == "second");
}

TEST_CASE("a handler that forgets to answer, or throws, gives a 500") {
  HttpServer server;
  const auto forgetful = serve(server, [](const HttpRequest&, const HttpRespond&) {});
  CHECK(request(forgetful, "GET", "/").status == 500);
  const auto throwing = serve(server, [](const HttpRequest&, const HttpRespond&) { throw std::runtime_error("broken"); });
  const auto answer = request(throwing, "GET", "/");
  CHECK(answer.status == 500);
  CHECK(answer.body == "broken\n");
}

TEST_CASE("an answer that comes after its client, or its server, has gone does no harm") {
  Later later;
  HttpRespond respond;
  {
    HttpServer server({.close_grace = 10ms});
    Client client(serve(server, later.handler()));
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    respond = later.take();
  }
  respond(HttpResponse::text(200, "nobody"));
}

TEST_CASE("large answers go out in pieces, small ones with a length") {
  HttpServer server;
  const auto address = serve(server, [](const HttpRequest& request, const HttpRespond& respond) {
    HttpResponse response;
    response.more = [left = std::stoul(request.query)](std::string& out) mutable {
      const size_t piece = std::min<size_t>(left, 64 << 10);
      out.append(piece, 'x');
      left -= piece;
      return left > 0;
    };
    respond(std::move(response));
  });
  const auto small = request(address, "GET", "/?1000");
  CHECK(small.headers.at("content-length") == "1000");
  const auto large = request(address, "GET", "/?5000000");
  CHECK(large.headers.at("transfer-encoding") == "chunked");
  CHECK(large.body == std::string(5'000'000, 'x'));
  Client old(address);
  old.send("GET /?3000000 HTTP/1.0\r\n\r\n");
  const auto whole = old.receive();
  CHECK_FALSE(whole.headers.contains("content-length"));
  CHECK(whole.body.size() == 3'000'000);
  CHECK(old.at_end());
  Client twice(address);
  for (int i = 0; i < 2; ++i) {
    twice.send("GET /?2000000 HTTP/1.1\r\nhost: x\r\n\r\n");
    CHECK(twice.receive().body.size() == 2'000'000);
  }
}

TEST_CASE("bad requests are told so and closed") {
  using Row = std::tuple<const char*, std::string, int>;
  const auto [name, bytes, status] = GENERATE(table<const char*, std::string, int>({
      Row{"garbage", "\x16\x03\x01\x02\r\n\r\n", 400},
      Row{"no version", "GET /\r\n\r\n", 400},
      Row{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
      Row{"bad length", "POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n", 400},
      Row{"two lengths", "POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400},
      Row{"header too large", "GET / HTTP/1.1\r\nx: " + std::string(9000, 'x') + "\r\n\r\n", 431},
      Row{"body too large", "POST / HTTP/1.1\r\ncontent-length: 100000\r\n\r\n", 413},
  }));
  INFO(name);
  HttpServer server;
  Client client(serve(server, echo()));
  client.send(bytes);
  CHECK(client.receive().status == status);
  CHECK(client.at_end());
}

TEST_CASE("silent clients are closed after the header timeout, idle or half way through") {
  HttpServer server({.header_timeout = 50ms});
  const auto address = serve(server, echo());
  Client silent(address);
  CHECK(silent.at_end());
  Client half(address);
  half.send("GET / HTTP/1.1\r\nhost");
  CHECK(half.at_end());
  Client idle(address);
  idle.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
  CHECK(idle.receive().status == 200);
  CHECK(idle.at_end());
}

namespace {

constexpr auto kGet = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

SocketAddress serve_all_of_loopback(HttpServer& server, HttpHandler handler) {
  const auto bound = server.listen("test", SocketAddress{*IpAddress::parse("0.0.0.0"), 0}, false, std::move(handler));
  REQUIRE(bound);
  return {*IpAddress::parse("127.0.0.1"), bound->front().port};
}

}  // namespace

TEST_CASE("who holds idle connections to one server shuts nobody else out, there or at another server") {
  HttpServer server({.header_timeout = 60s, .connections = 16, .connections_per_source = 8});
  const auto held = serve_all_of_loopback(server, echo());
  const auto other = serve(server, echo());
  // More than both servers together may have, from one address and from several.
  std::vector<std::unique_ptr<Client>> idle;
  for (int i = 0; i < 40; ++i) idle.push_back(std::make_unique<Client>(held));
  for (int i = 0; i < 40; ++i) idle.push_back(std::make_unique<Client>(held, fmt::format("127.0.0.{}", 2 + i % 3)));
  CHECK(request(other, "GET", "/").status == 200);
  Client probe(held, "127.0.0.99");
  for (int i = 0; i < 3; ++i) {
    probe.send(kGet);
    CHECK(probe.receive().status == 200);
  }
  CHECK(request(held, "GET", "/").status == 200);  // also from an address that has its share
}

TEST_CASE("of a source's connections the one that has rested longest goes first") {
  HttpServer server({.header_timeout = 60s, .connections = 16, .connections_per_source = 2});
  const auto address = serve(server, echo());
  const auto ask = [](Client& client) {
    client.send(kGet);
    return client.receive().status;
  };
  Client a(address), b(address);
  CHECK(ask(a) == 200);
  CHECK(ask(b) == 200);
  CHECK(ask(a) == 200);
  Client c(address);
  CHECK(ask(c) == 200);
  CHECK(b.at_end());
  CHECK(ask(a) == 200);
}

TEST_CASE("a request that is being served is not cut off by its source's next connection") {
  HttpServer server({.connections = 16, .connections_per_source = 1});
  Later later;
  const auto address = serve(server, later.handler());
  Client busy(address);
  busy.send(kGet);
  auto respond = later.take();
  Client next(address);
  CHECK(next.at_end());
  respond(HttpResponse::text(200, "served"));
  CHECK(busy.receive().body == "served");
}

TEST_CASE("sources that keep all connections busy give one up for a source that has none") {
  HttpServer server({.connections = 4, .connections_per_source = 4});
  std::mutex mutex;
  std::vector<HttpRespond> never;
  const auto address = serve_all_of_loopback(server, [&](const HttpRequest& request, HttpRespond respond) {
    if (request.path == "/ready") return respond(HttpResponse::text(200, "ready"));
    const std::lock_guard lock(mutex);
    never.push_back(std::move(respond));
  });
  std::vector<std::unique_ptr<Client>> busy;
  for (int i = 0; i < 4; ++i) {
    busy.push_back(std::make_unique<Client>(address));
    busy.back()->send(kGet);
  }
  while (true) {
    const std::lock_guard lock(mutex);
    if (never.size() == 4) break;
  }
  Client probe(address, "127.0.0.99");
  probe.send("GET /ready HTTP/1.1\r\nhost: x\r\n\r\n");
  CHECK(probe.receive().body == "ready");
  CHECK(busy.front()->at_end());
}

TEST_CASE("draining refuses new connections, closes idle ones and lets requests finish") {
  HttpServer server;
  Later later;
  const auto address = serve(server, later.handler());
  Client idle(address);
  Client busy(address);
  busy.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
  auto respond = later.take();
  server.drain();
  CHECK(idle.at_end());
  CHECK_FALSE(Client(address).connected());
  CHECK_FALSE(server.wait_drained(10ms));
  respond(HttpResponse::text(200, "done"));
  const auto answer = busy.receive();
  CHECK(answer.body == "done");
  CHECK(answer.headers.at("connection") == "close");
  CHECK(busy.at_end());
  CHECK(server.wait_drained(10s));
}

TEST_CASE("a taken address is an error that names it") {
  HttpServer server;
  const auto address = serve(server, echo());
  const auto second = server.listen("again", address, false, echo());
  REQUIRE_FALSE(second);
  CHECK(second.error().text ==
        "failed to bind to address " + address.to_string() + ": Address already in use (another process listens there)");
}

TEST_CASE("wildcard takes both families, loopback has an address of each") {
  if (!loopback_has_ipv6()) return;
  HttpServer server;
  const auto wildcard = server.listen("stats", SocketAddress{*IpAddress::parse("::"), 0}, true, echo());
  REQUIRE(wildcard);
  const uint16_t port = wildcard->front().port;
  CHECK(request({*IpAddress::parse("127.0.0.1"), port}, "GET", "/").status == 200);
  CHECK(request({*IpAddress::parse("::1"), port}, "GET", "/").status == 200);
  const auto local = server.listen("admin", LocalhostPort{0}, true, echo());
  REQUIRE(local);
  REQUIRE(local->size() == 2);
  for (const auto& address : *local) CHECK(request(address, "GET", "/").status == 200);
  CHECK(server.listen("admin", LocalhostPort{0}, false, echo())->size() == 1);
}

TEST_CASE("content negotiation") {
  struct Row {
    const char* header;
    bool gzip;
  };
  const auto row = GENERATE(values<Row>({{"", false},
                                         {"gzip", true},
                                         {"br, GZIP;q=0.5", true},
                                         {"gzip;q=0", false},
                                         {"gzip; q=0.000, *", false},
                                         {"*", true},
                                         {"identity, *;q=0", false},
                                         {"gzipped", false},
                                         {"deflate, zstd", false}}));
  INFO(row.header);
  CHECK((header_quality(row.header, "gzip") > 0) == row.gzip);
  CHECK(header_names("application/openmetrics-text;version=1.0.0;q=0.8, text/plain;q=0.5", "application/openmetrics-text"));
  CHECK_FALSE(header_names("*/*", "application/openmetrics-text"));
}

TEST_CASE("query parameters are found and decoded") {
  CHECK(query_value("level=access%3Adebug&reset", "level").value == "access:debug");
  CHECK(query_value("level=access%3Adebug&reset", "reset").found);
  CHECK_FALSE(query_value("levels=1", "level").found);
  CHECK_FALSE(query_value("", "level").found);
  CHECK(query_value("a=%zz%4", "a").value == "%zz%4");
  CHECK(query_value("a=1=2", "a").value == "1=2");
}
