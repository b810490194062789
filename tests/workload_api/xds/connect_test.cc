// A control plane's port behind which nobody speaks.
#include <netinet/in.h>
#include <sys/socket.h>

#include "base/unique_fd.h"
#include "tests/support/istiod/test_pki.h"
#include "tests/workload_api/xds/support.h"
#include "workload_api/xds/xds_client.h"

namespace zt::workload_api::test {

TEST_CASE(
    "A port that takes the connection and never speaks is given up after the connect limit, and tried "
    "again") {
  const UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  REQUIRE(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), length) == 0);
  REQUIRE(::listen(listener.get(), 8) == 0);
  REQUIRE(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length) == 0);

  EventLoop loop;
  Store store{{}};
  XdsOptions options;
  options.endpoint.address = "https://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  options.endpoint.roots = {Roots::Source::kInline, zt::test::TestPki().root_pem()};
  const auto client = must(XdsClient::create(loop, store, options));
  const auto begun = Clock::now();
  client->start({});
  const auto given_up = [&] { return client->stats().terminations[static_cast<size_t>(StreamEnd::kConnectionError)] > 0; };
  REQUIRE(loop.run_until(given_up, std::chrono::seconds(60)));
  CHECK(Clock::now() - begun >= rpc::kConnectLimit - std::chrono::milliseconds(500));
  CHECK(loop.run_until([&] { return client->stats().streams == 2; }, std::chrono::seconds(20)));
}

}  // namespace zt::workload_api::test
