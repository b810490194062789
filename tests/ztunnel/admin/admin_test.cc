#include "ztunnel/admin/admin.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <fstream>
#include <sstream>

#include "base/log.h"
#include "tests/ztunnel/admin/http_test_client.h"
#include "ztunnel/admin/liveness.h"
#include "ztunnel/admin/readiness.h"
#include "ztunnel/telemetry/metrics_registry.h"

using namespace zt;
using namespace zt::ztunnel;
using namespace std::chrono_literals;
using testing::Answer;
using testing::request;

namespace {

struct Ports {
  Ports() {
    const auto listen = [&](HttpHandler handler) {
      auto bound = server.listen("test", SocketAddress{*IpAddress::parse("127.0.0.1"), 0}, false, std::move(handler));
      REQUIRE(bound);
      return bound->front();
    };
    admin = listen(admin_handler({.config_dump =
                                      [](const HttpRespond& respond) {
                                        HttpResponse response;
                                        response.content_type = "application/json";
                                        response.body = "{}";
                                        respond(std::move(response));
                                      },
                                  .shutdown = [this] { ++shutdowns; }}));
    stats = listen(stats_handler(metrics));
    ready = listen(readiness_handler(readiness, liveness));
  }
  Metrics metrics{1, {}, "1.32-alpha"};
  Readiness readiness;
  std::atomic<int> shutdowns{0};
  SocketAddress admin, stats, ready;
  Liveness liveness{[this](std::chrono::milliseconds time, std::function<void()> fn) { server.after(time, std::move(fn)); },
                    50ms};
  HttpServer server;
};

// A recorded answer of the peer.
Answer recorded(const std::string& name) {
  std::ifstream file(std::string(ZT_GOLDEN_DIR "/ztunnel/admin/") + name);
  REQUIRE(file);
  Answer answer;
  std::string line;
  std::getline(file, line);
  answer.status = std::stoi(line.substr(9, 3));
  while (std::getline(file, line) && line != "\r" && !line.empty()) {
    if (line.ends_with('\r')) line.pop_back();
    answer.headers[line.substr(0, line.find(':'))] = line.substr(line.find(':') + 2);
  }
  std::ostringstream body;
  body << file.rdbuf();
  answer.body = body.str();
  // The recording may have a line feed more than the body.
  if (answer.headers.contains("content-length")) answer.body.resize(std::stoul(answer.headers["content-length"]));
  return answer;
}

}  // namespace

TEST_CASE("answers are the peer's: status, type and body") {
  struct Row {
    const char* name;
    SocketAddress Ports::* port;
    const char* method;
    const char* target;
  };
  const auto row = GENERATE(values<Row>({
      {"15020-unknown.http", &Ports::stats, "GET", "/"},
      {"15021-healthz-ready.http", &Ports::ready, "GET", "/healthz/ready"},
      {"15021-healthz-ready-post.http", &Ports::ready, "POST", "/healthz/ready"},
      {"15021-unknown.http", &Ports::ready, "GET", "/"},
      {"logging-get.http", &Ports::admin, "GET", "/logging"},
      {"logging-post-level-bogus.http", &Ports::admin, "POST", "/logging?level=bogus"},
      {"logging-post.http", &Ports::admin, "POST", "/logging"},
      {"logging-post-level-debug.http", &Ports::admin, "POST", "/logging?level=debug"},
      {"logging-post-level-off.http", &Ports::admin, "POST", "/logging?level=off"},
      {"logging-post-level-info-reset.http", &Ports::admin, "POST", "/logging?level=info&reset"},
      {"logging-post-reset.http", &Ports::admin, "POST", "/logging?reset"},
      {"logging-post-unknown-arg.http", &Ports::admin, "POST", "/logging?other=1"},
      {"logging-post-level-access=debug.http", &Ports::admin, "POST", "/logging?level=access=debug"},
      {"pprof-heap-profiling.http", &Ports::admin, "GET", "/debug/pprof/heap/profiling"},
      {"pprof-profile-0s.http", &Ports::admin, "GET", "/debug/pprof/profile?seconds=0"},
      {"quitquitquit-get.http", &Ports::admin, "GET", "/quitquitquit"},
      {"quitquitquit-post.http", &Ports::admin, "POST", "/quitquitquit"},
      {"unknown-path.http", &Ports::admin, "GET", "/nowhere"},
  }));
  INFO(row.name);
  REQUIRE(log::set_filter("hickory_server::server=off,info,access=debug"));  // as in the recorded run
  Ports ports;
  const auto expected = recorded(row.name);
  const auto answer = request(ports.*row.port, row.method, row.target);
  CHECK(answer.status == expected.status);
  CHECK(answer.body == expected.body);
  for (const char* header : {"content-type", "content-length"}) {
    INFO(header);
    CHECK(answer.headers.contains(header) == expected.headers.contains(header));
    if (expected.headers.contains(header)) CHECK(answer.headers.at(header) == expected.headers.at(header));
  }
  CHECK(ports.shutdowns == (std::string_view(row.name) == "quitquitquit-post.http" ? 1 : 0));
  REQUIRE(log::set_filter(kDefaultLogFilter));
}

