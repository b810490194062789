// Key exchange groups: what is offered, what is taken, and what a policy leaves of both. Every test runs with
// either kind of OpenSSL: since 3.5 there is the hybrid X25519MLKEM768, before that it must not be pretended.
#include <openssl/ssl.h>

#include <catch2/catch.hpp>
#include <map>

#include "hbone/tls/handshake.h"
#include "mesh/reason.h"
#include "tests/hbone/tls/tls_pki.h"
#include "tests/hbone/tls/tls_test_support.h"

namespace zt::hbone {
namespace {

using namespace testing;
using Status = TlsHandshake::Status;

const std::string kHybridName = "X25519MLKEM768";

// Not what our code has found out, but what the version says.
bool hybrid_is_there() { return OPENSSL_version_major() * 100 + OPENSSL_version_minor() >= 305; }

// Plain OpenSSL with the client's certificate and these groups; null = its own default.
SslCtxPtr openssl_client(const char* groups) {
  SslCtxPtr ctx(SSL_CTX_new(TLS_client_method()));
  REQUIRE(SSL_CTX_use_certificate(ctx.get(), mesh().cart.x509.get()) == 1);
  REQUIRE(SSL_CTX_use_PrivateKey(ctx.get(), mesh().cart.key.get()) == 1);
  if (groups != nullptr) REQUIRE(SSL_CTX_set1_groups_list(ctx.get(), groups) == 1);
  return ctx;
}

std::string group_of(HandshakePair& pair) {
  REQUIRE(pair.done());
  auto client = pair.client.take(), server = pair.server.take();
  REQUIRE(client);
  REQUIRE(server);
  CHECK(client->group == server->group);
  return client->group;
}

// The parts of a ClientHello (RFC 8446 §4.1.2), in one record.
struct Hello {
  std::string suites;
  std::map<unsigned, std::string> extensions;  // number to content, in hex
};
Hello parse_hello(std::span<const uint8_t> record) {
  Hello hello;
  size_t at = 5 + 4 + 2 + 32;  // record, message, version, random
  const auto take = [&](size_t count) {
    REQUIRE(at + count <= record.size());
    const auto piece = record.subspan(at, count);
    at += count;
    return piece;
  };
  const auto number = [&](size_t bytes) {
    size_t value = 0;
    for (const uint8_t byte : take(bytes)) value = value << 8 | byte;
    return value;
  };
  take(number(1));  // session id
  hello.suites = hex(take(number(2)));
  take(number(1));  // compression
  number(2);
  while (at < record.size()) {
    const auto type = static_cast<unsigned>(number(2));
    hello.extensions[type] = hex(take(number(2)));
  }
  return hello;
}

TEST_CASE("our ClientHello offers what the contract says and nothing else") {
  struct Row {
    const char* name;
    TlsOptions options;
    std::string suites, groups;
    const char* key_share;  // length of the list, group, length: one share
    size_t most_bytes;
  };
  const std::string with_hybrid = hybrid_is_there() ? "001d0017001811ec" : "001d00170018";
  std::vector<Row> rows = {{"default", {}, "13021301", with_hybrid, "0024001d0020", 300},
                           {"AES-128 first", {.prefer_aes128 = true}, "13011302", with_hybrid, "0024001d0020", 300},
                           {"FIPS", {.fips = true}, "13021301", "00170018", "004500170041", 300}};
  if (hybrid_is_there()) rows.push_back({"post-quantum only", {.pqc_only = true}, "13021301", "11ec", "04c411ec04c0", 1460});
  for (const Row& row : rows) {
    INFO(row.name);
    auto client = TlsHandshake::make_client(mesh().client(row.options), {id_of("web")});
    REQUIRE(client);
    size_t consumed = 0;
    REQUIRE(client->advance({}, consumed) == Status::kWantsInput);
    CHECK(client->output().size() <= row.most_bytes);
    const Hello hello = parse_hello(client->output());
    // OpenSSL 3.0 adds the renegotiation signal.
    CHECK((hello.suites == row.suites || hello.suites == row.suites + "00ff"));
    CHECK(hello.extensions.at(10) == hex(Bytes{0, static_cast<uint8_t>(row.groups.size() / 2)}) + row.groups);
    CHECK(hello.extensions.at(16) == "0003026832");  // ALPN: h2
    CHECK(hello.extensions.at(43) == "020304");      // TLS 1.3
    CHECK_FALSE(hello.extensions.contains(0));       // no server name
    CHECK_FALSE(hello.extensions.contains(41));      // no session to resume
    CHECK_FALSE(hello.extensions.contains(42));      // no early data
    CHECK(hello.extensions.at(51).starts_with(row.key_share));
  }
}

TEST_CASE("post-quantum only agrees on X25519MLKEM768 with whoever can, or is refused at the start") {
  const TlsOptions only{.pqc_only = true};
  X509* const roots[] = {mesh().root.x509.get()};
  const TlsCredentials credentials{
      .leaf = mesh().web.x509.get(), .intermediates = {}, .key = mesh().web.key.get(), .roots = roots};
  CHECK(have_x25519_mlkem768() == hybrid_is_there());
  CHECK(check_tls_options(only).has_value() == hybrid_is_there());
  for (const TlsRole role : {TlsRole::kClient, TlsRole::kServer}) {
    const auto made = TlsContext::make(role, credentials, only);
    CHECK(made.has_value() == hybrid_is_there());
    if (made) continue;
    CHECK(made.error().reason == Reason::kInvalidInput);
    CHECK_THAT(made.error().text, Catch::Contains("needs OpenSSL 3.5 or later") && Catch::Contains(kHybridName));
  }
  if (!hybrid_is_there()) return;

  // A client that offers the hybrid last and no share of it is asked to try again.
  for (const size_t piece : {SIZE_MAX, size_t{1}, size_t{7}, size_t{1200}}) {
    INFO("pieces of " << piece);
    struct Row {
      const char* name;
      TlsOptions client, server;
    };
    for (const Row& row : {Row{"both", only, only}, Row{"the client", only, {}}, Row{"the server", {}, only}}) {
      INFO(row.name);
      HandshakePair pair = make_pair(mesh().client(row.client), mesh().server(row.server), {id_of("web")});
      pair.run(piece);
      CHECK(group_of(pair) == kHybridName);
    }
  }
}

TEST_CASE("post-quantum only refuses a peer without X25519MLKEM768, in either role") {
  const TlsOptions only{.pqc_only = true};
  if (!hybrid_is_there()) {
    CHECK_FALSE(check_tls_options(only));
    return;
  }
  auto server = TlsHandshake::make_server(mesh().server(only));
  REQUIRE(server);
  const SslCtxPtr classical_client = openssl_client("X25519:P-256:P-384");
  OpensslEnd client(classical_client.get(), false);
  client.talk_to(*server);
  CHECK(client.server_status == Status::kFailed);
  CHECK_THAT(server->error().text, Catch::Contains("no key exchange group that we use"));
  CHECK_THAT(client.error, Catch::Contains("handshake failure"));

  auto ours = TlsHandshake::make_client(mesh().client(only), {id_of("web")});
  REQUIRE(ours);
  const SslCtxPtr classical_server(SSL_CTX_new(TLS_server_method()));
  SSL_CTX_use_certificate(classical_server.get(), mesh().web.x509.get());
  SSL_CTX_use_PrivateKey(classical_server.get(), mesh().web.key.get());
  SSL_CTX_set1_groups_list(classical_server.get(), "X25519:P-256:P-384");
  OpensslEnd peer(classical_server.get(), true);
  peer.talk_to(*ours);
  CHECK(peer.server_status == Status::kFailed);
  CHECK_THAT(ours->error().text, Catch::Contains("peer sent alert handshake_failure (40)"));
}

TEST_CASE("without a policy the hybrid is taken from a client that wants it, and not asked for") {
  for (const bool prefer_aes128 : {false, true}) {  // then the server's own order decides
    INFO("a server that prefers AES-128: " << prefer_aes128);
    const auto context = mesh().server({.prefer_aes128 = prefer_aes128});
    HandshakePair pair = make_pair(mesh().client(), context, {id_of("web")});
    pair.run();
    CHECK_THAT(group_of(pair), Catch::Equals("x25519", Catch::CaseSensitive::No));

    // OpenSSL's own default since 3.5: shares of both, the hybrid first.
    auto server = TlsHandshake::make_server(context);
    REQUIRE(server);
    const SslCtxPtr modern = openssl_client(nullptr);
    OpensslEnd client(modern.get(), false);
    client.talk_to(*server);
    REQUIRE(client.server_status == Status::kDone);
    CHECK_THAT(server->take()->group, Catch::Equals(hybrid_is_there() ? kHybridName : "x25519", Catch::CaseSensitive::No));
  }
}

TEST_CASE("a ClientHello that is spread over many records and comes byte by byte is understood") {
  auto server = TlsHandshake::make_server(mesh().server());
  REQUIRE(server);
  const SslCtxPtr ctx = openssl_client(nullptr);
  REQUIRE(SSL_CTX_set_max_send_fragment(ctx.get(), 512) == 1);
  std::string protocols;  // some 2 KB, whatever the groups add
  for (int i = 0; i < 100; ++i) protocols.append("\x14").append(20, static_cast<char>('A' + i % 26));
  protocols.append("\x02h2");
  REQUIRE(SSL_CTX_set_alpn_protos(ctx.get(), reinterpret_cast<const unsigned char*>(protocols.data()),
                                  static_cast<unsigned>(protocols.size())) == 0);
  OpensslEnd client(ctx.get(), false);
  SSL_do_handshake(client.ssl.get());
  Bytes hello(BIO_ctrl_pending(SSL_get_wbio(client.ssl.get())));
  REQUIRE(hello.size() > 2000);
  BIO_read(SSL_get_wbio(client.ssl.get()), hello.data(), static_cast<int>(hello.size()));
  size_t records = 0;
  for (size_t at = 0; at + 5 <= hello.size(); at += 5u + (hello[at + 3] << 8 | hello[at + 4])) ++records;
  CHECK(records >= 4);
  for (size_t at = 0; at < hello.size(); ++at) {
    CHECK(server->output().empty());
    size_t consumed = 0;
    REQUIRE(server->advance(std::span(hello).subspan(at, 1), consumed) == Status::kWantsInput);
    REQUIRE(consumed == 1);
  }
  REQUIRE_FALSE(server->output().empty());
  const auto flight = server->output();
  BIO_write(SSL_get_rbio(client.ssl.get()), flight.data(), static_cast<int>(flight.size()));
  server->consume_output(flight.size());
  client.talk_to(*server);
  CHECK(client.server_status == Status::kDone);
}

TEST_CASE("FIPS leaves the NIST curves, and a client of X25519 only is refused") {
  HandshakePair pair = make_pair(mesh().client({.fips = true}), mesh().server({.fips = true}), {id_of("web")});
  pair.run();
  CHECK(group_of(pair) == "secp256r1");

  auto server = TlsHandshake::make_server(mesh().server({.fips = true}));
  REQUIRE(server);
  const SslCtxPtr ctx = openssl_client("X25519");
  OpensslEnd client(ctx.get(), false);
  client.talk_to(*server);
  CHECK(client.server_status == Status::kFailed);
  CHECK_THAT(server->error().text, Catch::Contains("no key exchange group that we use"));
}

TEST_CASE("a client whose first group we do not have is asked to try again (HelloRetryRequest)") {
  auto server = TlsHandshake::make_server(mesh().server());
  REQUIRE(server);
  const SslCtxPtr ctx = openssl_client("P-521:P-384");
  OpensslEnd client(ctx.get(), false);
  client.talk_to(*server);
  REQUIRE(client.server_status == Status::kDone);
  CHECK(server->take()->group == "secp384r1");
}

}  // namespace
}  // namespace zt::hbone
