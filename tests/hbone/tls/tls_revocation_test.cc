#include <catch2/catch.hpp>

#include "identity/revocation.h"
#include "mesh/reason.h"
#include "tests/hbone/tls/tls_pki.h"
#include "tests/support/crl.h"

namespace zt::hbone {
namespace {

using namespace testing;
using identity::RevocationLists;
using identity::test::make_crl;

// As a worker checks: with what the lists say at the moment of the handshake.
ChainCheck check_with(const identity::RevocationListsPtr& lists) {
  return [&lists](std::span<const X509Ptr> chain) -> Result<> {
    const X509* const revoked = lists ? lists->revoked_in(chain) : nullptr;
    if (revoked == nullptr) return {};
    return fail(Reason::kCertRevoked, "peer certificate revoked by CRL: " + identity::revoked_text(revoked));
  };
}

identity::RevocationListsPtr lists_of(const Certificate& issuer, const Certificate& revoked) {
  auto lists =
      RevocationLists::parse(identity::test::pem_of(make_crl(issuer.x509.get(), issuer.key.get(), {revoked.x509.get()}).get()));
  REQUIRE(lists);
  return *lists;
}

TEST_CASE("either side refuses a revoked peer, or one whose intermediate is revoked, and takes the others") {
  const Certificate root = make_root();
  const Certificate middle = make_certificate({.name = "middle", .authority = true}, &root);
  const Certificate cart = make_leaf(middle, id_of("cart")), web = make_leaf(middle, id_of("web"));
  struct Row {
    const char* name;
    identity::RevocationListsPtr lists;
    bool web, cart;
  };
  const Row rows[] = {{"no lists", nullptr, true, true},
                      {"the server's leaf", lists_of(middle, web), false, true},
                      {"the client's leaf", lists_of(middle, cart), true, false},
                      {"the intermediate", lists_of(root, middle), false, false}};
  for (const bool client_checks : {true, false}) {
    for (const Row& row : rows) {
      INFO(row.name << ", checked by the " << (client_checks ? "client" : "server"));
      const TlsOptions checking{.chain_check = check_with(row.lists)}, trusting{};
      HandshakePair pair = make_pair(
          make_context(TlsRole::kClient, cart, root, client_checks ? checking : trusting, {middle.x509.get()}),
          make_context(TlsRole::kServer, web, root, client_checks ? trusting : checking, {middle.x509.get()}), {id_of("web")});
      pair.run();
      const bool good = client_checks ? row.web : row.cart;
      const TlsHandshake& checker = client_checks ? pair.client : pair.server;
      CHECK(((client_checks ? pair.client_status : pair.server_status) == TlsHandshake::Status::kDone) == good);
      if (good) continue;
      CHECK(checker.error().reason == Reason::kCertRevoked);
      CHECK_THAT(checker.error().text, Catch::StartsWith("peer certificate revoked by CRL: certificate "));
    }
  }
}

TEST_CASE("new lists count for the next handshake of a context that is there, also for a peer known to it") {
  const Certificate root = make_root(), cart = make_leaf(root, id_of("cart")), web = make_leaf(root, id_of("web"));
  identity::RevocationListsPtr lists;
  const auto server = make_context(
      TlsRole::kServer, web, root,
      {.chain_check = check_with(lists), .keep_peer_chain = true, .verified_peers = std::make_shared<VerifiedPeers>()});
  const auto shake = [&] {
    HandshakePair pair = make_pair(make_context(TlsRole::kClient, cart, root), server, {id_of("web")});
    pair.run();
    return pair.server_status == TlsHandshake::Status::kDone;
  };
  CHECK(shake());
  lists = lists_of(root, cart);
  CHECK_FALSE(shake());
  lists = nullptr;
  CHECK(shake());
}

}  // namespace
}  // namespace zt::hbone
