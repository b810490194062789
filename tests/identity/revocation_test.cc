#include "identity/revocation.h"

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "tests/identity/manager_fixture.h"
#include "tests/identity/plugin_ca.h"
#include "tests/support/crl.h"

namespace zt::identity {
namespace {

using namespace test;

const WallTime kNow = wall_clock_now();

std::vector<X509Ptr> chain_of(std::initializer_list<X509*> certificates) {
  std::vector<X509Ptr> chain;
  for (X509* each : certificates) chain.push_back(share(each));
  return chain;
}

TEST_CASE("a certificate is revoked by a list that its issuer signed, and by no other") {
  const TestCa ca(kNow), namesake(kNow);  // both roots have the same name
  const CertificatePtr cart = ca.issue(id_of("cart"), std::chrono::hours(1), kNow);
  const CertificatePtr web = ca.issue(id_of("web"), std::chrono::hours(1), kNow);
  struct Row {
    const char* name;
    std::string file;
    bool cart, web;
  };
  constexpr int kRemoveFromCrl = 8;
  const auto list = [&](std::initializer_list<X509*> revoked, long next_update = 3600, int reason = -1) {
    return make_crl(ca.root(), ca.key(), revoked, next_update, reason);
  };
  const std::string cart_listed = pem_of(list({cart->leaf()}).get());
  const Row rows[] = {
      {"nothing at all", "", false, false},
      {"white space", " \n\n", false, false},
      {"PEM of other things", pem_of(ca.root()), false, false},
      {"a list of none", pem_of(list({}).get()), false, false},
      {"a list of one", cart_listed, true, false},
      {"the same in DER", der_of(list({cart->leaf()}).get()), true, false},
      {"two in one file, with text around", "first\n" + cart_listed + "\nsecond\n" + pem_of(list({web->leaf()}).get()), true,
       true},
      {"a list that should have been replaced", pem_of(list({cart->leaf()}, -30).get()), true, false},
      {"an entry that takes back an earlier one", pem_of(list({cart->leaf()}, 3600, kRemoveFromCrl).get()), false, false},
      {"a namesake's list", pem_of(make_crl(ca.root(), namesake.key(), {cart->leaf(), web->leaf()}).get()), false, false},
      {"a namesake's list before ours", pem_of(make_crl(ca.root(), namesake.key(), {cart->leaf()}).get()) + cart_listed, true,
       false},
      {"the anchor itself, which only its holders can distrust", pem_of(list({ca.root()}).get()), false, false},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    const auto lists = must(RevocationLists::parse(row.file));
    CHECK((lists->revoked_in(chain_of({cart->leaf(), ca.root()})) == cart->leaf()) == row.cart);
    CHECK((lists->revoked_in(chain_of({web->leaf(), ca.root()})) == web->leaf()) == row.web);
    CHECK(lists->revoked_in({}) == nullptr);
    CHECK(lists->revoked_in(chain_of({cart->leaf()})) == nullptr);
  }
  CHECK_THAT(revoked_text(cart->leaf()), Catch::Contains("serial number " + cart->serial()));
}

TEST_CASE("an intermediate that is revoked takes what it issued with it") {
  const CaSpec valid{.not_before = kNow - std::chrono::days(1), .not_after = kNow + std::chrono::days(30)};
  CaSpec root = valid;
  root.name = "test root";
  const PluginCa ca = PluginCa::make(PkeyPtr(EVP_EC_gen("P-256")), PkeyPtr(EVP_EC_gen("P-256")), valid, root);
  const auto issuer = Issuer::create(share(ca.ca.get()), share(ca.ca_key.get()), {}, bundle_of({ca.root.get()}), kNow);
  REQUIRE(issuer);
  const auto leaf = must((*issuer)->issue(id_of("cart"), std::chrono::hours(1), kNow));
  const auto lists = must(RevocationLists::parse(pem_of(make_crl(ca.root.get(), ca.root_key.get(), {ca.ca.get()}).get())));
  CHECK(lists->revoked_in(chain_of({leaf->leaf(), ca.ca.get(), ca.root.get()})) == ca.ca.get());
  CHECK(lists->revoked_in(chain_of({leaf->leaf(), ca.ca.get()})) == nullptr);  // trusted as an anchor
}

TEST_CASE("a damaged file is refused as a whole, and the error says where") {
  const TestCa ca(kNow);
  const std::string good = pem_of(make_crl(ca.root(), ca.key(), {}).get());
  const std::string der = der_of(make_crl(ca.root(), ca.key(), {}).get());
  std::string damaged = good;
  damaged[damaged.size() / 2] = '!';
  struct Row {
    const char* name;
    std::string file;
    const char* says;
  };
  std::string many;
  for (size_t i = 0; i <= kMaxRevocationLists; ++i) many += good;
  const Row rows[] = {
      {"the second of two", good + damaged, "PEM block 2: not a certificate revocation list"},
      {"a block without its end", good.substr(0, good.size() - 30), "PEM block 1: not a certificate revocation list"},
      {"a certificate under the wrong label", "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n", "PEM block 1: "},
      {"neither form", "hello", "neither PEM nor a certificate revocation list in DER"},
      {"DER cut short", der.substr(0, der.size() - 1), "neither PEM nor a certificate revocation list in DER"},
      {"something after DER", der + "x", "something follows"},
      {"too many", many, "more than 256 revocation lists"},
      {"too large", std::string(kMaxRevocationBytes + 1, ' '), "larger than 16777216 bytes"},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    const auto refused = RevocationLists::parse(row.file);
    REQUIRE_FALSE(refused);
    CHECK_THAT(refused.error().text, Catch::StartsWith(row.says));
  }
}

// ---- our own certificates

RevocationListsPtr revoking(const TestCa& ca, const CertificatePtr& certificate) {
  return must(RevocationLists::parse(pem_of(make_crl(ca.root(), ca.key(), {certificate->leaf()}).get())));
}

TEST_CASE("a certificate of ours that is revoked is not served any more, and another is asked for at once") {
  ManagerFixture f;
  const SpiffeId cart = id_of("cart"), web = id_of("web");
  const auto revoked = f.available(cart), good = f.available(web);
  std::vector<std::string> told;
  f.manager->subscribe([&](const SpiffeId& id, const Credentials& now) {
    told.push_back(id.service_account + (now.certificate ? " has one" : " has none"));
  });
  told.clear();

  f.manager->set_revocations(revoking(f.authority, revoked));
  CHECK(told == std::vector<std::string>{"cart has none"});
  CHECK_THAT(error_of(f.manager->current(cart)), Catch::Contains("no valid certificate"));
  CHECK_THAT(f.state(cart), Catch::StartsWith("Unavailable: certificate ") && Catch::EndsWith("is revoked"));
  CHECK(f.state(web) == "Available");
  REQUIRE(f.ca.requests.size() == 1);
  const auto waiting = f.get(cart);
  CHECK(waiting->empty());

  const auto replaced = f.answer();
  REQUIRE(waiting->size() == 1);
  CHECK(must(waiting->front()).certificate == replaced);
  CHECK(told == std::vector<std::string>{"cart has none", "cart has one"});
  CHECK(f.manager->stats().revocations == 1);

  f.manager->set_revocations(nullptr);
  CHECK(f.manager->current(cart));
}

TEST_CASE("a CA that answers with a revoked certificate is asked again with the usual back-off") {
  ManagerFixture f;
  const SpiffeId cart = id_of("cart");
  const auto revoked = f.issue(cart);
  f.manager->set_revocations(revoking(f.authority, revoked));
  const auto waiting = f.get(cart);
  f.ca.take().done(revoked);
  f.scheduler.run_posted();
  REQUIRE(waiting->size() == 1);
  CHECK_THAT(error_of(waiting->front()), Catch::Contains("certificate that cannot be used") && Catch::Contains("is revoked"));
  CHECK(f.ca.requests.empty());
  f.next_request(std::chrono::minutes(1));
  f.answer();
  CHECK(f.manager->current(cart));
}

}  // namespace
}  // namespace zt::identity