TEST_CASE("istioctl's colon form changes the level, which the peer refuses") {
  REQUIRE(log::set_filter(kDefaultLogFilter));
  Ports ports;
  const auto answer = request(ports.admin, "POST", "/logging?level=access:debug,xds:warn");
  CHECK(answer.status == 200);
  CHECK(answer.body == "current log level is hickory_server::server=off,access=debug,xds=warn,info\n");
  CHECK(request(ports.admin, "POST", "/logging?reset").body == "current log level is hickory_server::server=off,info\n");
}

TEST_CASE("a level for everything takes back the levels of modules that were set before") {
  REQUIRE(log::set_filter("hickory_server::server=off,info,proxy=warn"));
  Ports ports;
  CHECK(request(ports.admin, "POST", "/logging?level=access:debug,xds:trace").status == 200);
  CHECK(request(ports.admin, "POST", "/logging?level=off").body ==
        "current log level is hickory_server::server=off,proxy=warn,off\n");
  CHECK(request(ports.admin, "POST", "/logging?level=access:debug").body ==
        "current log level is hickory_server::server=off,access=debug,proxy=warn,off\n");
  CHECK(request(ports.admin, "POST", "/logging?level=info").body ==
        "current log level is hickory_server::server=off,proxy=warn,info\n");
  REQUIRE(log::set_filter(kDefaultLogFilter));
}

