#include "kubernetes/list_watch.h"

#include <map>

#include "tests/kubernetes/cluster_fixture.h"

using namespace zt;
using namespace zt::kubernetes;
using namespace zt::testing;
using Catch::Contains;

namespace {

std::string object(const std::string& name, const std::string& version, const std::string& more = "") {
  return R"({"metadata":{"name":")" + name + R"(","namespace":"ns","uid":"u-)" + name + R"(","resourceVersion":")" + version +
         "\"" + more + "}}";
}
std::string list_of(const std::string& version, const std::string& items, const std::string& next = "") {
  return R"({"metadata":{"resourceVersion":")" + version + R"(","continue":")" + next + R"("},"items":[)" + items + "]}";
}
std::string event(const std::string& type, const std::string& of) {
  return R"({"type":")" + type + R"(","object":)" + of + "}\n";
}
std::string bookmark(const std::string& version) {
  return event("BOOKMARK", R"({"metadata":{"resourceVersion":")" + version + "\"}}");
}

struct Fixture : ClusterFixture {
  ListWatch::Options options{.path = "/api/v1/pods", .first_pause = 10ms, .most_pause = 50ms, .random = [] { return 0.0; }};
  std::unique_ptr<ListWatch> pods;
  size_t changes = 0;

  void start(ApiServer::Handler handler) {
    serve(std::move(handler));
    pods = std::make_unique<ListWatch>(loop, *client, options, [this] { ++changes; });
    pods->start();
  }
  [[nodiscard]] std::string names() const {
    std::string out;
    for (const auto& [key, pod] : pods->objects()) out += (out.empty() ? "" : " ") + pod.name;
    return out;
  }
  bool holds(const std::string& wanted) {
    const bool held = until([&] { return pods->synced() && names() == wanted; });
    CHECK(names() == wanted);
    return held;
  }
  [[nodiscard]] std::vector<std::string> watches() const {
    auto all = server->requests();
    std::erase_if(all, [](const std::string& request) { return request.find("watch=true") == std::string::npos; });
    return all;
  }
  [[nodiscard]] size_t lists() const { return server->requests().size() - watches().size(); }
  bool watch_from(const std::string& version, size_t number) {
    return until([&] { return watches().size() > number; }) &&
           watches()[number].find("&resourceVersion=" + version) != std::string::npos;
  }
};

}  // namespace

TEST_CASE_METHOD(Fixture, "The bytes of a real API server: list, watch, and on from where the watch ended") {
  options.field_selector = "spec.nodeName=node-a";
  start([](auto& c, size_t number) {
    if (number == 0) return (void)c.send(golden_http("02-list-pods-of-node"));
    if (number == 1) return (void)c.send(golden_http("06-watch-pods"));
    c.hold();
  });
  REQUIRE(until([&] { return server->requests().size() >= 3; }));
  const auto asked = server->requests();
  CHECK(asked[0] == "GET /api/v1/pods?limit=100&fieldSelector=spec.nodeName%3Dnode-a");
  CHECK(asked[1] ==
        "GET "
        "/api/v1/"
        "pods?watch=true&allowWatchBookmarks=true&timeoutSeconds=300&resourceVersion=10295&fieldSelector=spec.nodeName%3Dnode-a");
  CHECK_THAT(asked[2], Contains("&resourceVersion=103"));
  CHECK_FALSE(pods->objects().contains("watchlab/one"));
  CHECK(pods->objects().contains("istio-system/istio-cni-node-a"));
  CHECK(pods->last_error().empty());
}

TEST_CASE_METHOD(Fixture, "A list comes in pages, and counts only as a whole") {
  std::atomic<bool> go = false;
  start([&](auto& c, size_t number) {
    if (number == 0) return (void)c.answer("200 OK", list_of("5", object("a", "1"), "more+/="));
    if (number == 1) {
      go.wait(false);
      return (void)c.answer("200 OK", list_of("5", object("b", "2")));
    }
    c.hold();
  });
  REQUIRE(until([&] { return server->requests().size() == 2; }));
  CHECK_FALSE(pods->synced());
  CHECK(changes == 0);
  go = true;
  go.notify_all();
  CHECK(holds("a b"));
  CHECK_THAT(server->requests()[1], Contains("&continue=more%2B%2F%3D"));
  CHECK(watch_from("5", 0));
  CHECK(changes == 1);
}

