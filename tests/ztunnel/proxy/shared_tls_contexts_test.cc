#include "ztunnel/proxy/shared_tls_contexts.h"

#include <catch2/catch.hpp>
#include <thread>
#include <vector>

#include "tests/identity/support.h"

using namespace zt;
using namespace zt::ztunnel;
using namespace std::chrono_literals;

TEST_CASE("one SSL_CTX for a certificate and role serves all workers and goes with its last user") {
  const auto now = identity::wall_clock_now();
  const identity::test::TestCa ca(now);
  const identity::Credentials web{ca.issue(identity::test::id_of("web"), 3600s, now), ca.roots()};
  const identity::Credentials renewed{ca.issue(identity::test::id_of("web"), 3600s, now), ca.roots()};
  SharedTlsContexts contexts;
  const auto get = [&](const identity::Credentials& credentials, hbone::TlsRole role) {
    auto context = contexts.get(credentials, role, {});
    REQUIRE(context);
    return *context;
  };
  auto first = get(web, hbone::TlsRole::kServer);
  CHECK(get(web, hbone::TlsRole::kServer)->ssl_ctx() == first->ssl_ctx());
  CHECK(get(web, hbone::TlsRole::kClient)->ssl_ctx() != first->ssl_ctx());
  const auto second = get(renewed, hbone::TlsRole::kServer);
  CHECK(second->ssl_ctx() != first->ssl_ctx());

  // What each worker adds of its own is its own.
  const auto peers = std::make_shared<hbone::VerifiedPeers>();
  const auto bound = first->bound_to({}, peers), other = first->bound_to({}, {});
  CHECK(bound->ssl_ctx() == first->ssl_ctx());
  CHECK(bound->options().verified_peers == peers);
  CHECK(other->options().verified_peers == nullptr);
  CHECK(bound->trust_digest() == first->trust_digest());
  CHECK(bound->trust_domain() == first->trust_domain());

  const std::weak_ptr<const hbone::TlsContext> watched = first;
  first.reset();
  CHECK(watched.expired());
}

TEST_CASE("workers that meet a certificate at the same time get the same SSL_CTX") {
  const auto now = identity::wall_clock_now();
  const identity::test::TestCa ca(now);
  const identity::Credentials web{ca.issue(identity::test::id_of("web"), 3600s, now), ca.roots()};
  SharedTlsContexts contexts;
  std::vector<std::shared_ptr<const hbone::TlsContext>> got(4);
  std::vector<std::thread> workers;
  for (auto& slot : got) {
    workers.emplace_back([&] {
      if (auto context = contexts.get(web, hbone::TlsRole::kServer, {})) slot = (*context)->bound_to({}, {});
    });
  }
  for (auto& worker : workers) worker.join();
  for (const auto& each : got) {
    REQUIRE(each);
    // Handshakes of one context on several threads: what the sanitizers watch.
    CHECK(each->trust_domain() == "cluster.local");
  }
}