TEST_CASE("a page that a browser was led to changes nothing, programs and our own page do") {
  struct Row {
    const char* headers;
    int status;
  };
  const auto row = GENERATE(values<Row>({
      {"Host: localhost:15000\r\n", 200},
      {"Host: 127.0.0.1:15000\r\n", 200},
      {"Host: 127.0.0.1\r\n", 200},
      {"Host: [::1]:15000\r\n", 200},
      {"Host: [::1]\r\n", 200},
      {"Host: LOCALHOST:8080\r\nOrigin: http://localhost:8080\r\nSec-Fetch-Site: same-origin\r\n", 200},
      {"Host: localhost:15000\r\nSec-Fetch-Site: none\r\n", 200},
      {"Host: localhost:15000\r\nOrigin: http://localhost:8080\r\n", 403},
      {"Host: localhost:15000\r\nOrigin: https://localhost:15000\r\n", 403},
      {"Host: localhost:15000\r\nOrigin: null\r\n", 403},
      {"Host: localhost:15000\r\nOrigin: http://evil.example\r\n", 403},
      {"Host: localhost:15000\r\nSec-Fetch-Site: cross-site\r\n", 403},
      {"Host: localhost:15000\r\nSec-Fetch-Site: same-site\r\n", 403},
      {"Host: node-7.example:15000\r\n", 200},
      {"Host: rebound.example:15000\r\nSec-Fetch-Site: same-origin\r\n", 403},
      {"Host: rebound.example:15000\r\nOrigin: http://rebound.example:15000\r\n", 403},
      {"Host: localhost.evil.example\r\nOrigin: http://localhost.evil.example\r\n", 403},
      {"Host: [::1.evil.example\r\nOrigin: http://[::1.evil.example\r\n", 403},
  }));
  INFO(row.headers);
  Ports ports;
  testing::Client client(ports.admin);
  client.send(std::string("POST /quitquitquit HTTP/1.1\r\n") + row.headers + "Content-Length: 0\r\n\r\n");
  const auto answer = client.receive();
  CHECK(answer.status == row.status);
  CHECK(ports.shutdowns == (row.status == 200 ? 1 : 0));
  if (row.status == 403) CHECK(answer.body.starts_with("refused: only programs and this server's own page may do this"));
  // Reading makes the node work, and a name that was made to lead here can be read.
  client.send(std::string("GET /config_dump HTTP/1.1\r\n") + row.headers + "\r\n");
  CHECK(client.receive().status == row.status);
  client.send(std::string("GET /help HTTP/1.1\r\n") + row.headers + "\r\n");
  CHECK(client.receive().status == 200);
}

TEST_CASE("a page that a browser was led to makes the node neither work nor tell") {
  struct Row {
    const char* path;
    const char* headers;
    int status;
  };
  const auto row = GENERATE(values<Row>({
      {"/live", "Host: localhost:15000\r\nSec-Fetch-Site: cross-site\r\n", 403},
      {"/live", "Host: localhost:15000\r\nUser-Agent: Mozilla/5.0\r\nSec-Fetch-Site: same-origin\r\n", 404},  // no hook here
      {"/debug/pprof/profile", "Host: localhost:15000\r\nSec-Fetch-Site: cross-site\r\n", 403},
      {"/config_dump", "Host: evil:15000\r\nUser-Agent: Mozilla/5.0\r\n", 403},
      {"/config_dump", "Host: localhost:15000\r\nUser-Agent: Mozilla/5.0\r\n", 200},
      {"/config_dump", "Host: 127.0.0.1:8080\r\nUser-Agent: Mozilla/5.0\r\n", 200},
      {"/config_dump", "Host: [::1]:15000\r\nUser-Agent: Mozilla/5.0\r\n", 200},
      {"/config_dump", "Host: node-7.example:15000\r\nUser-Agent: curl/8.5.0\r\n", 200},
      {"/config_dump", "Host: node-7.example:15000\r\nUser-Agent: Go-http-client/1.1\r\n", 200},
      {"/config_dump", "Host: node-7.example:15000\r\n", 200},
  }));
  INFO(row.path << ' ' << row.headers);
  Ports ports;
  testing::Client client(ports.admin);
  client.send(std::string("GET ") + row.path + " HTTP/1.1\r\n" + row.headers + "\r\n");
  CHECK(client.receive().status == row.status);
}

TEST_CASE("readiness names what is missing") {
  Ports ports;
  const auto manager = ports.readiness.hold("workload proxy manager");
  auto answer = request(ports.ready, "GET", "/healthz/ready");
  CHECK(answer.status == 500);
  CHECK(answer.body == recorded("15021-healthz-notready-no-agent.http").body);
  const auto state = ports.readiness.hold("state manager");
  CHECK(request(ports.ready, "GET", "/healthz/ready").body == recorded("15021-healthz-notready-no-xds-no-agent.http").body);
}

