#include "hbone/tls/context.h"

#include <catch2/catch.hpp>

#include "mesh/reason.h"
#include "tests/hbone/tls/tls_pki.h"

namespace zt::hbone {
namespace {

using namespace testing;
using identity::SpiffeId;

TEST_CASE("a server takes clients of its own trust domain, and of any if it has none itself") {
  struct Row {
    const char* name;
    std::optional<std::string> own;
    std::vector<SpiffeId> peer;
    const char* error;  // null = accepted
  };
  const Row rows[] = {
      {"same trust domain", "cluster.local", {id_of("a")}, nullptr},
      {"the second of two names", "cluster.local", {id_of("a", "other"), id_of("b")}, nullptr},
      {"another trust domain",
       "cluster.local",
       {id_of("a", "other")},
       "identity verification error: peer did not present the expected trustdomain (cluster.local), got "
       "[spiffe://other/ns/shop/sa/a]"},
      {"two different names of ours",
       "cluster.local",
       {id_of("a"), id_of("b")},
       "peer presented several identities of trustdomain cluster.local"},
      {"one name of ours, twice", "cluster.local", {id_of("a"), id_of("a")}, nullptr},
      {"a trust domain that only begins alike",
       "cluster.local",
       {id_of("a", "cluster.local.evil")},
       "peer did not present the expected trustdomain"},
      {"no SPIFFE name at all", "cluster.local", {}, "expected trustdomain (cluster.local), got []"},
      {"no name of our own, any peer", std::nullopt, {id_of("a", "other")}, nullptr},
      {"no name of our own, nameless peer", std::nullopt, {}, nullptr},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    const auto checked = check_client_identity(row.peer, row.own);
    CHECK(checked.has_value() == (row.error == nullptr));
    if (!checked && row.error != nullptr) {
      CHECK_THAT(checked.error().text, Catch::Contains(row.error));
      CHECK(checked.error().reason == Reason::kTlsFailed);
    }
  }
}

TEST_CASE("a client takes a server that has one of the expected identities, and none if none is expected") {
  struct Row {
    const char* name;
    std::vector<SpiffeId> expected, peer;
    const char* error;
  };
  const Row rows[] = {
      {"the one", {id_of("web")}, {id_of("web")}, nullptr},
      {"one of two", {id_of("old"), id_of("web")}, {id_of("web")}, nullptr},
      {"the server's second name", {id_of("web")}, {id_of("x"), id_of("web")}, nullptr},
      {"another account",
       {id_of("web")},
       {id_of("cart")},
       "identity verification error: peer did not present the expected SAN "
       "([spiffe://cluster.local/ns/shop/sa/web]), "
       "got [spiffe://cluster.local/ns/shop/sa/cart]"},
      {"another trust domain", {id_of("web")}, {id_of("web", "other")}, "did not present the expected SAN"},
      {"a server without a name", {id_of("web")}, {}, "got []"},
      {"nothing is expected", {}, {id_of("web")}, "expected SAN ([]), got [spiffe://cluster.local/ns/shop/sa/web]"},
      {"nothing is expected and nothing came", {}, {}, "expected SAN ([]), got []"},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    const auto checked = check_server_identity(row.peer, row.expected);
    CHECK(checked.has_value() == (row.error == nullptr));
    if (!checked && row.error != nullptr) CHECK_THAT(checked.error().text, Catch::Contains(row.error));
  }
}

TEST_CASE("a peer may have any name of our own trust domain, and no alias of another's") {
  const std::vector<std::string> aliases{"old.example", "older.example"};
  struct Row {
    const char* name;
    SpiffeId peer;
    bool as_client, as_server;
  };
  const SpiffeId expected = id_of("web", "cluster.local");
  const Row rows[] = {
      {"our own name", id_of("web"), true, true},
      {"an old name", id_of("web", "old.example"), true, true},
      {"a name that is none", id_of("web", "new.example"), false, false},
      {"another account under an old name", id_of("cart", "old.example"), true, false},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    CHECK(check_client_identity({{row.peer}}, "cluster.local", aliases).has_value() == row.as_client);
    CHECK(check_server_identity({{row.peer}}, {{expected}}, "cluster.local", aliases).has_value() == row.as_server);
  }
  // What the control plane calls by an old name may have got its new certificate already.
  CHECK(check_server_identity({{id_of("web")}}, {{id_of("web", "older.example")}}, "cluster.local", aliases));
  CHECK_FALSE(check_server_identity({{id_of("web")}}, {{id_of("web", "third.example")}}, "cluster.local", aliases));
  CHECK_FALSE(check_server_identity({{id_of("web", "old.example")}}, {}, "cluster.local", aliases));
}

TEST_CASE("credentials that cannot work are refused when the context is made, with what is wrong") {
  const Certificate root = make_root(), leaf = make_leaf(root, id_of("web")), other = make_leaf(root, id_of("x"));
  X509* const roots[] = {root.x509.get()};
  struct Row {
    const char* name;
    TlsCredentials credentials;
    const char* text;
  };
  const Row rows[] = {
      {"no root", {.leaf = leaf.x509.get(), .intermediates = {}, .key = leaf.key.get(), .roots = {}}, "no root certificate"},
      {"no key", {.leaf = leaf.x509.get(), .intermediates = {}, .key = nullptr, .roots = roots}, "no private key"},
      {"no leaf", {.leaf = nullptr, .intermediates = {}, .key = leaf.key.get(), .roots = roots}, "no certificate"},
      {"key of another leaf",
       {.leaf = leaf.x509.get(), .intermediates = {}, .key = other.key.get(), .roots = roots},
       "private key does not fit certificate"},
  };
  for (const Row& row : rows) {
    for (const TlsRole role : {TlsRole::kClient, TlsRole::kServer}) {
      INFO(row.name);
      const auto made = TlsContext::make(role, row.credentials);
      REQUIRE_FALSE(made);
      CHECK(made.error().reason == Reason::kInvalidInput);
      CHECK_THAT(made.error().text, Catch::Contains(row.text));
    }
  }
}

TEST_CASE("a context knows its own trust domain from its leaf") {
  const Certificate root = make_root();
  CHECK(make_context(TlsRole::kServer, make_leaf(root, id_of("web", "td.example")), root)->trust_domain() == "td.example");
  const Certificate nameless = make_certificate({.name = "legacy"}, &root);
  CHECK_FALSE(make_context(TlsRole::kServer, nameless, root)->trust_domain());
  // The first one that is a SPIFFE id of a workload counts.
  const Certificate mixed = make_certificate({.uris = {"https://cluster.local/x", "spiffe://short",
                                                       id_of("web", "first").to_string(), id_of("web", "second").to_string()}},
                                             &root);
  CHECK(make_context(TlsRole::kServer, mixed, root)->trust_domain() == "first");
}

}  // namespace
}  // namespace zt::hbone
