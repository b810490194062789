#include "identity/embedded_ca.h"

#include <openssl/x509v3.h>

#include <atomic>
#include <cstdio>
#include <future>
#include <set>

#include "identity/chain_verify.h"
#include "mesh/reason.h"
#include "tests/identity/plugin_ca.h"
#include "tests/identity/support.h"

namespace zt::identity {
namespace {

using namespace test;
using namespace std::chrono_literals;

const WallTime kNow = wall_of(2026, 11, 23);

std::unique_ptr<EmbeddedCa> open_ca(const std::string& directory, std::chrono::seconds ttl = 24h) {
  return must(EmbeddedCa::open({.directory = directory, .ttl = ttl, .wall_now = [] { return kNow; }}));
}

Result<CertificatePtr> fetch(CaClient& ca, const SpiffeId& id) {
  std::promise<Result<CertificatePtr>> promise;
  ca.fetch(id, [&](Result<CertificatePtr> result) { promise.set_value(std::move(result)); });
  return promise.get_future().get();
}

std::string output_of(const std::string& command) {
  std::FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string out;
  char buffer[512];
  while (std::fgets(buffer, sizeof buffer, pipe) != nullptr) out += buffer;
  ::pclose(pipe);
  return out;
}

TEST_CASE("a leaf has what peers look at: SAN, usages, validity, serial") {
  const TempDir temp;
  const auto ca = open_ca(temp.path(), 1h);
  const auto certificate = must(fetch(*ca, id_of("client")));
  X509* leaf = certificate->leaf();

  CHECK(certificate->identity() == id_of("client"));
  CHECK(certificate->not_before() == kNow - kBackdate);
  CHECK(certificate->not_after() == kNow + 1h);
  CHECK(certificate->intermediates().empty());
  CHECK(X509_NAME_entry_count(X509_get_subject_name(leaf)) == 0);
  CHECK(X509_get_version(leaf) == X509_VERSION_3);
  CHECK(X509_check_ca(leaf) == 0);
  CHECK(X509_get_extended_key_usage(leaf) == (XKU_SSL_SERVER | XKU_SSL_CLIENT));
  CHECK(X509_get_key_usage(leaf) == KU_DIGITAL_SIGNATURE);
  int critical = -1;
  GeneralNamesPtr(static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(leaf, NID_subject_alt_name, &critical, nullptr)));
  CHECK(critical == 1);
  CHECK(uri_sans(leaf) == std::vector<std::string>{id_of("client").to_string()});
  char group[32] = {};
  EVP_PKEY_get_group_name(X509_get0_pubkey(leaf), group, sizeof group, nullptr);
  CHECK(std::string(group) == "prime256v1");
}

TEST_CASE("serials are positive, long and never the same") {
  const TestCa ca(kNow);
  std::set<std::string> serials;
  for (int i = 0; i < 200; ++i) {
    const auto certificate = ca.issue(id_of("a"), 1h, kNow);
    const BignumPtr number(ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate->leaf()), nullptr));
    CHECK_FALSE(BN_is_negative(number.get()));
    CHECK(BN_num_bits(number.get()) == 127);
    serials.insert(certificate->serial());
  }
  CHECK(serials.size() == 200);
}

TEST_CASE("a leaf never outlives its issuer or the root") {
  const CaSpec shorter{.not_before = kNow - 1min, .not_after = kNow + 30min};
  const CaSpec longer{.name = "test root"};
  const bool root_ends_first = GENERATE(false, true);
  const TempDir temp;
  PluginCa::make(PkeyPtr(EVP_EC_gen("P-256")), PkeyPtr(EVP_EC_gen("P-256")), root_ends_first ? longer : shorter,
                 root_ends_first ? shorter : longer)
      .write(temp.path());
  const auto certificate = must(fetch(*open_ca(temp.path(), std::chrono::seconds::max()), id_of("a")));
  CHECK(certificate->not_after() == kNow + 30min);
  CHECK(certificate->not_before() == kNow - 1min);

  const auto issuer = must(CaDirectory(temp.path()).load(kNow));
  CHECK_THAT(error_of(issuer->issue(id_of("a"), 1h, kNow + 30min)),
             Catch::Contains("has expired") && Catch::Contains("replace it"));
}

