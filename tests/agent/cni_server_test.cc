#include "agent/cni_server.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/linux/unix_socket.h"
#include "mesh/reason.h"
#include "tests/support/netns/testing.h"

using namespace zt;
using namespace zt::agent;
using namespace zt::testing;
using namespace std::chrono_literals;
using Catch::Contains;

namespace {

const std::string kBody =
    R"({"Netns":"/var/run/netns/cni-1","PodName":"web-0","PodNamespace":"shop","IPs":[{"Interface":2,"Address":{"IP":"10.0.0.5","Mask":"////AA=="},"Gateway":"10.0.0.1"},{"Address":{"IP":"fd00::5"}}]})";

std::string post(const std::string& body, const std::string& line = "POST /cmdadd HTTP/1.1") {
  return line + "\r\nHost: unix\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

struct Fixture {
  TempDir dir;
  EventLoop loop;
  std::vector<std::pair<CniRequest, CniServer::Done>> asked;
  std::string path = dir / "cni.sock";
  Result<> ready;
  std::unique_ptr<CniServer> server;

  void start() {
    server = std::make_unique<CniServer>(
        loop, path, [this] { return ready; },
        [this](CniRequest request, CniServer::Done done) { asked.emplace_back(std::move(request), std::move(done)); });
    const auto started = server->start();
    INFO(error_text(started));
    REQUIRE(started);
  }
  UniqueFd connect() {
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const auto address = unix_address(path, "socket").value();
    REQUIRE(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    return socket;
  }
  void send(const UniqueFd& socket, std::string_view text) {
    while (!text.empty()) {
      const ssize_t n = ::send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL);
      if (n > 0) text.remove_prefix(static_cast<size_t>(n));
      if (n < 0 && errno != EAGAIN) return;  // it has heard enough
      loop.run_once(1ms);
    }
  }
  // Until the server closes its side.
  std::string answer(const UniqueFd& socket) {
    std::string text;
    loop.run_until(
        [&] {
          char piece[4096];
          const ssize_t n = ::recv(socket.get(), piece, sizeof piece, MSG_DONTWAIT);
          if (n > 0) text.append(piece, static_cast<size_t>(n));
          if (n < 0) loop.post([] {});  // come back: nothing of the loop's wakes for this end
          return n == 0 || (n < 0 && errno != EAGAIN);
        },
        10s);
    return text;
  }
  std::string ask(std::string_view text) {
    const auto socket = connect();
    send(socket, text);
    return answer(socket);
  }
};

}  // namespace

TEST_CASE_METHOD(Fixture, "a call of the plugin is answered when the agent has decided, and not before") {
  start();
  const auto socket = connect();
  const std::string text = post(kBody);
  for (size_t at = 0; at < text.size(); at += 37) send(socket, std::string_view(text).substr(at, 37));  // in pieces
  REQUIRE(loop.run_until([&] { return asked.size() == 1; }, 5s));
  CHECK(asked[0].first.netns == "/var/run/netns/cni-1");
  CHECK(asked[0].first.pod == "web-0");
  CHECK(asked[0].first.ns == "shop");
  CHECK(asked[0].first.ips == std::vector<std::string>{"10.0.0.5", "fd00::5"});
  char byte;
  loop.run_once(10ms);
  CHECK(::recv(socket.get(), &byte, 1, MSG_DONTWAIT) < 0);
  SECTION("yes") {
    asked[0].second({});
    CHECK_THAT(answer(socket), Contains("HTTP/1.1 200 OK\r\n") && Contains("Content-Length: 0\r\n"));
  }
  SECTION("no") {
    asked[0].second(fail(Reason::kIo, "no proxy is connected"));
    CHECK_THAT(answer(socket), Contains("HTTP/1.1 500 ") && Contains("\r\n\r\nno proxy is connected"));
  }
  SECTION("after the plugin has gone") {
    const_cast<UniqueFd&>(socket).reset();
    loop.run_once(10ms);
    asked[0].second({});
  }
  SECTION("after the server has gone") {
    server.reset();
    asked[0].second({});
  }
}

TEST_CASE_METHOD(Fixture, "what is no call of the plugin is refused with a reason") {
  start();
  const auto [text, wanted] = GENERATE(table<std::string, std::string>(
      {{"nonsense\r\n\r\n", "no HTTP"},
       {"GET /cmdadd HTTP/1.1\r\n\r\n", "only POST /cmdadd is known"},
       {post(kBody, "POST /log HTTP/1.1"), "only POST /cmdadd is known"},
       {post(""), "the body is no JSON object"},
       {post("[]"), "the body is no JSON object"},
       {post("{"), "the body is no JSON object"},
       {post(std::string(64, '[')), "the body is no JSON object"},
       {post("{}"), "Netns is missing"},
       {post(R"({"Netns":5})"), "Netns is missing, or no text"},
       {post(R"({"Netns":"/n"})"), "PodName is missing"},
       {post(R"({"Netns":"/n","PodName":"p"})"), "PodNamespace is missing"},
       {post(R"({"Netns":"n","PodName":"p","PodNamespace":"s"})"), "Netns: 'n' is no absolute path"},
       {post(R"({"Netns":"/run/../etc","PodName":"p","PodNamespace":"s"})"), "is no absolute path"},
       {post(R"({"Netns":"/n","PodName":"p/q","PodNamespace":"s"})"), "PodName: 'p/q' is no name"},
       {post(R"({"Netns":"/n","PodName":"p","PodNamespace":"a b"})"), "PodNamespace: 'a b' is no name"},
       {post(R"({"Netns":"/n","PodName":"p","PodNamespace":"s","IPs":5})"), "IPs is no list"},
       {post(R"({"Netns":"/n","PodName":"p","PodNamespace":"s","PodUID":5})"), "PodUID is no uid"},
       {post(R"({"Netns":"/n","PodName":"p","PodNamespace":"s","IPs":[5]})"), "an entry without Address"},
       {post(R"({"Netns":"/n","PodName":"p","PodNamespace":"s","IPs":[{"Address":{}}]})"), "IP is missing"},
       {"POST /cmdadd HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", "no HTTP"},
       {"POST /cmdadd HTTP/1.1\r\nX: " + std::string(100'000, 'x'), "HTTP/1.1 400"}}));
  CAPTURE(text.substr(0, 100));
  CHECK_THAT(ask(text), Contains("HTTP/1.1 400 Bad Request") && Contains(wanted));
  CHECK(asked.empty());
}

TEST_CASE_METHOD(Fixture, "who only connects costs nobody else anything, and too many are refused") {
  start();
  std::vector<UniqueFd> idle;
  for (size_t i = 0; i < HttpServer::kMaxConnections - 1; ++i) {
    idle.push_back(connect());
    loop.run_once(1ms);
  }
  const auto good = connect();
  send(good, post(kBody));
  REQUIRE(loop.run_until([&] { return asked.size() == 1; }, 5s));
  const auto refused = connect();
  CHECK(answer(refused).empty());
  idle.clear();
  loop.run_once(10ms);
  asked[0].second({});
  CHECK_THAT(answer(good), Contains("200 OK"));
  CHECK_THAT(ask(post("")), Contains("400"));
}

TEST_CASE_METHOD(Fixture, "the socket is for root alone, and takes the place of a dead agent's and of nothing else") {
  SECTION("of a dead agent") {
    start();
    server.reset();
    CHECK(std::filesystem::exists(path));
    start();
    CHECK((std::filesystem::status(path).permissions() & std::filesystem::perms::mask) ==
          (std::filesystem::perms::owner_read | std::filesystem::perms::owner_write));
  }
  SECTION("another user's, who is gone") {
    ZT_NEEDS_ROOT("a file of another user");
    start();
    server.reset();
    REQUIRE(::chown(path.c_str(), 65534, 65534) == 0);
    start();
    struct stat file{};
    REQUIRE(::lstat(path.c_str(), &file) == 0);
    CHECK(file.st_uid == ::geteuid());
    CHECK((file.st_mode & 0777) == 0600);
  }
  const auto refused = [&](const char* why) {
    CniServer second(loop, path, [] { return Result<>{}; }, [](CniRequest, const CniServer::Done&) {});
    const auto started = second.start();
    REQUIRE_FALSE(started);
    CHECK_THAT(started.error().text, Contains(path) && Contains(why));
  };
  SECTION("a living agent's") {
    start();
    refused("another agent is running");
  }
  SECTION("a file") {
    std::ofstream(path) << "x";
    refused("is not a socket");
  }
  SECTION("a link that leads nowhere") {
    std::filesystem::create_symlink("/nowhere", path);
    refused("is not a socket");
  }
}

TEST_CASE_METHOD(Fixture, "a readiness probe is told whether the node may be counted on, and why not") {
  start();
  CHECK_THAT(ask("GET /readyz HTTP/1.1\r\nHost: unix\r\n\r\n"), Contains("HTTP/1.1 200 OK\r\n"));
  ready = fail(Reason::kNotFound, "the CNI plugin is not on the node yet");
  CHECK_THAT(ask("GET /readyz HTTP/1.1\r\nHost: unix\r\n\r\n"), Contains("HTTP/1.1 503 ") && Contains("not on the node yet"));
  CHECK(asked.empty());
}
