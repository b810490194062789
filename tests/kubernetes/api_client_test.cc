#include "kubernetes/api_client.h"

#include <map>

#include "tests/kubernetes/cluster_fixture.h"

using namespace zt;
using namespace zt::kubernetes;
using namespace zt::testing;
using Catch::Contains;

namespace {

// One call and what came of it.
struct Answer {
  ApiHead head;
  std::string body;
  std::optional<Result<>> end;
  [[nodiscard]] std::string error() const { return end && !*end ? end->error().text : std::string(); }
};

struct Fixture : ClusterFixture {
  std::unique_ptr<ApiCall> call;
  Answer ask(ApiRequest request) {
    Answer answer;
    call = client->start(std::move(request), {.on_head = [&](const ApiHead& head) { answer.head = head; },
                                              .on_data = [&](const std::string& data) { answer.body += data; },
                                              .on_end = [&](const Result<>& end) { answer.end = end; }});
    REQUIRE(until([&] { return answer.end.has_value(); }));
    call.reset();
    return answer;
  }
  Answer get(std::string target) { return ask({.target = std::move(target)}); }
};

}  // namespace

TEST_CASE_METHOD(Fixture, "A request goes over TLS with the token, and the answer comes whole") {
  std::string head;
  serve([&](auto& connection, size_t) {
    head = connection.head;
    connection.send(golden_http("02-list-pods-of-node"));
  });
  const auto answer = get("/api/v1/pods?limit=5");
  CHECK(answer.error().empty());
  CHECK(answer.head.status == 200);
  CHECK(answer.body == golden_body("02-list-pods-of-node"));
  CHECK_THAT(head, Contains("GET /api/v1/pods?limit=5 HTTP/1.1\r\n") && Contains("Authorization: Bearer first-token\r\n") &&
                       Contains("Accept: application/json\r\n") && Contains("Host: 127.0.0.1:"));
}

TEST_CASE_METHOD(Fixture, "The token and the CA are read again for each request") {
  std::vector<std::string> heads;
  serve([&](auto& connection, size_t) {
    heads.push_back(connection.head);
    connection.answer("200 OK", "{}");
  });
  CHECK(get("/a").error().empty());
  write("token", "second-token");
  CHECK(get("/b").error().empty());
  REQUIRE(heads.size() == 2);
  CHECK_THAT(heads[0], Contains("Bearer first-token\r\n"));
  CHECK_THAT(heads[1], Contains("Bearer second-token\r\n"));
  write("ca.crt", test::TestPki("another root").root_pem());
  CHECK_THAT(get("/c").error(), Contains("cannot make a TLS connection") && Contains("ca.crt"));
  CHECK(heads.size() == 2);
}

TEST_CASE_METHOD(Fixture, "A body is sent with its type") {
  std::string head, body;
  serve([&](auto& connection, size_t) {
    head = connection.head, body = connection.body;
    connection.send(golden_http("12-patch-annotation"));
  });
  const auto answer =
      ask({.method = "PATCH", .target = "/p", .content_type = "application/merge-patch+json", .body = "{\"a\":1}"});
  CHECK(answer.head.status == 200);
  CHECK_THAT(head, Contains("PATCH /p HTTP/1.1") && Contains("Content-Type: application/merge-patch+json"));
  CHECK(body == "{\"a\":1}");
}

TEST_CASE_METHOD(Fixture, "Nothing is sent to a server that cannot prove its name") {
  SECTION("a certificate for another name") {
    serve([](auto& c, size_t) { c.answer("200 OK", "{}"); }, {"10.0.0.1", "kubernetes"});
  }
  SECTION("of a root that is not the cluster's") {
    serve([](auto& c, size_t) { c.answer("200 OK", "{}"); });
    write("ca.crt", test::TestPki("another root").root_pem());
  }
  CHECK_THAT(get("/secret").error(),
             Contains("Kubernetes API at https://127.0.0.1:") && Contains("GET /secret: cannot make a TLS connection: "));
  CHECK(server->requests().empty());
}

TEST_CASE_METHOD(Fixture, "What cannot be used of the service account is said with its path") {
  serve([](auto& c, size_t) { c.answer("200 OK", "{}"); });
  std::string wanted;
  SECTION("no token") {
    std::filesystem::remove(dir / "token");
    wanted = "/token";
  }
  SECTION("an empty token") {
    write("token", "\n");
    wanted = "/token is empty";
  }
  SECTION("a token of two lines") {
    write("token", "a\r\nX-Forged: 1");
    wanted = "/token is empty, or no token";
  }
  SECTION("a CA that is none") {
    write("ca.crt", "nonsense");
    wanted = "/ca.crt";
  }
  CHECK_THAT(get("/a").error(), Contains(wanted));
  CHECK(server->requests().empty());
}