TEST_CASE("openssl's own command accepts our chains for both roles") {
  if (output_of("openssl version").find("OpenSSL") == std::string::npos) {
    WARN("no openssl command here");
    return;
  }
  const bool plugged_in = GENERATE(false, true);
  const TempDir temp;
  const std::string directory = temp.file("ca");
  std::filesystem::create_directory(directory);
  if (plugged_in) PluginCa::make(PkeyPtr(EVP_RSA_gen(2048)), PkeyPtr(EVP_RSA_gen(2048))).write(directory);
  const auto certificate = must(fetch(*open_ca(directory), id_of("a")));
  write_file(temp.file("leaf.pem"), pem_of(certificate->leaf()));
  std::string links, roots;
  for (const X509Ptr& link : certificate->intermediates()) links += pem_of(link.get());
  for (const X509Ptr& root : certificate->roots()->roots()) roots += pem_of(root.get());
  write_file(temp.file("links.pem"), links);
  write_file(temp.file("roots.pem"), roots);
  CHECK(certificate->intermediates().size() == (plugged_in ? 1u : 0u));

  const std::string at = std::to_string(std::chrono::duration_cast<std::chrono::seconds>(kNow.time_since_epoch()).count());
  for (const char* purpose : {"sslserver", "sslclient"}) {
    const std::string command = "openssl verify -x509_strict -attime " + at + " -purpose " + purpose + " -CAfile " +
                                temp.file("roots.pem") + (links.empty() ? "" : " -untrusted " + temp.file("links.pem")) + " " +
                                temp.file("leaf.pem");
    CHECK(output_of(command) == temp.file("leaf.pem") + ": OK\n");
  }
}

TEST_CASE("nodes that point to the same directory trust each other") {
  const TempDir temp;
  const auto a = open_ca(temp.path()), b = open_ca(temp.path());
  const auto from_a = must(fetch(*a, id_of("a"))), from_b = must(fetch(*b, id_of("b")));
  CHECK(from_a->roots()->same_roots(*from_b->roots()));
  CHECK(verify_chain(from_a->leaf(), from_a->intermediates(), *from_b->roots(), kNow));
}

TEST_CASE("a lifetime that makes no sense is refused at start") {
  const TempDir temp;
  const auto ttl = GENERATE(0s, -1s, std::chrono::seconds::min());
  CHECK_THAT(error_of(EmbeddedCa::open({.directory = temp.path(), .ttl = ttl, .wall_now = {}})),
             Catch::Contains("Set SECRET_TTL"));
}

TEST_CASE("replaced files are used from the next certificate on, bad ones are not") {
  const TempDir temp;
  const PluginCa first = PluginCa::make(), second = PluginCa::make();
  first.write(temp.path());
  const auto ca = open_ca(temp.path());
  const auto roots_now = [&] { return must(fetch(*ca, id_of("a")))->roots(); };
  CHECK(roots_now()->same_roots(*bundle_of({first.root.get()})));

  // The right order for a new root: both in the bundle first.
  write_file(temp.file("root-cert.pem"), pem_of(first.root.get()) + pem_of(second.root.get()));
  CHECK(roots_now()->same_roots(*bundle_of({first.root.get(), second.root.get()})));

  write_file(temp.file("ca-key.pem"), key_pem(second.ca_key.get()));  // half of the change
  CHECK(roots_now()->same_roots(*bundle_of({first.root.get(), second.root.get()})));

  second.write(temp.path());
  CHECK(roots_now()->same_roots(*bundle_of({second.root.get()})));

  write_file(temp.file("ca-cert.pem"), "garbage");
  CHECK(roots_now()->same_roots(*bundle_of({second.root.get()})));

  for (const char* name : {"ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"}) ::unlink(temp.file(name).c_str());
  CHECK(roots_now()->same_roots(*bundle_of({second.root.get()})));
  CHECK(std::filesystem::is_empty(temp.path()));  // and no new root was made
}

TEST_CASE("requests run off the caller's thread and all are answered, also those that shutdown finds waiting") {
  const TempDir temp;
  constexpr int kRequests = 500;
  std::atomic<int> answers = 0, expected = 0, on_caller = 0;
  {
    const auto self = std::this_thread::get_id();
    const auto ca = open_ca(temp.path());  // last: it still answers while it goes
    for (int i = 0; i < kRequests; ++i)
      ca->fetch(id_of("a" + std::to_string(i)), [&](Result<CertificatePtr> result) {
        ++answers;
        if (result || result.error().reason == Reason::kIdentityUnavailable) ++expected;
        if (std::this_thread::get_id() == self) ++on_caller;
      });
  }
  CHECK(answers == kRequests);
  CHECK(expected == kRequests);
  CHECK(on_caller == 0);
}

TEST_CASE("a flood of requests is answered with an error instead of growing without end") {
  const TempDir temp;
  std::promise<void> gate;
  const auto opened = gate.get_future().share();
  std::atomic<int> refused = 0;
  const auto ca = open_ca(temp.path());                                                   // last: it still answers while it goes
  ca->fetch(id_of("first"), [opened](const Result<CertificatePtr>&) { opened.wait(); });  // holds up the CA's thread
  for (size_t i = 0; i < EmbeddedCa::kMaxQueuedRequests + 10; ++i)
    ca->fetch(id_of("a"), [&](Result<CertificatePtr> result) {
      if (!result && result.error().text.find("too many requests") != std::string::npos) ++refused;
    });
  CHECK(refused >= 9);
  gate.set_value();
}

}  // namespace
}  // namespace zt::identity