TEST_CASE_METHOD(Fixture, "Events change the copy, and a bookmark moves the place to resume") {
  std::atomic<bool> go = false;
  start([&](auto& c, size_t number) {
    if (number == 0) return (void)c.answer("200 OK", list_of("5", object("a", "1")));
    if (number == 1) {
      c.begin_watch();
      c.chunk(event("ADDED", object("b", "6")) + event("MODIFIED", object("a", "7", R"(,"labels":{"x":"y"})")));
      go.wait(false);
      c.chunk(event("DELETED", object("b", "8")));
      c.chunk(bookmark("20"));
      return (void)c.send("0\r\n\r\n");
    }
    c.hold();
  });
  CHECK(holds("a b"));
  CHECK(pods->objects().at("ns/a").labels.at("x") == "y");
  go = true;
  go.notify_all();
  CHECK(holds("a"));
  CHECK(watch_from("20", 1));
  CHECK(lists() == 1);
}

TEST_CASE_METHOD(Fixture, "An event in several pieces, and several in one, are the same") {
  start([&](auto& c, size_t number) {
    if (number == 0) return (void)c.answer("200 OK", list_of("5", ""));
    c.begin_watch();
    const std::string text =
        event("ADDED", object("a", "6")) + "\n" + event("ADDED", object("b", "7")) + event("ADDED", object("c", "8"));
    for (size_t at = 0; at < text.size(); at += 13) c.chunk(text.substr(at, 13));
    c.hold();
  });
  CHECK(holds("a b c"));
}

TEST_CASE_METHOD(Fixture, "A watch that breaks is taken up where it was, and what was known stays") {
  std::function<void(ApiServer::Connection&)> breaks;
  SECTION("cut in the middle of an event") {
    breaks = [](auto& c) { c.chunk(event("ADDED", object("x", "7")).substr(0, 30)); };
  }
  SECTION("ended in the middle of an event") {
    breaks = [](auto& c) {
      c.chunk(event("ADDED", object("x", "7")).substr(0, 30));
      c.send("0\r\n\r\n");
    };
  }
  SECTION("no JSON") {
    breaks = [](auto& c) { c.chunk("<html>\n"); };
  }
  SECTION("an event of a kind that there is not") {
    breaks = [](auto& c) { c.chunk(event("RENAMED", object("x", "7"))); };
  }
  SECTION("an error that is not about the place") {
    breaks = [](auto& c) {
      c.chunk(event("ERROR", R"({"kind":"Status","code":500,"reason":"InternalError","message":"etcd"})"));
    };
  }
  SECTION("silence") {
    options.watch_idle = 200ms;
    breaks = [](auto& c) { c.hold(); };
  }
  start([&](auto& c, size_t number) {
    if (number == 0) return (void)c.answer("200 OK", list_of("5", object("a", "1")));
    c.begin_watch();
    if (number == 1) {
      c.chunk(event("ADDED", object("b", "6")));
      return breaks(c);
    }
    c.chunk(event("ADDED", object("c", "9")));
    c.hold();
  });
  CHECK(holds("a b c"));
  CHECK(watch_from("5", 0));
  CHECK(watch_from("6", 1));
  CHECK(lists() == 1);
  CHECK(until([&] { return pods->last_error().empty(); }));
}

TEST_CASE_METHOD(Fixture, "A watch in which nothing happens is taken up again without a pause, however often") {
  options.watch_idle = 1s;
  options.first_pause = options.most_pause = 30s;
  start([](auto& c, size_t number) {
    if (number == 0) return (void)c.answer("200 OK", list_of("5", object("a", "1")));
    c.begin_watch();
    c.hold();
  });
  CHECK(until([&] { return watches().size() >= 4; }));
  CHECK(lists() == 1);
  CHECK(pods->counts().failures == 0);
  CHECK(pods->last_error().empty());
}

TEST_CASE_METHOD(Fixture, "A place that the server has forgotten makes a new list, and only what is gone from it goes") {
  std::function<void(ApiServer::Connection&)> gone;
  SECTION("as an event") {
    gone = [](auto& c) { c.send(golden_http("18-watch-too-old")); };
  }
  SECTION("as a status") {
    gone = [](auto& c) { c.answer("410 Gone", R"({"kind":"Status","code":410,"reason":"Expired","message":"too old"})"); };
  }
  start([&](auto& c, size_t number) {
    if (number == 0) return (void)c.answer("200 OK", list_of("5", object("a", "1") + "," + object("b", "2")));
    if (number == 1) return gone(c);
    if (number == 2) return (void)c.answer("200 OK", list_of("50", object("b", "2") + "," + object("c", "40")));
    c.hold();
  });
  CHECK(holds("b c"));
  CHECK(watch_from("50", 1));
  CHECK(lists() == 2);
  CHECK(changes == 2);
}

