#include <openssl/provider.h>

#include <catch2/catch.hpp>
#include <string>

#include "hbone/tls/tls_library.h"
#include "hbone/tls/verified_peers.h"
#include "mesh/reason.h"
#include "tests/hbone/tls/tls_pki.h"

namespace zt::hbone {
namespace {

using namespace testing;
using identity::WallTime;
using std::chrono::seconds;

constexpr WallTime at(long second) { return WallTime(seconds(second)); }

VerifiedPeers::Key key_of(size_t number) {
  VerifiedPeers::Key key{};
  std::memcpy(key.data(), &number, sizeof number);
  return key;
}

VerifiedPeer peer_of(const std::string& account) {
  return {.ids = {id_of(account)}, .chain = {}, .not_before = at(100), .not_after = at(200)};
}

TEST_CASE("a verified chain is known while all of its certificates are valid, however the clock jumps") {
  VerifiedPeers peers;
  peers.insert(key_of(1), peer_of("cart"));
  CHECK(peers.find(key_of(2), at(150)) == nullptr);
  for (const long now : {99L, 200L, 3800L, -3450L}) CHECK(peers.find(key_of(1), at(now)) == nullptr);
  for (const long now : {100L, 150L, 199L}) {
    REQUIRE(peers.find(key_of(1), at(now)) != nullptr);
    CHECK(peers.find(key_of(1), at(now))->ids.front() == id_of("cart"));
  }
  peers.insert(key_of(1), peer_of("web"));
  CHECK(peers.size() == 1);
  CHECK(peers.find(key_of(1), at(150))->ids.front() == id_of("web"));
}

TEST_CASE("the peers that were not seen for longest make room for new ones") {
  VerifiedPeers peers;
  for (size_t i = 0; i < VerifiedPeers::kMaxPeers; ++i) peers.insert(key_of(i), peer_of("cart"));
  REQUIRE(peers.find(key_of(0), at(150)) != nullptr);
  peers.insert(key_of(VerifiedPeers::kMaxPeers), peer_of("cart"));
  CHECK(peers.size() == VerifiedPeers::kMaxPeers);
  CHECK(peers.find(key_of(0), at(150)) != nullptr);
  CHECK(peers.find(key_of(1), at(150)) == nullptr);
}

// A mesh whose server remembers whom it verified. Whether it did shows in the chain: a known one is shared.
struct Remembering {
  std::shared_ptr<VerifiedPeers> peers = std::make_shared<VerifiedPeers>();
  Certificate root = make_root();
  Certificate web = make_leaf(root, id_of("web"));

