#include "identity/pem.h"

#include "tests/identity/support.h"

namespace zt::identity {
namespace {

using namespace test;

const WallTime kNow = wall_of(2026, 11, 23);

TEST_CASE("text is split into its PEM blocks and nothing else") {
  struct Case {
    const char* name;
    std::string text;
    std::vector<std::string> labels;
  };
  const std::string a = "-----BEGIN A-----\nQUFB\n-----END A-----\n";
  const std::string b = "-----BEGIN B C-----\nQUFB\n-----END B C-----";
  const std::vector<Case> cases = {
      {"nothing", "", {}},
      {"no block", "hello", {}},
      {"one", a, {"A"}},
      {"two with text around", "x\n" + a + "y\n" + b + "\nz", {"A", "B C"}},
      {"the first lost its end", "-----BEGIN A-----\nQUFB\n" + b, {"A", "B C"}},
      {"the last lost its end", a + "-----BEGIN D-----\nQUFB\n", {"A", "D"}},
      {"a marker that is cut", a + "-----BEGIN D", {"A"}},
      {"a marker whose line ends early", "-----BEGIN \n" + b, {"B C"}},
  };
  for (const Case& c : cases) {
    INFO(c.name);
    std::vector<std::string> labels;
    for (const PemBlock& block : split_pem(c.text)) labels.emplace_back(block.label);
    CHECK(labels == c.labels);
  }
}

TEST_CASE("a certificate survives the way to PEM and back, damage is an error") {
  const TestCa ca(kNow);
  const std::string pem = pem_of(ca.root());
  CHECK(X509_cmp(must(parse_certificate(pem)).get(), ca.root()) == 0);
  CHECK_FALSE(parse_certificate(""));
  CHECK_FALSE(parse_certificate("-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n"));
  CHECK_FALSE(parse_certificate("-----BEGIN CERTIFICATE-----\nQUFB\n-----END CERTIFICATE-----\n"));
  CHECK_FALSE(parse_certificate(pem.substr(0, pem.size() / 2)));
}

TEST_CASE("a list of certificates has a limit and names the damaged one") {
  const TestCa ca(kNow);
  const std::string pem = pem_of(ca.root());
  CHECK(must(parse_certificates(pem + "comment\n" + pem, 2)).size() == 2);
  CHECK(error_of(parse_certificates(pem + pem, 1)) == "more than 1 certificates");
  CHECK(error_of(parse_certificates("", 4)) == "holds no PEM certificate");
  const std::string damaged = "-----BEGIN CERTIFICATE-----\nQUFB\n-----END CERTIFICATE-----\n";
  CHECK_THAT(error_of(parse_certificates(pem + damaged, 4)), Catch::StartsWith("certificate 2: not a PEM certificate"));
}

TEST_CASE("a private key is read in each form, but never with a password") {
  const PkeyPtr rsa(EVP_RSA_gen(2048));
  const PkeyPtr ec(EVP_EC_gen("P-384"));
  const PkeyPtr ed(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
  for (EVP_PKEY* key : {rsa.get(), ec.get(), ed.get()})
    CHECK(EVP_PKEY_eq(must(parse_private_key("notes\n" + key_pem(key))).get(), key) == 1);

  const auto written = [&](bool traditional) {
    const BioPtr bio(BIO_new(BIO_s_mem()));
    unsigned char password[] = "secret";
    (traditional ? PEM_write_bio_PrivateKey_traditional : PEM_write_bio_PrivateKey)(bio.get(), rsa.get(), EVP_aes_128_cbc(),
                                                                                    password, 6, nullptr, nullptr);
    char* data = nullptr;
    const long length = BIO_get_mem_data(bio.get(), &data);
    return std::string(data, static_cast<size_t>(length));
  };
  CHECK_THAT(error_of(parse_private_key(written(false))), Catch::Contains("is encrypted"));
  CHECK_THAT(error_of(parse_private_key(written(true))), Catch::Contains("is encrypted"));
  CHECK_THAT(error_of(parse_private_key("")), Catch::Contains("holds no PEM private key"));
  CHECK_THAT(error_of(parse_private_key("-----BEGIN PRIVATE KEY-----\nQUFB\n-----END PRIVATE KEY-----\n")),
             Catch::Contains("not a readable PEM private key"));
}

}  // namespace
}  // namespace zt::identity