TEST_CASE("a process is live while all of its threads answer, and who does not is named") {
  Ports ports;
  CHECK(request(ports.ready, "GET", "/healthz/live").body == "live\n");
  ports.liveness.watch("worker 0", [](const std::function<void()>& fn) { fn(); });
  std::vector<std::function<void()>> late;
  bool stuck = false;
  ports.liveness.watch("worker 1", [&](std::function<void()> fn) { stuck ? late.push_back(std::move(fn)) : fn(); });
  auto answer = request(ports.ready, "GET", "/healthz/live");
  CHECK(answer.status == 200);
  CHECK(answer.body == "live\n");
  stuck = true;
  answer = request(ports.ready, "GET", "/healthz/live");
  CHECK(answer.status == 500);
  CHECK(answer.body == "not live, no answer within 50 ms from: worker 1\n");
  for (const auto& fn : late) fn();  // too late to be heard
  stuck = false;
  CHECK(request(ports.ready, "GET", "/healthz/live").status == 200);
  CHECK(request(ports.ready, "POST", "/healthz/live").status == 405);
}

TEST_CASE("metrics: both paths, any method, type by Accept, compression by Accept-Encoding") {
  Ports ports;
  for (const char* path : {"/metrics", "/stats/prometheus"}) {
    for (const char* method : {"GET", "POST"}) {
      const auto answer = request(ports.stats, method, path);
      CHECK(answer.status == 200);
      CHECK(answer.headers.at("content-type") == "text/plain; charset=utf-8");
      CHECK(answer.headers.at("vary") == "accept-encoding");
      CHECK_THAT(answer.body, Catch::StartsWith("# HELP process_open_fds Number of open file descriptors\n"));
      CHECK_THAT(answer.body, Catch::EndsWith("# EOF\n"));
    }
  }
  const auto open = request(ports.stats, "GET", "/metrics", "accept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n");
  CHECK(open.headers.at("content-type") == "application/openmetrics-text;charset=utf-8;version=1.0.0");
  const auto packed = request(ports.stats, "GET", "/metrics", "accept-encoding: gzip\r\n");
  CHECK(packed.headers.at("content-encoding") == "gzip");
  CHECK(packed.body.starts_with("\x1f\x8b"));
  CHECK(request(ports.stats, "GET", "/metrics", "accept-encoding: gzip, zstd\r\n").body.starts_with("\x28\xb5\x2f\xfd"));
}

TEST_CASE("the dump takes any method, the dashboard links what there is") {
  Ports ports;
  for (const char* method : {"GET", "POST"}) {
    const auto dump = request(ports.admin, method, "/config_dump");
    CHECK(dump.headers.at("content-type") == "application/json");
    CHECK(dump.body == "{}");
  }
  for (const char* path : {"/live", "/config_dump", "/explain", "/logging", "/debug/pprof/profile", "/quitquitquit"}) {
    CHECK_THAT(request(ports.admin, "GET", "/help").body, Catch::Contains(path));
  }
  const auto page = request(ports.admin, "GET", "/");
  CHECK_THAT(page.headers.at("content-security-policy"), Catch::Contains("default-src 'none'"));
  CHECK(page.body.find("@NONCE@") == std::string::npos);
  CHECK(page.headers.at("content-type") == "text/html; charset=utf-8");
  for (const char* link : {"config_dump", "logging", "quitquitquit", "debug/pprof/profile", "debug/pprof/heap"}) {
    CHECK_THAT(page.body, Catch::Contains(std::string("\"") + link + "\""));
  }
}

TEST_CASE("profiles are asked for within bounds, and a profiler that is not there says so") {
  Ports ports;
  CHECK(request(ports.admin, "GET", "/debug/pprof/profile?seconds=1").status == 501);
  CHECK(request(ports.admin, "GET", "/debug/pprof/profile?frequency=0").status == 400);
  CHECK(request(ports.admin, "GET", "/debug/pprof/heap").status == 501);
  CHECK(request(ports.admin, "GET", "/debug/pprof/heap/profiling?activate=maybe").status == 400);
  CHECK(request(ports.admin, "GET", "/debug/pprof/heap/profiling?activate=true").status == 501);
}