  [[nodiscard]] std::shared_ptr<const TlsContext> server(const Certificate& trusted, ChainCheck check = {}) const {
    return make_context(TlsRole::kServer, web, trusted,
                        {.chain_check = std::move(check), .keep_peer_chain = true, .verified_peers = peers});
  }
  // What the server says of a client with this certificate.
  static Result<TlsEstablished> accept(const std::shared_ptr<const TlsContext>& server, const Certificate& client,
                                       const Certificate& root, std::vector<X509*> intermediates = {}) {
    HandshakePair pair =
        make_pair(make_context(TlsRole::kClient, client, root, {}, std::move(intermediates)), server, {id_of("web")});
    pair.run();
    if (pair.done()) return pair.server.take();
    return std::unexpected(pair.server.error());
  }
};

TEST_CASE("a chain that was verified once is taken from memory, for each context of the same roots") {
  const Remembering mesh;
  const Certificate cart = make_leaf(mesh.root, id_of("cart"));
  const auto first = Remembering::accept(mesh.server(mesh.root), cart, mesh.root);
  const auto second = Remembering::accept(mesh.server(mesh.root), cart, mesh.root);
  REQUIRE(first);
  REQUIRE(second);
  CHECK(mesh.peers->size() == 1);
  CHECK(first->peer_chain == second->peer_chain);
  CHECK(second->peer == id_of("cart"));
  const auto other = Remembering::accept(mesh.server(mesh.root), make_leaf(mesh.root, id_of("cart")), mesh.root);
  REQUIRE(other);
  CHECK(other->peer_chain != first->peer_chain);
}

TEST_CASE("what was verified under one root says nothing under another") {
  const Remembering mesh;
  const Certificate cart = make_leaf(mesh.root, id_of("cart")), other_root = make_root("other");
  REQUIRE(Remembering::accept(mesh.server(mesh.root), cart, mesh.root));
  const auto refused = Remembering::accept(mesh.server(other_root), cart, mesh.root);
  REQUIRE_FALSE(refused);
  CHECK_THAT(refused.error().text, Catch::StartsWith("peer's certificate is not valid: "));
}

TEST_CASE("a certificate that was verified as a server's does not pass as a client's") {
  const auto peers = std::make_shared<VerifiedPeers>();
  const Certificate root = make_root(), web = make_leaf(root, id_of("web"));
  const Certificate cart = make_certificate({.uris = {id_of("cart").to_string()}, .usage = "serverAuth"}, &root);
  const TlsOptions options{.verified_peers = peers};
  HandshakePair as_server =
      make_pair(make_context(TlsRole::kClient, web, root, options), make_context(TlsRole::kServer, cart, root), {id_of("cart")});
  as_server.run();
  REQUIRE(as_server.done());
  HandshakePair as_client =
      make_pair(make_context(TlsRole::kClient, cart, root), make_context(TlsRole::kServer, web, root, options), {id_of("web")});
  as_client.run();
  CHECK(as_client.server_status == TlsHandshake::Status::kFailed);
}

TEST_CASE("a chain that was refused is not remembered, and one forged signature makes it another chain") {
  const Remembering mesh;
  const Certificate stranger_root = make_root();  // of the same name
  const Certificate stranger = make_leaf(stranger_root, id_of("cart"));
  for (int i = 0; i < 2; ++i) CHECK_FALSE(Remembering::accept(mesh.server(mesh.root), stranger, mesh.root));
  CHECK(mesh.peers->size() == 0);

  const Certificate cart = make_leaf(mesh.root, id_of("cart"));
  REQUIRE(Remembering::accept(mesh.server(mesh.root), cart, mesh.root));
  Certificate forged{X509Ptr(X509_dup(cart.x509.get())), identity::share(cart.key.get())};
  const ASN1_BIT_STRING* signature = nullptr;
  X509_get0_signature(&signature, nullptr, forged.x509.get());
  signature->data[signature->length - 1] ^= 1;
  CHECK_FALSE(Remembering::accept(mesh.server(mesh.root), forged, mesh.root));
}

TEST_CASE("a known chain is still asked about: revocation and trust domain") {
  const Remembering mesh;
  const Certificate cart = make_leaf(mesh.root, id_of("cart"));
  int asked = 0;
  const auto server = mesh.server(mesh.root, [&](std::span<const X509Ptr> chain) -> Result<> {
    CHECK(chain.size() == 2);
    if (++asked == 1) return {};
    return fail(Reason::kCertRevoked, "revoked meanwhile");
  });
  REQUIRE(Remembering::accept(server, cart, mesh.root));
  const auto revoked = Remembering::accept(server, cart, mesh.root);
  REQUIRE_FALSE(revoked);
  CHECK(revoked.error().reason == Reason::kCertRevoked);

  const Certificate foreign = make_leaf(mesh.root, id_of("cart", "elsewhere"));
  for (int i = 0; i < 2; ++i) CHECK_FALSE(Remembering::accept(mesh.server(mesh.root), foreign, mesh.root));
}

TEST_CASE("a context that needs the chain gets it where another remembered the peer without") {
  const Remembering mesh;
  const Certificate cart = make_leaf(mesh.root, id_of("cart"));
  const auto forgetful = make_context(TlsRole::kServer, mesh.web, mesh.root, {.verified_peers = mesh.peers});
  const auto first = Remembering::accept(forgetful, cart, mesh.root);
  REQUIRE(first);
  CHECK(first->peer_chain == nullptr);
  const auto second = Remembering::accept(mesh.server(mesh.root), cart, mesh.root);
  REQUIRE(second);
  CHECK(second->peer_chain != nullptr);
}

TEST_CASE("peers and their issuers may have keys of every usual type") {
  for (const char* const issuer_key : {"P-256", "P-384", "RSA", "ED25519"}) {
    for (const char* const leaf_key : {"P-256", "P-384", "RSA"}) {
      INFO(leaf_key << " issued by " << issuer_key);
      const Certificate root = make_certificate({.name = "root", .authority = true, .key = issuer_key});
      const Certificate cart = make_certificate({.uris = {id_of("cart").to_string()}, .key = leaf_key}, &root);
      const Certificate web = make_leaf(root, id_of("web"));
      HandshakePair pair =
          make_pair(make_context(TlsRole::kClient, cart, root), make_context(TlsRole::kServer, web, root), {id_of("web")});
      pair.run();
      CHECK(pair.done());
    }
  }
}

TEST_CASE("handshakes run in a context of the default provider's algorithms where that saves work") {
  OSSL_LIB_CTX* const library = handshake_library();
  CHECK(library == handshake_library());
  const bool worth_it = OPENSSL_version_major() == 3 && OPENSSL_version_minor() < 2;
  if (!worth_it || OSSL_PROVIDER_available(nullptr, "fips") == 1) {
    CHECK(library == nullptr);
    return;
  }
  REQUIRE(library != nullptr);
  CHECK(OSSL_PROVIDER_available(library, "default") == 0);
  CHECK(OSSL_PROVIDER_available(library, "ztunnel-handshake") == 1);
  EVP_KEYMGMT* const left_out = EVP_KEYMGMT_fetch(library, "DH", nullptr);
  CHECK(left_out == nullptr);
  EVP_KEYMGMT_free(left_out);
  ERR_clear_error();
}

}  // namespace
}  // namespace zt::hbone
