#pragma once
#include <memory>
#include <string>
#include <string_view>

#include "base/event_loop.h"
#include "kubernetes/api_client.h"
#include "tests/kubernetes/api_server.h"
#include "tests/support/netns/testing.h"

namespace zt::testing {

using namespace std::chrono_literals;

// An answer of a real API server, as its bytes went over the connection.
inline std::string golden_http(const std::string& name) {
  return read_file(std::string(ZT_GOLDEN_DIR "/kubernetes/") + name + ".http");
}
// Its body, put together.
inline std::string golden_body(const std::string& name) {
  const std::string text = golden_http(name);
  const auto head = text.find("\r\n\r\n") + 4;
  if (text.find("Transfer-Encoding: chunked") == std::string::npos) return text.substr(head);
  std::string body;
  for (size_t at = head; at < text.size();) {
    const auto size = std::stoul(text.substr(at), nullptr, 16);
    if (size == 0) break;
    at = text.find("\r\n", at) + 2;
    body += text.substr(at, size);
    at += size + 2;
  }
  return body;
}

// A client of a server that does as the test says.
struct ClusterFixture {
  TempDir dir;
  test::TestPki pki;
  EventLoop loop;
  std::unique_ptr<ApiServer> server;
  std::unique_ptr<kubernetes::ApiClient> client;
  kubernetes::ClusterConfig config{.host = "127.0.0.1", .port = 0, .token_file = dir / "token", .ca_file = dir / "ca.crt"};

  ClusterFixture() {
    write("token", "first-token\n");
    write("ca.crt", pki.root_pem());
  }
  void write(const std::string& name, std::string_view text) const { std::ofstream(dir / name, std::ios::trunc) << text; }
  void serve(ApiServer::Handler handler, const std::vector<std::string>& names = {"127.0.0.1"}) {
    server = std::make_unique<ApiServer>(pki.server(names), std::move(handler));
    config.port = server->port();
    client = std::make_unique<kubernetes::ApiClient>(loop, config);
  }
  // What the server's threads do wakes no loop: it is looked at again and again.
  bool until(const std::function<bool()>& done, std::chrono::milliseconds limit = 20s) {
    const auto deadline = Clock::now() + limit;
    while (!done()) {
      if (Clock::now() > deadline) return false;
      loop.run_once(2ms);
    }
    return true;
  }
};

}  // namespace zt::testing
