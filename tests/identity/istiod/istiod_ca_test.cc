// The CA client over gRPC and TLS, against a CA in this process that answers as the recorded istiod does, and
// wrongly in every way we could think of.
#include "identity/istiod/istiod_ca_client.h"

#include <openssl/pem.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <fstream>
#include <future>
#include <iterator>
#include <memory>
#include <thread>

#include "identity/csr.h"
#include "mesh/reason.h"
#include "tests/support/istiod/fake_istiod.h"
#include "tests/support/istiod/temp_dir.h"

// c-ares 1.18 (Debian 12), by which gRPC looks up, loses the copy of a name that it finds in /etc/hosts: 10 bytes for a look-up.
extern "C" const char* __lsan_default_suppressions();  // NOLINT(bugprone-reserved-identifier): the sanitizer's name
extern "C" const char* __lsan_default_suppressions() { return "leak:libcares.so\n"; }  // NOLINT(bugprone-reserved-identifier)

namespace zt::identity::test {
namespace {

using namespace std::chrono_literals;
using zt::test::FakeIstiod;
using zt::test::MountedFile;
using zt::test::TempDir;
using zt::test::TestPki;
using Answer = FakeIstiod::CertificateAnswer;
using Request = FakeIstiod::CertificateCall;

constexpr auto kLimit = 30s;  // for what should come at once; the machine may be slow
const SpiffeId kWeb{"cluster.local", "shop", "web"};
const Answer kNever{{}, {}, true};

std::string golden(const std::string& file) {
  std::ifstream in(std::string(ZT_GOLDEN_DIR "/ca/") + file, std::ios::binary);
  REQUIRE(in);
  return {std::istreambuf_iterator<char>(in), {}};
}

struct Fixture {
  explicit Fixture(FakeIstiod::Options server = {}) : istiod(server) {
    options.endpoint.address = istiod.address();
    options.endpoint.roots = {Roots::Source::kInline, istiod.pki().root_pem()};
    options.endpoint.credentials.token = {Token::Source::kLiteral, "secret-token"};
    options.endpoint.credentials.with_token = {{"clusterid", "Kubernetes"}};
  }
  Result<CertificatePtr> fetch(const SpiffeId& id = kWeb) {
    if (!client) {
      auto made = IstiodCaClient::create(options);
      if (!made) return std::unexpected(made.error());
      client = std::move(*made);
    }
    auto promise = std::make_shared<std::promise<Result<CertificatePtr>>>();
    auto future = promise->get_future();
    client->fetch(id, [promise](Result<CertificatePtr> result) { promise->set_value(std::move(result)); });
    if (future.wait_for(kLimit) != std::future_status::ready) FAIL("the client does not answer");
    return future.get();
  }
  std::string error(const SpiffeId& id = kWeb) {
    const auto result = fetch(id);
    return result ? "(no error)" : result.error().text;
  }
  // Until it works, for what is repaired while the channel pauses.
  bool recovers() {
    for (const auto until = std::chrono::steady_clock::now() + kLimit; std::chrono::steady_clock::now() < until;)
      if (fetch()) return true;
    return false;
  }