TEST_CASE_METHOD(Fixture, "Nobody there, silence and answers that are cut short are errors that say where") {
  std::string wanted;
  ApiRequest request{.target = "/x", .idle_limit = 300ms};
  SECTION("nobody listens") {
    serve([](auto&, size_t) {});
    server.reset();
    wanted = "cannot connect: ";
  }
  SECTION("silence") {
    serve([](auto& c, size_t) { c.say_nothing_and_hold(); });
    wanted = "cannot read the answer: nothing came for 300 ms";
  }
  SECTION("silence in the middle") {
    serve([](auto& c, size_t) {
      c.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
      c.hold();
    });
    wanted = "cannot read the answer to its end: nothing came for 300 ms";
  }
  SECTION("cut") {
    serve([](auto& c, size_t) { c.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"); });
    wanted = "cannot read the answer to its end: ";
  }
  SECTION("cut in a chunk") {
    serve([](auto& c, size_t) { c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhalf"); });
    wanted = "cannot read the answer to its end: ";
  }
  SECTION("no HTTP") {
    serve([](auto& c, size_t) { c.send("SSH-2.0-nonsense\r\n\r\n"); });
    wanted = "cannot read the answer: ";
  }
  SECTION("an endless header") {
    serve([](auto& c, size_t) { c.send("HTTP/1.1 200 OK\r\nX: " + std::string(200'000, 'x')); });
    wanted = "cannot read the answer: ";
  }
  const auto answer = ask(request);
  CHECK_THAT(answer.error(), Contains("Kubernetes API at https://127.0.0.1:") && Contains("GET /x: ") && Contains(wanted));
}

TEST_CASE_METHOD(Fixture, "Retry-After is passed on, and nonsense in its place is not") {
  std::string value, wanted;
  const auto [text, seconds] = GENERATE(table<std::string, long>({{"7", 7}, {"99999999", 3600}, {"-1", -1}, {"soon", -1}}));
  serve([&](auto& c, size_t) { c.answer("429 Too Many Requests", "{}", "Retry-After: " + text + "\r\n"); });
  const auto answer = get("/");
  CHECK(answer.head.status == 429);
  CHECK(answer.head.retry_after.value_or(std::chrono::seconds(-1)).count() == seconds);
}

TEST_CASE_METHOD(Fixture, "A call that is given up is heard of no more, and its connection closes") {
  std::atomic<bool> gone = false;
  serve([&](auto& c, size_t) {
    c.begin_watch();
    c.chunk("one");
    c.hold();
    gone = true;
  });
  size_t heard = 0;
  call = client->start({.target = "/w"}, {.on_head = [](auto&) {},
                                          .on_data =
                                              [&](const std::string&) {
                                                ++heard;
                                                call.reset();
                                              },
                                          .on_end = [&](auto&) { ++heard; }});
  CHECK(until([&] { return heard > 0 && gone; }));
  CHECK(heard == 1);
}

TEST_CASE_METHOD(Fixture, "No more of a body is read than is taken") {
  std::atomic<size_t> sent = 0;
  serve([&](auto& c, size_t) {
    c.begin_watch();
    const std::string piece(1 << 20, 'x');
    while (sent < (256u << 20) && c.chunk(piece)) sent += piece.size();
  });
  bool first = false;
  call =
      client->start({.target = "/w"}, {.on_head = [](auto&) {}, .on_data = [&](auto&) { first = true; }, .on_end = [](auto&) {}});
  REQUIRE(until([&] { return first; }));
  // The loop does not turn: what the sockets hold is all that can be sent.
  size_t before = 1;
  for (int quiet = 0; quiet < 5;) {
    std::this_thread::sleep_for(50ms);
    quiet = sent == before ? quiet + 1 : 0;
    before = sent;
  }
  CHECK(sent < (64u << 20));
  call.reset();
}

TEST_CASE_METHOD(Fixture, "A client may end with calls under way that nobody waits for any more") {
  serve([](auto& c, size_t) { c.say_nothing_and_hold(); });
  for (int i = 0; i < 8; ++i) {
    call = client->start({.target = "/w"}, {.on_head = [](auto&) {}, .on_data = [](auto&) {}, .on_end = [](auto&) {}});
    if (i % 2 == 0) loop.run_once(5ms);
  }
  call.reset();
  client.reset();
  SUCCEED();
}

TEST_CASE("Where the API server is comes from the pod's environment") {
  std::map<std::string, std::string> env{{"KUBERNETES_SERVICE_HOST", "10.96.0.1"}, {"KUBERNETES_SERVICE_PORT", "6443"}};
  const Environment get = [&](const char* name) -> std::optional<std::string> {
    const auto found = env.find(name);
    return found == env.end() ? std::nullopt : std::optional(found->second);
  };
  auto config = in_cluster(get);
  REQUIRE(config);
  CHECK(config->url() == "https://10.96.0.1:6443");
  CHECK(config->token_file == "/var/run/secrets/kubernetes.io/serviceaccount/token");
  CHECK(config->ca_file == "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt");
  env["KUBERNETES_SERVICE_HOST"] = "fd00::1";
  CHECK(in_cluster(get)->url() == "https://[fd00::1]:6443");
  env.erase("KUBERNETES_SERVICE_PORT");
  CHECK(in_cluster(get, "/sa")->port == 443);
  const auto refused = [&](const char* name, const char* value, const char* wanted) {
    env = {{"KUBERNETES_SERVICE_HOST", "10.96.0.1"}};
    env[name] = value;
    const auto bad = in_cluster(get);
    REQUIRE_FALSE(bad);
    CHECK_THAT(bad.error().text, Contains(name) && Contains(wanted));
  };
  refused("KUBERNETES_SERVICE_PORT", "0", "'0' is no port");
  refused("KUBERNETES_SERVICE_PORT", "https", "'https' is no port");
  refused("KUBERNETES_SERVICE_HOST", "", "is not set");
  refused("KUBERNETES_SERVICE_HOST", "a b", "'a b'");
  refused("KUBERNETES_SERVICE_HOST", "a/b@c", "'a/b@c'");
}
