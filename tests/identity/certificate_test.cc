#include "identity/certificate.h"

#include <array>

#include "identity/chain_verify.h"
#include "identity/csr.h"
#include "mesh/reason.h"
#include "tests/identity/support.h"

namespace zt::identity {
namespace {

using namespace test;
using namespace std::chrono_literals;

const WallTime kNow = wall_of(2026, 11, 23);

// A leaf with SANs as given, self-signed: what matters here is only what is in it.
X509Ptr leaf_with_sans(const std::vector<std::pair<int, std::string>>& sans, EVP_PKEY* key) {
  X509Ptr leaf(X509_new());
  X509_set_version(leaf.get(), X509_VERSION_3);
  X509_gmtime_adj(X509_getm_notBefore(leaf.get()), 0);
  X509_gmtime_adj(X509_getm_notAfter(leaf.get()), 3600);
  X509_set_pubkey(leaf.get(), key);
  const GeneralNamesPtr names(GENERAL_NAMES_new());
  for (const auto& [type, text] : sans) {
    ASN1_IA5STRING* value = ASN1_IA5STRING_new();
    ASN1_STRING_set(value, text.data(), static_cast<int>(text.size()));
    GENERAL_NAME* name = GENERAL_NAME_new();
    GENERAL_NAME_set0_value(name, type, value);
    sk_GENERAL_NAME_push(names.get(), name);
  }
  if (!sans.empty()) X509_add1_ext_i2d(leaf.get(), NID_subject_alt_name, names.get(), 1, 0);
  X509_sign(leaf.get(), key, EVP_sha256());
  return leaf;
}

TEST_CASE("the identity is the first SPIFFE id among the URI SANs") {
  using namespace std::string_literals;
  const PkeyPtr key = must(generate_p256_key());
  const std::string a = "spiffe://td/ns/n/sa/a", b = "spiffe://td/ns/n/sa/b";
  struct Case {
    const char* name;
    std::vector<std::pair<int, std::string>> sans;
    std::vector<std::string> expected;
  };
  const std::vector<Case> cases = {
      {"no SAN extension", {}, {}},
      {"one", {{GEN_URI, a}}, {a}},
      {"several keep their order", {{GEN_URI, b}, {GEN_URI, a}}, {b, a}},
      {"others are passed over", {{GEN_DNS, "x"}, {GEN_URI, "https://x"}, {GEN_EMAIL, "x@y"}, {GEN_URI, a}}, {a}},
      {"a SPIFFE id as DNS name is none", {{GEN_DNS, a}}, {}},
      {"a NUL does not end a name early", {{GEN_URI, a + "\0.evil"s}, {GEN_URI, b}}, {b}},
  };
  for (const Case& c : cases) {
    INFO(c.name);
    const X509Ptr leaf = leaf_with_sans(c.sans, key.get());
    std::vector<std::string> got;
    for (const SpiffeId& id : spiffe_sans(leaf.get())) got.push_back(id.to_string());
    CHECK(got == c.expected);
    const auto certificate =
        must(WorkloadCertificate::create(share(leaf.get()), {}, bundle_of({leaf.get()}), share(key.get()), std::nullopt));
    CHECK(certificate->identity().has_value() == !c.expected.empty());
    if (certificate->identity()) CHECK(certificate->identity()->to_string() == c.expected.front());
  }
}

TEST_CASE("a certificate with thousands of SANs costs a bounded number of parses") {
  const PkeyPtr key = must(generate_p256_key());
  X509Ptr leaf(X509_new());
  const GeneralNamesPtr names(GENERAL_NAMES_new());
  for (int i = 0; i < 2000; ++i) {
    ASN1_IA5STRING* value = ASN1_IA5STRING_new();
    ASN1_STRING_set(value, "spiffe://td/ns/n/sa/a", -1);
    GENERAL_NAME* name = GENERAL_NAME_new();
    GENERAL_NAME_set0_value(name, GEN_URI, value);
    sk_GENERAL_NAME_push(names.get(), name);
  }
  X509_add1_ext_i2d(leaf.get(), NID_subject_alt_name, names.get(), 1, 0);
  CHECK(uri_sans(leaf.get()).size() == kMaxSubjectAltNames);
}

TEST_CASE("a CA's answer becomes a certificate: leaf, intermediates, and the root bundle last") {
  const TestCa ca(kNow), other(kNow);
  const auto issued = ca.issue(id_of("a"), 1h, kNow);
  const auto middle = other.issue(id_of("middle"), 1h, kNow);  // stands in for an intermediate
  const std::string leaf = pem_of(issued->leaf()), link = pem_of(middle->leaf());
  const std::string root = pem_of(ca.root()), root2 = pem_of(other.root());
  const std::string damaged = "-----BEGIN CERTIFICATE-----\nQUFB\n-----END CERTIFICATE-----\n";
  const std::string not_a_certificate = key_pem(other.key());

  struct Case {
    const char* name;
    std::vector<std::string> chain;
    std::string error;  // empty = accepted
    size_t intermediates = 0, roots = 0;
  };
  const std::vector<Case> cases = {
      {"leaf and root", {leaf, root}, "", 0, 1},
      {"one intermediate", {leaf, link, root}, "", 1, 1},
      {"two intermediates in one element", {leaf, link + link, root}, "", 2, 1},
      {"the intermediate behind the leaf", {leaf + link, root}, "", 1, 1},
      {"a root among the intermediates does not go on the wire", {leaf, link, root, root}, "", 1, 1},
      {"several roots", {leaf, root + "comment\n" + root2}, "", 0, 2},
      {"a damaged root is skipped", {leaf, damaged + root2 + root}, "", 0, 2},
      {"so is what is no certificate", {leaf, root + not_a_certificate}, "", 0, 1},
      {"no elements", {}, "holds no certificates", 0, 0},
      {"only a leaf", {leaf}, "no roots", 0, 0},
      {"no usable root", {leaf, damaged}, "root bundle: holds no usable certificate", 0, 0},
      {"an empty root bundle", {leaf, ""}, "root bundle: holds no usable certificate", 0, 0},
      {"an empty leaf", {"", root}, "element 0 (leaf): holds no PEM certificate", 0, 0},
      {"a damaged leaf", {damaged, root}, "element 0 (leaf): certificate 1: not a PEM", 0, 0},
      {"a damaged intermediate", {leaf, damaged, root}, "element 1 (intermediate): certificate 1", 0, 0},
      {"another's leaf", {link, root}, "does not belong to the key", 0, 0},
      {"too many elements", std::vector<std::string>(kMaxChainParts + 1, leaf), "more than 32 elements", 0, 0},
      {"an element too large", {leaf + std::string(kMaxChainPartBytes, ' '), root}, "larger than", 0, 0},
      {"a root bundle too large", {leaf, root + std::string(kMaxTrustBundleBytes, ' ')}, "larger than", 0, 0},
  };
  for (const Case& c : cases) {
    INFO(c.name);
    const auto got = WorkloadCertificate::from_pem(c.chain, share(issued->private_key()), std::nullopt);
    if (!c.error.empty()) {
      REQUIRE_FALSE(got);
      CHECK(got.error().reason == Reason::kIdentityUnavailable);
      CHECK_THAT(got.error().text, Catch::Contains(c.error));
      continue;
    }
    INFO(error_of(got));
    REQUIRE(got);
    CHECK(X509_cmp((*got)->leaf(), issued->leaf()) == 0);
    CHECK((*got)->intermediates().size() == c.intermediates);
    CHECK((*got)->roots()->roots().size() == c.roots);
    CHECK((*got)->not_before() == kNow - kBackdate);
    CHECK((*got)->not_after() == kNow + 1h);
    CHECK_FALSE((*got)->expired(kNow + 1h - 1ms));
    CHECK((*got)->expired(kNow + 1h));
  }
}

TEST_CASE("in shared mode the leaf must be for whom it was asked, in dedicated mode it need not") {
  const TestCa ca(kNow);
  const auto issued = ca.issue(id_of("a"), 1h, kNow);
  const std::vector<std::string> chain = {pem_of(issued->leaf()), pem_of(ca.root())};
  CHECK(WorkloadCertificate::from_pem(chain, share(issued->private_key()), id_of("a")));
  CHECK(WorkloadCertificate::from_pem(chain, share(issued->private_key()), std::nullopt));
  const auto wrong = WorkloadCertificate::from_pem(chain, share(issued->private_key()), id_of("b"));
  CHECK_THAT(error_of(wrong), Catch::Contains("is for spiffe://cluster.local/ns/shop/sa/a, expected "
                                              "spiffe://cluster.local/ns/shop/sa/b"));

  const PkeyPtr key = must(generate_p256_key());
  const X509Ptr none = leaf_with_sans({}, key.get());
  CHECK_THAT(error_of(WorkloadCertificate::create(share(none.get()), {}, ca.roots(), share(key.get()), id_of("a"))),
             Catch::Contains("has no URI SAN"));
  const X509Ptr second = leaf_with_sans({{GEN_URI, "https://x"}, {GEN_URI, id_of("a").to_string()}}, key.get());
  CHECK_THAT(error_of(WorkloadCertificate::create(share(second.get()), {}, ca.roots(), share(key.get()), id_of("a"))),
             Catch::Contains("not a SPIFFE id"));
}

TEST_CASE("bundles are compared as sets") {
  const TestCa a(kNow), b(kNow);
  const auto ab = bundle_of({a.root(), b.root()});
  CHECK(ab->same_roots(*bundle_of({b.root(), a.root()})));
  CHECK(ab->same_roots(*bundle_of({b.root(), a.root(), b.root()})));
  CHECK_FALSE(ab->same_roots(*bundle_of({a.root()})));
  CHECK_FALSE(bundle_of({a.root()})->same_roots(*bundle_of({b.root()})));
}

TEST_CASE("a bundle of several roots verifies leaves of each of them, and of no other") {
  const TestCa a(kNow), b(kNow), c(kNow);
  const auto both = bundle_of({a.root(), b.root()});
  CHECK(verify_chain(a.issue(id_of("x"), 1h, kNow)->leaf(), {}, *both, kNow));
  CHECK(verify_chain(b.issue(id_of("x"), 1h, kNow)->leaf(), {}, *both, kNow));
  CHECK_FALSE(verify_chain(c.issue(id_of("x"), 1h, kNow)->leaf(), {}, *both, kNow));
  const auto late = verify_chain(a.issue(id_of("x"), 1h, kNow)->leaf(), {}, *both, kNow + 2h);
  REQUIRE_FALSE(late);
  CHECK_THAT(late.error(), Catch::Contains("expired"));
}

TEST_CASE("times print as RFC 3339, also those past what nanoseconds can count") {
  CHECK(rfc3339_seconds(wall_of(2026, 11, 24) + 2h + 52min + 5s + 999ms) == "2026-11-24T02:52:05Z");
  CHECK(rfc3339_seconds(wall_of(9999, 12, 31)) == "9999-12-31T00:00:00Z");
  const PkeyPtr key = must(generate_p256_key());
  const X509Ptr leaf = leaf_with_sans({}, key.get());
  ASN1_TIME_set_string_X509(X509_getm_notAfter(leaf.get()), "99991231235959Z");  // "no expiry" of RFC 5280
  CHECK(rfc3339_seconds(must(validity_of(leaf.get())).not_after) == "9999-12-31T23:59:59Z");
}

std::string base64_decoded(std::string text) {
  std::string out(text.size(), '\0');
  const int length = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(out.data()),
                                     reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  REQUIRE(length >= 0);
  out.resize(static_cast<size_t>(length) - (text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0));
  return out;
}

TEST_CASE("a certificate is dumped with the values that the peer dumps for the same one") {
  const std::string golden = read_file(std::string(ZT_GOLDEN_DIR) + "/istioctl/certificate.json.txt");
  size_t at = 0, seen = 0;
  const auto next = [&](std::string_view field) {
    const std::string before = "\"" + std::string(field) + "\": \"";
    at = golden.find(before, at);
    if (at == std::string::npos) return std::string();
    at += before.size();
    return golden.substr(at, golden.find('"', at) - at);
  };
  while (true) {
    const std::string pem = next("pem");
    if (pem.empty()) break;
    ++seen;
    const X509Ptr certificate = must(parse_certificate(base64_decoded(pem)));
    const CertificateDump dump = dump_certificate(certificate.get());
    // The same bytes; only the lines of the PEM text break elsewhere.
    CHECK(X509_cmp(must(parse_certificate(base64_decoded(dump.pem))).get(), certificate.get()) == 0);
    CHECK(dump.serial_number == next("serialNumber"));
    CHECK(dump.valid_from == next("validFrom"));
    CHECK(dump.expiration_time == next("expirationTime"));
  }
  CHECK(seen >= 2);
}

}  // namespace
}  // namespace zt::identity