  FakeIstiod istiod;
  IstiodCaOptions options;
  std::unique_ptr<IstiodCaClient> client;
};

bool has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("In shared mode we ask on behalf of the workload, with a fresh key each time, and get its certificate") {
  Fixture f;
  f.options.endpoint.headers = {{"x-extra", "value"}};
  f.options.ttl = 3600s;
  const auto first = f.fetch(), second = f.fetch();
  REQUIRE(first);
  REQUIRE(second);
  CHECK((*first)->identity() == kWeb);
  CHECK((*first)->intermediates().empty());
  REQUIRE((*first)->roots()->roots().size() == 1);
  CHECK(EVP_PKEY_eq((*first)->private_key(), (*second)->private_key()) != 1);

  const auto calls = f.istiod.certificate_calls();
  REQUIRE(calls.size() == 2);
  CHECK(calls[0].impersonated() == kWeb.to_string());
  CHECK(calls[0].request.metadata().fields_size() == 1);
  CHECK(calls[0].request.validity_duration() == 3600);
  CHECK(calls[0].headers.at("authorization") == "Bearer secret-token");
  CHECK(calls[0].headers.at("clusterid") == "Kubernetes");
  CHECK(calls[0].headers.at("x-extra") == "value");
  CHECK(f.client->stats().channels == 1);
  CHECK(f.client->stats().answers == 2);
  CHECK(f.client->stats().longest > 0ns);
}

TEST_CASE("The request is, but for the key, the one that the real ztunnel sends") {
  Fixture f;
  for (int n = 1; n <= 8; ++n) {
    istio::v1::auth::IstioCertificateRequest recorded;
    REQUIRE(recorded.ParseFromString(golden("real-ztunnel-request-0" + std::to_string(n) + ".binpb")));
    const std::string identity = recorded.metadata().fields().at("ImpersonatedIdentity").string_value();
    REQUIRE(f.fetch(*SpiffeId::parse(identity)));
    auto ours = f.istiod.certificate_calls().back().request;
    REQUIRE(ours.csr().starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"));

    const auto to_sign = [](const std::string& pem) {  // all but key and signature: subject and extensions
      const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
      const X509ReqPtr csr(PEM_read_bio_X509_REQ(bio.get(), nullptr, nullptr, nullptr));
      REQUIRE(csr);
      CHECK(X509_NAME_entry_count(X509_REQ_get_subject_name(csr.get())) == 0);
      CHECK(X509_REQ_get_signature_nid(csr.get()) == NID_ecdsa_with_SHA256);
      STACK_OF(X509_EXTENSION)* extensions = X509_REQ_get_extensions(csr.get());
      REQUIRE(sk_X509_EXTENSION_num(extensions) == 1);
      X509_EXTENSION* extension = sk_X509_EXTENSION_value(extensions, 0);
      CHECK(X509_EXTENSION_get_critical(extension) == 1);
      const ASN1_OCTET_STRING* value = X509_EXTENSION_get_data(extension);
      std::string bytes(reinterpret_cast<const char*>(ASN1_STRING_get0_data(value)),
                        static_cast<size_t>(ASN1_STRING_length(value)));
      sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
      return bytes;
    };
    CHECK(to_sign(ours.csr()) == to_sign(recorded.csr()));
    ours.clear_csr();
    recorded.clear_csr();
    CHECK(ours.SerializeAsString() == recorded.SerializeAsString());
  }
}

TEST_CASE("In dedicated mode nobody is impersonated, and the certificate is taken as it comes") {
  Fixture f;
  f.options.impersonate = false;
  const auto result = f.fetch();
  REQUIRE(result);
  CHECK((*result)->identity()->to_string() == f.istiod.own_identity);
  CHECK_FALSE(f.istiod.certificate_calls()[0].request.has_metadata());
}

TEST_CASE("The answers of the real istiod are understood up to the key, which is not ours") {
  Fixture f;
  f.istiod.answer_certificates([](const Request&) {
    Answer answer;
    answer.raw = golden("02-local-sa-2-response.binpb");
    return answer;
  });
  CHECK(has(f.error(), "does not belong to the key of the request"));
  CHECK(has(f.error({"cluster.local", "shop", "client"}), "is for spiffe://cluster.local/ns/shop/sa/web"));
}

TEST_CASE("A refusal says who refused, how and why") {
  Fixture f;
  SECTION("impersonation") {
    f.istiod.allow_identities({"spiffe://cluster.local/ns/shop/sa/client"});
    CHECK(f.error() ==
          "the CA " + f.istiod.address() + " answered UNAUTHENTICATED: request impersonation authentication failure");
    CHECK(f.fetch({"cluster.local", "shop", "client"}));
  }
  SECTION("a lifetime that istiod does not give") {
    f.options.ttl = std::chrono::hours(24000);
    CHECK(has(f.error(), "answered INVALID_ARGUMENT: CSR signing error"));
  }
  SECTION("an endless text is cut") {
    f.istiod.answer_certificates([](const Request&) { return Answer{{13, std::string(5000, 'x')}}; });
    CHECK(f.error().size() < 700);
  }
}

TEST_CASE("Whatever is wrong with an answer is an error that says so") {
  using Wrong = std::function<Answer(const FakeIstiod&, const Request&)>;
  const auto [what, wrong, why] = GENERATE(table<std::string, Wrong, std::string>({
      {"an empty chain", [](auto&, auto&) { return Answer{}; }, "the answer holds no certificates"},
      {"a leaf without roots",
       [](auto& ca, auto& call) {
         Answer answer = ca.sign(call);
         answer.chain.pop_back();
         return answer;
       },
       "the answer holds a leaf but no roots"},
      {"another identity",
       [](auto& ca, auto& call) {
         Answer answer = ca.sign(call);
         answer.chain[0] = ca.pki().sign(call.request.csr(), "spiffe://cluster.local/ns/shop/sa/other", 1h);
         return answer;
       },
       "is for spiffe://cluster.local/ns/shop/sa/other, expected spiffe://cluster.local/ns/shop/sa/web"},
      {"the same account in another trust domain",
       [](auto& ca, auto& call) {
         Answer answer = ca.sign(call);
         answer.chain[0] = ca.pki().sign(call.request.csr(), "spiffe://other.domain/ns/shop/sa/web", 1h);
         return answer;
       },
       "is for spiffe://other.domain/ns/shop/sa/web"},
      {"a leaf for another key",
       [](auto& ca, auto& call) {
         Answer answer = ca.sign(call);
         answer.chain[0] = ca.pki().sign(make_certificate_request(kWeb)->csr_pem, kWeb.to_string(), 1h);
         return answer;
       },
       "does not belong to the key of the request"},
      {"a leaf that is no PEM",
       [](auto& ca, auto& call) {
         Answer answer = ca.sign(call);
         answer.chain[0] = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
         return answer;
       },
       "element 0 (leaf)"},
      {"a damaged intermediate",
       [](auto& ca, auto& call) {
         Answer answer = ca.sign(call);
         answer.chain.insert(answer.chain.begin() + 1, "nonsense");
         return answer;
       },
       "element 1 (intermediate)"},
      {"roots that are none",
       [](auto& ca, auto& call) {
         Answer answer = ca.sign(call);
         answer.chain.back() = "nonsense";
         return answer;
       },
       ""},
      {"more elements than any chain has",
       [](auto& ca, auto& call) {
         Answer answer = ca.sign(call);
         answer.chain.insert(answer.chain.end(), 100, answer.chain.back());
         return answer;
       },
       "more than 32 elements"},
      {"bytes that are no message",
       [](auto&, auto&) {
         Answer answer;
         answer.raw = "\xff\xff\xff";
         return answer;
       },
       "cannot be decoded"},
      {"more bytes than any chain has",
       [](auto&, auto&) {
         Answer answer;
         answer.raw = std::string(kMaxCaAnswerBytes + 1, '\n');
         return answer;
       },
       "RESOURCE_EXHAUSTED"},
  }));
  INFO(what);
  Fixture f;
  f.istiod.answer_certificates([&](const Request& call) { return wrong(f.istiod, call); });
  const auto result = f.fetch();
  REQUIRE_FALSE(result);
  INFO(result.error().text);
  CHECK(result.error().reason == Reason::kIdentityUnavailable);
  CHECK(has(result.error().text, why));

  f.istiod.answer_certificates(nullptr);
  CHECK(f.fetch());  // and the next one is good
  CHECK(f.client->stats().failures == 1);
}

TEST_CASE("A call that the CA does not answer ends at its limit") {
  Fixture f;
  f.options.call_limit = 300ms;
  REQUIRE(f.recovers());
  f.istiod.answer_certificates([](const Request&) { return kNever; });
  const auto result = f.fetch();
  REQUIRE_FALSE(result);
  CHECK(result.error().reason == Reason::kIdentityTimeout);
  CHECK(has(result.error().text, "did not answer within 300 ms"));
  CHECK(f.client->stats().timeouts == 1);
}

TEST_CASE("The token is read for each call") {
  Fixture f;
  MountedFile token("istio-token", "expired");
  f.options.endpoint.credentials.token = {Token::Source::kFile, token.path()};
  f.istiod.require_token("renewed");
  CHECK(has(f.error(), "UNAUTHENTICATED: authentication failure"));
  token.publish("");
  CHECK(f.error() == "the token file " + token.path() + " is empty");
  token.publish("two\nlines");
  CHECK(f.error() == "the token file " + token.path() + " holds characters that no token has");
  token.publish("renewed\n");
  CHECK(f.fetch());
  CHECK(f.client->stats().channels == 1);
}

TEST_CASE("A missing token file is an error that names it") {
  Fixture f;
  f.options.endpoint.credentials.token = {Token::Source::kFile, "/no/such/token"};
  CHECK(f.error() == "cannot read the token file /no/such/token: No such file or directory");
}

TEST_CASE("A CA whose server certificate does not lead to our roots is not asked, until the root file is right") {
  const TestPki ours("ours");
  Fixture f;
  MountedFile roots("root-cert.pem", ours.root_pem());
  f.options.endpoint.roots = {Roots::Source::kFile, roots.path()};
  CHECK(has(f.error(), "UNAVAILABLE"));
  CHECK(f.istiod.certificate_calls().empty());
  roots.publish(f.istiod.pki().root_pem());
  CHECK(f.fetch());  // a new channel, at once
  CHECK(f.client->stats().channels == 2);
}

TEST_CASE(
    "Roots that change are used from the next call on, roots that cannot be read leave the connection in "
    "place") {
  Fixture f;
  MountedFile roots("root-cert.pem", f.istiod.pki().root_pem());
  f.options.endpoint.roots = {Roots::Source::kFile, roots.path()};
  REQUIRE(f.fetch());
  roots.publish("half a fi");
  CHECK(f.fetch());
  CHECK(f.client->stats().channels == 1);
  roots.publish(f.istiod.pki().root_pem() + TestPki("next").root_pem());
  CHECK(f.fetch());
  CHECK(f.client->stats().channels == 2);
  roots.publish(TestPki("stranger").root_pem());
  CHECK(has(f.error(), "UNAVAILABLE"));
}

TEST_CASE("Roots that are not there at the start are an error, and are used once they are") {
  Fixture f;
  TempDir dir;
  f.options.endpoint.roots = {Roots::Source::kFile, dir.file("root.pem")};
  CHECK(has(f.error(), "cannot read the root file"));
  dir.write("root.pem", "no certificate");
  CHECK(f.error() == "the root file " + dir.file("root.pem") + " holds no certificate that can be read");
  dir.write("root.pem", f.istiod.pki().root_pem());
  CHECK(f.fetch());
}

TEST_CASE("A server with another name is refused, unless it is the alternative one") {
  FakeIstiod::Options server;
  server.server_names = {"istiod.istio-system.svc"};
  Fixture f(server);
  SECTION("refused") {
    const std::string why = f.error();
    INFO(why);
    CHECK(has(why, "UNAVAILABLE"));
    CHECK(f.istiod.certificate_calls().empty());
  }
  SECTION("alternative") {
    f.options.endpoint.alt_hostname = "istiod.istio-system.svc";
    CHECK(f.fetch());
  }
}

TEST_CASE("A CA that is down at the start, or goes down, is used as soon as it is back") {
  Fixture f;
  f.istiod.stop();
  CHECK(has(f.error(), "UNAVAILABLE"));
  f.istiod.start();
  CHECK(f.recovers());
  f.istiod.stop();
  CHECK(has(f.error(), "answered"));
  f.istiod.start();
  CHECK(f.recovers());
  CHECK(f.client->stats().channels == 1);
}

TEST_CASE("A CA that was not reached by its name is looked up anew for the next call") {
  Fixture f;
  auto& address = f.options.endpoint.address;
  address.replace(address.find("127.0.0.1"), 9, "localhost");
  f.options.endpoint.alt_hostname = "127.0.0.1";
  REQUIRE(f.fetch());
  f.istiod.stop();
  CHECK(has(f.error(), "answered"));
  f.istiod.start();
  CHECK(f.recovers());
  const IstiodCaStats stats = f.client->stats();
  CHECK(stats.channels >= 2);
  CHECK(stats.channels <= 1 + stats.failures);
}

TEST_CASE("Many calls at once are all answered") {
  Fixture f;
  REQUIRE(f.fetch());
  std::atomic<int> good{0}, bad{0};
  for (int i = 0; i < 64; ++i)
    f.client->fetch({"cluster.local", "shop", "sa" + std::to_string(i)}, [&, i](Result<CertificatePtr> result) {
      const bool ok = result && (*result)->identity()->service_account == "sa" + std::to_string(i);
      ++(ok ? good : bad);
    });
  for (const auto until = std::chrono::steady_clock::now() + kLimit; good + bad < 64 && std::chrono::steady_clock::now() < until;)
    std::this_thread::yield();
  CHECK(good == 64);
}

TEST_CASE("The destructor answers what is outstanding, and nothing after it") {
  Fixture f;
  REQUIRE(f.fetch());
  f.istiod.answer_certificates([](const Request&) { return kNever; });
  std::atomic<int> errors{0};
  for (int i = 0; i < 20; ++i) f.client->fetch(kWeb, [&](const Result<CertificatePtr>& result) { errors += result ? 100 : 1; });
  f.client.reset();
  CHECK(errors == 20);
}

TEST_CASE("More calls than anybody needs are refused") {
  Fixture f;
  REQUIRE(f.fetch());
  while (f.client->stats().outstanding > 0) std::this_thread::yield();  // it counts until its `done` has returned
  f.istiod.answer_certificates([](const Request&) { return kNever; });
  std::atomic<int> refused{0}, others{0};
  for (size_t i = 0; i < kMaxCaCalls + 5; ++i)
    f.client->fetch(kWeb, [&](const Result<CertificatePtr>& result) {
      ++(!result && result.error().text == "too many requests to the CA are waiting" ? refused : others);
    });
  CHECK(refused == 5);
  f.client.reset();
  CHECK(others == kMaxCaCalls);
}

TEST_CASE("What cannot be right is refused when the client is made") {
  IstiodCaOptions options;
  options.endpoint.address = "istiod:15012";
  CHECK(IstiodCaClient::create(options).error().text == "istiod:15012 is not https://host:port");
  options.endpoint.address = "https://istiod:15012";
  options.ttl = -1s;
  CHECK(IstiodCaClient::create(options).error().text == "the lifetime of certificates must not be negative");
}

}  // namespace zt::identity::test
