#include "ztunnel/proxy/local_peers.h"

#include <catch2/catch.hpp>

#include "mesh/reason.h"
#include "tests/identity/support.h"
#include "ztunnel/proxy/connection.h"
#include "ztunnel/proxy/shared_tls_contexts.h"

using namespace zt;
using namespace zt::ztunnel;
using namespace std::chrono_literals;
using identity::test::id_of;

TEST_CASE("what two certificates prove to each other is what a handshake says, and is proved again when one of them changes") {
  const auto now = identity::wall_clock_now();
  const identity::test::TestCa ca(now), stranger(now);
  SharedTlsContexts contexts;
  const auto context = [&](const identity::test::TestCa& by, const char* account, hbone::TlsRole role) {
    auto made = contexts.get({by.issue(id_of(account), 3600s, now), by.roots()}, role, {});
    REQUIRE(made);
    return *made;
  };
  const auto client = context(ca, "client", hbone::TlsRole::kClient);
  const auto server = context(ca, "web", hbone::TlsRole::kServer);
  const auto moment = Clock::now();
  LocalProofs proofs;
  const auto proof = proofs.prove(client, server, {id_of("web")}, moment);
  REQUIRE(proof);
  REQUIRE(proof->client != nullptr);
  CHECK(proof->client->text == id_of("client").to_string());
  // Remembered: the same object. Renewed certificates and old proofs are not.
  CHECK(proofs.prove(client, server, {id_of("web")}, moment + 1min)->client == proof->client);
  CHECK(proofs.prove(client, server, {id_of("web")}, moment + LocalProofs::kLifetime)->client != proof->client);
  const auto renewed = context(ca, "client", hbone::TlsRole::kClient);
  CHECK(proofs.prove(renewed, server, {id_of("web")}, moment)->client != proof->client);

  const auto refused = [&](const auto& from, const auto& to, const char* expected) {
    const auto result = proofs.prove(from, to, {id_of(expected)}, moment);
    return !result && result.error().reason == Reason::kTlsFailed;
  };
  CHECK(refused(client, server, "other"));
  CHECK(refused(client, context(stranger, "web", hbone::TlsRole::kServer), "web"));
  CHECK(refused(context(stranger, "client", hbone::TlsRole::kClient), server, "web"));
  CHECK_FALSE(proofs.prove(client, server, {}, moment));
}