TEST_CASE_METHOD(Fixture, "A token of a page that has expired begins the list anew") {
  start([&](auto& c, size_t number) {
    if (number == 0) return (void)c.answer("200 OK", list_of("5", object("old", "1"), "token"));
    if (number == 1) return (void)c.answer("410 Gone", R"({"kind":"Status","code":410,"reason":"Expired"})");
    if (number == 2) return (void)c.answer("200 OK", list_of("9", object("a", "8")));
    c.hold();
  });
  CHECK(holds("a"));
  CHECK(server->requests()[2] == "GET /api/v1/pods?limit=100");
}

TEST_CASE_METHOD(Fixture, "A refused token is tried again, with the one that has come meanwhile") {
  start([&](auto& c, size_t) {
    if (c.head.find("Bearer second") == std::string::npos) return (void)c.send(golden_http("10-bad-token"));
    if (!c.is_watch()) return (void)c.answer("200 OK", list_of("5", object("a", "1")));
    c.hold();
  });
  REQUIRE(until([&] { return server->requests().size() >= 3; }));
  CHECK_THAT(pods->last_error(), Contains("list of /api/v1/pods: 401 Unauthorized: Unauthorized"));
  write("token", "second");
  CHECK(holds("a"));
  CHECK(pods->last_error().empty());
}

TEST_CASE_METHOD(Fixture, "Who is asked to wait waits") {
  std::array<Clock::time_point, 2> times;
  start([&](auto& c, size_t number) {
    if (number < times.size()) times[number] = Clock::now();
    if (number == 0)
      return (void)c.answer("429 Too Many Requests", R"({"code":429,"reason":"TooManyRequests"})", "Retry-After: 1\r\n");
    if (!c.is_watch()) return (void)c.answer("200 OK", list_of("5", object("a", "1")));
    c.hold();
  });
  CHECK(holds("a"));
  CHECK(times[1] - times[0] >= 1s);
}

TEST_CASE_METHOD(Fixture, "A server that fails all the time is asked after growing pauses") {
  options.first_pause = 20ms;
  options.most_pause = 10s;
  start([&](auto& c, size_t) { c.answer("500 Internal Server Error", "no"); });
  const auto begun = Clock::now();
  REQUIRE(until([&] { return server->requests().size() >= 6; }));
  CHECK(Clock::now() - begun >= 300ms);  // at least half of 20, 40, 80, 160, 320
}

TEST_CASE_METHOD(Fixture, "A watch that ends at once is no reason to ask without a pause") {
  options.first_pause = 50ms;
  options.most_pause = 10s;
  start([&](auto& c, size_t number) {
    if (number == 0) return (void)c.answer("200 OK", list_of("5", object("a", "1")));
    c.send(golden_http("09-watch-future-version"));
  });
  until([&] { return false; }, 1s);
  CHECK(server->requests().size() <= 7);
  CHECK(names() == "a");
}

TEST_CASE_METHOD(Fixture, "A page that is too large is asked for in halves") {
  options.page = 4;
  options.page_bytes = 2000;
  start([&](auto& c, size_t) {
    if (c.is_watch()) return c.hold();
    const bool small = c.target().find("limit=1") != std::string::npos;
    c.answer("200 OK", list_of("5", object("a", "1", R"(,"labels":{"x":")" + std::string(small ? 100 : 5000, 'x') + "\"}")));
  });
  CHECK(holds("a"));
  CHECK(lists() == 3);
}

TEST_CASE_METHOD(Fixture, "An object that is too large or makes no sense costs itself and no other") {
  options.event_bytes = 10'000;
  std::string bad;
  SECTION("too large") { bad = event("MODIFIED", object("a", "6", R"(,"labels":{"x":")" + std::string(300'000, 'x') + "\"}")); }
  SECTION("nonsense") { bad = event("MODIFIED", object("a", "6", R"(,"labels":[1])")); }
  start([&](auto& c, size_t number) {
    if (number == 0) return (void)c.answer("200 OK", list_of("5", object("a", "1")));
    c.begin_watch();
    c.chunk(bad);
    c.chunk(event("ADDED", object("b", "7")));
    c.hold();
  });
  CHECK(holds("a b"));
  CHECK(pods->objects().at("ns/a").version == "1");
  CHECK(pods->counts().bad_objects == 1);
  CHECK(server->requests().size() == 2);
}

TEST_CASE_METHOD(Fixture, "A bad object of a later list stays as it was known") {
  start([&](auto& c, size_t number) {
    if (number == 0) return (void)c.answer("200 OK", list_of("5", object("a", "1")));
    if (number == 1) return (void)c.send(golden_http("18-watch-too-old"));
    if (number == 2) return (void)c.answer("200 OK", list_of("9", object("a", "8", R"(,"labels":[1])") + "," + object("b", "9")));
    c.hold();
  });
  CHECK(holds("a b"));
  CHECK(pods->objects().at("ns/a").version == "1");
}

TEST_CASE_METHOD(Fixture, "A server that is down for a while is found again, and nothing is lost meanwhile") {
  start([&](auto& c, size_t number) {
    if (number == 0) return (void)c.answer("200 OK", list_of("5", object("a", "1")));
    if (number < 6) return;  // closes without an answer
    c.begin_watch();
    c.chunk(event("ADDED", object("b", "6")));
    c.hold();
  });
  REQUIRE(until([&] { return !pods->last_error().empty(); }));
  CHECK(names() == "a");
  CHECK(holds("a b"));
  CHECK(lists() == 1);
}

TEST_CASE_METHOD(Fixture, "Lists that succeed do not shorten the pauses of a watch that is refused each time") {
  options.first_pause = 20ms;
  options.most_pause = 10s;
  start([&](auto& c, size_t) {
    if (!c.is_watch()) return (void)c.answer("200 OK", list_of("5", object("a", "1")));
    c.answer("410 Gone", R"({"kind":"Status","code":410,"reason":"Expired","message":"too old"})");
  });
  const auto begun = Clock::now();
  REQUIRE(until([&] { return watches().size() >= 6; }));
  CHECK(Clock::now() - begun >= 300ms);  // at least half of 20, 40, 80, 160, 320
}

TEST_CASE_METHOD(Fixture, "A watch that says something and ends at once is taken up after a pause") {
  options.first_pause = 100ms;
  options.most_pause = 10s;
  start([&](auto& c, size_t number) {
    if (number == 0) return (void)c.answer("200 OK", list_of("5", object("a", "1")));
    c.begin_watch();
    c.chunk(bookmark(std::to_string(5 + number)));
    c.send("0\r\n\r\n");
  });
  const auto begun = Clock::now();
  REQUIRE(until([&] { return watches().size() >= 5; }));
  CHECK(Clock::now() - begun >= 750ms);  // at least half of 100, 200, 400, 800
  CHECK(lists() == 1);
}

TEST_CASE_METHOD(Fixture, "A place that the server will never have again makes a new list") {
  std::function<void(ApiServer::Connection&)> refuse;
  SECTION("a version that it does not understand") {
    refuse = [](auto& c) { c.answer("400 Bad Request", R"({"code":400,"reason":"BadRequest","message":"resourceVersion"})"); };
  }
  SECTION("a version ahead of it, as after a restored backup") {
    refuse = [](auto& c) {
      c.answer("504 Gateway Timeout", R"({"code":504,"reason":"Timeout","message":"Too large resource version: 5, current: 2"})");
    };
  }
  SECTION("the same, said by silence") {
    refuse = [](auto& c) { c.send(golden_http("09-watch-future-version")); };
  }
  start([&](auto& c, size_t) {
    if (!c.is_watch())
      return (void)c.answer("200 OK", lists() < 2 ? list_of("5", object("a", "1")) : list_of("2", object("b", "2")));
    if (c.target().find("&resourceVersion=5") != std::string::npos) return refuse(c);
    c.hold();
  });
  CHECK(holds("b"));
}

TEST_CASE_METHOD(Fixture, "An object that is deleted goes, whatever else is wrong with it") {
  start([&](auto& c, size_t number) {
    if (number == 0) return (void)c.answer("200 OK", list_of("5", object("a", "1") + "," + object("b", "2")));
    c.begin_watch();
    c.chunk(event("DELETED", object("a", "6", R"(,"labels":[1])")));
    c.hold();
  });
  CHECK(holds("b"));
}
