#include "hbone/tls/handshake.h"

#include <openssl/ssl.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <random>

#include "mesh/reason.h"
#include "tests/hbone/tls/tls_pki.h"
#include "tests/hbone/tls/tls_test_support.h"

namespace zt::hbone {
namespace {

using namespace testing;
using Status = TlsHandshake::Status;

// Sends `text` through one direction of two established ends.
std::string send(TlsEstablished& from, TlsEstablished& to, const std::string& text) {
  Bytes record(text.size() + kRecordOverhead);
  std::ranges::copy(text, record.begin() + kRecordHeader);
  REQUIRE(from.sealer.seal_in_place(record.data(), text.size(), ContentType::kApplicationData));
  const auto opened = to.opener.open(record);
  REQUIRE(opened);
  REQUIRE(opened->kind == OpenedRecord::Kind::kData);
  return {opened->data.begin(), opened->data.end()};
}

TEST_CASE("a handshake leaves two record layers that understand each other, and who the peer is") {
  struct Row {
    const char* name;
    bool client_prefers_128, server_prefers_128;
    CipherSuite suite;
  };
  const Row rows[] = {{"AES-256 by default", false, false, CipherSuite::kAes256GcmSha384},
                      {"the client's order decides", true, false, CipherSuite::kAes128GcmSha256},
                      {"unless the server prefers AES-128", false, true, CipherSuite::kAes128GcmSha256},
                      {"both prefer AES-128", true, true, CipherSuite::kAes128GcmSha256}};
  for (const Row& row : rows) {
    for (const size_t piece : {SIZE_MAX, size_t{1}, size_t{7}, size_t{100}}) {
      INFO(row.name << ", pieces of " << piece);
      HandshakePair pair = make_pair(mesh().client({.prefer_aes128 = row.client_prefers_128}),
                                     mesh().server({.prefer_aes128 = row.server_prefers_128}), {id_of("web")});
      pair.run(piece);
      REQUIRE(pair.done());
      auto client = pair.client.take(), server = pair.server.take();
      REQUIRE(client);
      REQUIRE(server);
      CHECK(client->suite == row.suite);
      CHECK(server->suite == row.suite);
      CHECK_THAT(client->group, Catch::Equals("x25519", Catch::CaseSensitive::No));
      CHECK(server->group == client->group);
      CHECK(client->peer == id_of("web"));
      CHECK(server->peer == id_of("cart"));
      CHECK(client->peer_chain == nullptr);
      CHECK(send(*client, *server, "hello") == "hello");
      CHECK(send(*server, *client, "well met") == "well met");
      CHECK(pair.to_client.empty());  // no tickets
      CHECK_FALSE(pair.client.take());
    }
  }
}

TEST_CASE("records that come with the last flight are left to the caller") {
  HandshakePair pair = make_pair(mesh().client(), mesh().server(), {id_of("web")});
  HandshakePair::step(pair.client, pair.client_status, pair.to_client, pair.to_server, SIZE_MAX);
  HandshakePair::step(pair.server, pair.server_status, pair.to_server, pair.to_client, SIZE_MAX);
  HandshakePair::step(pair.client, pair.client_status, pair.to_client, pair.to_server, SIZE_MAX);
  REQUIRE(pair.client_status == Status::kDone);
  auto client = pair.client.take();
  REQUIRE(client);
  const std::string text = "early bird";
  Bytes record(text.size() + kRecordOverhead);
  std::ranges::copy(text, record.begin() + kRecordHeader);
  REQUIRE(client->sealer.seal_in_place(record.data(), text.size(), ContentType::kApplicationData));
  const size_t flight = pair.to_server.size();
  pair.to_server.insert(pair.to_server.end(), record.begin(), record.end());
  size_t consumed = 0;
  REQUIRE(pair.server.advance(pair.to_server, consumed) == Status::kDone);
  CHECK(consumed == flight);
  auto server = pair.server.take();
  REQUIRE(server);
  const auto opened = server->opener.open(std::span(pair.to_server).subspan(consumed));
  REQUIRE(opened);
  CHECK(std::string(opened->data.begin(), opened->data.end()) == text);
}

// ---- refusals ----

// The error of the end that refuses, and the alert as the other end reports it.
struct Refusal {
  const char* name;
  std::shared_ptr<const TlsContext> client, server;
  bool by_client;
  const char* text;
  const char* alert;  // what the other end says; a client that is done sees it in its record layer
};

std::string refused_end_says(HandshakePair& pair, bool by_client) {
  if (by_client) {
    CHECK(pair.client_status == Status::kFailed);
    CHECK(pair.server_status == Status::kFailed);
    return pair.server.error().text;
  }
  CHECK(pair.server_status == Status::kFailed);
  if (pair.client_status == Status::kFailed) return pair.client.error().text;
  REQUIRE(pair.client_status == Status::kDone);
  auto client = pair.client.take();
  REQUIRE(client);
  const auto opened = client->opener.open(pair.to_client);
  REQUIRE_FALSE(opened);
  return opened.error().text;
}

Certificate leaf_with(const Certificate& issuer, CertificateSpec spec, const SpiffeId& id) {
  if (spec.uris.empty()) spec.uris = {id.to_string()};
  return make_certificate(spec, &issuer);
}

TEST_CASE("a peer whose certificate will not do is refused, and both ends can say why") {
  const Certificate &root = mesh().root, stranger = make_root("stranger");
  const auto client_of = [&](const Certificate& leaf) { return make_context(TlsRole::kClient, leaf, root); };
  const auto server_of = [&](const Certificate& leaf) { return make_context(TlsRole::kServer, leaf, root); };
  const SpiffeId web = id_of("web"), cart = id_of("cart");
  const Certificate stolen = make_leaf(stranger, cart), stolen_web = make_leaf(stranger, web);
  const std::vector<Refusal> rows = {
      {"server of another root", mesh().client(), server_of(stolen_web), true,
       "peer's certificate is not valid: unable to get local issuer certificate", "peer sent alert unknown_ca (48)"},
      {"client of another root", client_of(stolen), mesh().server(), false, "unable to get local issuer certificate",
       "peer sent alert unknown_ca (48)"},
      {"expired server", mesh().client(), server_of(leaf_with(root, {.not_before = -7200, .not_after = -60}, web)), true,
       "certificate has expired", "peer sent alert certificate_expired (45)"},
      {"expired client", client_of(leaf_with(root, {.not_before = -7200, .not_after = -60}, cart)), mesh().server(), false,
       "certificate has expired: spiffe://cluster.local/ns/shop/sa/cart, valid from 20",
       "peer sent alert certificate_expired (45)"},
      {"server that is not valid yet", mesh().client(), server_of(leaf_with(root, {.not_before = 600}, web)), true,
       "certificate is not yet valid: spiffe://cluster.local/ns/shop/sa/web, valid from 20",
       "peer sent alert bad_certificate (42)"},
      {"server without server authentication", mesh().client(), server_of(leaf_with(root, {.usage = "clientAuth"}, web)), true,
       "peer's certificate is not valid: unsuitable certificate purpose", "unsupported_certificate (43)"},
      {"client without client authentication", client_of(leaf_with(root, {.usage = "serverAuth"}, cart)), mesh().server(), false,
       "unsuitable certificate purpose", "unsupported_certificate (43)"},
      {"server of another account", mesh().client(), server_of(make_leaf(root, id_of("evil"))), true,
       "peer did not present the expected SAN ([spiffe://cluster.local/ns/shop/sa/web]), got "
       "[spiffe://cluster.local/ns/shop/sa/evil]",
       "peer sent alert bad_certificate (42)"},
      {"server with a DNS name only", mesh().client(),
       server_of(make_certificate({.name = "web", .extra_san = "DNS:web.shop"}, &root)), true, "got []", "bad_certificate (42)"},
      {"server whose common name is the identity", mesh().client(),
       server_of(make_certificate({.name = "spiffe://cluster.local/ns/shop/sa/web"}, &root)), true, "got []", "bad_certificate"},
      {"server whose name has a part too many", mesh().client(),
       server_of(leaf_with(root, {.uris = {"spiffe://cluster.local/ns/shop/sa/web/x"}}, web)), true, "got []", "bad_certificate"},
      {"client of another trust domain", client_of(make_leaf(root, id_of("cart", "elsewhere"))), mesh().server(), false,
       "peer did not present the expected trustdomain (cluster.local), got "
       "[spiffe://elsewhere/ns/shop/sa/cart]",
       "peer sent alert bad_certificate (42)"},
      {"client without a SPIFFE name", client_of(make_certificate({.name = "cart"}, &root)), mesh().server(), false,
       "expected trustdomain (cluster.local), got []", "bad_certificate (42)"},
  };
  for (const Refusal& row : rows) {
    INFO(row.name);
    HandshakePair pair = make_pair(row.client, row.server, {web});
    pair.run();
    const TlsHandshake& refusing = row.by_client ? pair.client : pair.server;
    CHECK_THAT(refusing.error().text, Catch::Contains(row.text));
    CHECK(refusing.error().reason == Reason::kTlsFailed);
    CHECK_THAT(refused_end_says(pair, row.by_client), Catch::Contains(row.alert));
    CHECK_FALSE((row.by_client ? pair.client : pair.server).take());
    size_t consumed = 0;
    CHECK((row.by_client ? pair.client : pair.server).advance(Bytes(10), consumed) == Status::kFailed);
  }
}

TEST_CASE("a client that expects nobody trusts nobody") {
  HandshakePair pair = make_pair(mesh().client(), mesh().server(), {});
  pair.run();
  CHECK(pair.client_status == Status::kFailed);
  CHECK_THAT(pair.client.error().text, Catch::Contains("expected SAN ([]), got [spiffe://cluster.local/ns/shop/sa/web]"));
}

TEST_CASE("a certificate without extended key usage serves for both") {
  const Certificate &root = mesh().root, cart = leaf_with(root, {.usage = ""}, id_of("cart")),
                    web = leaf_with(root, {.usage = ""}, id_of("web"));
  HandshakePair pair =
      make_pair(make_context(TlsRole::kClient, cart, root), make_context(TlsRole::kServer, web, root), {id_of("web")});
  pair.run();
  CHECK(pair.done());
}

TEST_CASE("a peer with several SPIFFE names is known by the one it was admitted for") {
  const Certificate& root = mesh().root;
  const SpiffeId web = id_of("web"), cart = id_of("cart");
  const auto with_stranger_first = [&](const SpiffeId& id) {
    return make_certificate({.uris = {id_of("admin", "elsewhere").to_string(), id.to_string()}}, &root);
  };
  HandshakePair pair = make_pair(make_context(TlsRole::kClient, with_stranger_first(cart), root),
                                 make_context(TlsRole::kServer, make_leaf(root, web), root), {web});
  pair.run();
  REQUIRE(pair.done());
  auto server = pair.server.take();
  REQUIRE(server);
  CHECK(server->peer == cart);

  auto ambiguous = make_certificate({.uris = {cart.to_string(), id_of("admin").to_string()}}, &root);
  HandshakePair refused = make_pair(make_context(TlsRole::kClient, ambiguous, root), mesh().server(), {web});
  refused.run();
  CHECK_FALSE(refused.done());
  CHECK_THAT(refused.server.error().text, Catch::Contains("several identities of trustdomain cluster.local"));
}

TEST_CASE("a server without a SPIFFE name takes clients of any trust domain, and their first SPIFFE name counts") {
  const Certificate& root = mesh().root;
  const Certificate legacy = make_certificate({.name = "legacy", .uris = {id_of("web").to_string()}}, &root);
  const Certificate nameless = make_certificate({.name = "nameless"}, &root);
  const Certificate several = leaf_with(root,
                                        {.uris = {"https://example.org/", "spiffe://x/ns/a", id_of("first", "td1").to_string(),
                                                  id_of("second", "td2").to_string()}},
                                        id_of("x"));
  struct Row {
    const Certificate& client;
    std::optional<SpiffeId> identity;
  };
  for (const Row& row : {Row{several, id_of("first", "td1")}, Row{nameless, std::nullopt}}) {
    // Its server context is nameless; the client is shown a name by another context's rule, so let it expect
    // none of ours.
    auto server = TlsHandshake::make_server(make_context(TlsRole::kServer, nameless, root));
    REQUIRE(server);
    // A client that does not care about names: plain OpenSSL.
    const SslCtxPtr ctx(SSL_CTX_new(TLS_client_method()));
    SSL_CTX_use_certificate(ctx.get(), row.client.x509.get());
    SSL_CTX_use_PrivateKey(ctx.get(), row.client.key.get());
    OpensslEnd client(ctx.get(), false);
    client.talk_to(*server);
    REQUIRE(client.server_status == Status::kDone);
    auto established = server->take();
    REQUIRE(established);
    CHECK(established->peer == row.identity);
  }
}

TEST_CASE(
    "clients without certificate, with other protocols or with old versions are refused as the peer does "
    "it") {
  struct Row {
    const char* name;
    bool certificate;
    const char* alpn;  // wire form; null = none
    int max_version;
    const char* suites;
    const char* error;  // null = accepted
    const char* client_error;
  };
  const Row rows[] = {
      {"all is well", true, "\x02h2", 0, nullptr, nullptr, nullptr},
      {"h2 among others", true, "\x08http/1.1\x02h2", 0, nullptr, nullptr, nullptr},
      {"no ALPN", true, nullptr, 0, nullptr, nullptr, nullptr},
      {"http/1.1 only", true, "\x08http/1.1", 0, nullptr, "peer offers other protocols (ALPN) than h2",
       "no application protocol"},
      {"a name that begins with h2", true, "\x03h2c", 0, nullptr, "peer offers other protocols (ALPN) than h2",
       "no application protocol"},
      {"no certificate", false, "\x02h2", 0, nullptr, "peer sent no certificate", nullptr},
      {"TLS 1.2 only", true, "\x02h2", TLS1_2_VERSION, nullptr, "peer does not speak TLS 1.3", "protocol version"},
      {"ChaCha20 only", true, "\x02h2", 0, "TLS_CHACHA20_POLY1305_SHA256", "peer offers neither TLS_AES_256_GCM_SHA384",
       "handshake failure"},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    auto server = TlsHandshake::make_server(mesh().server());
    REQUIRE(server);
    const SslCtxPtr ctx(SSL_CTX_new(TLS_client_method()));
    if (row.certificate) {
      SSL_CTX_use_certificate(ctx.get(), mesh().cart.x509.get());
      SSL_CTX_use_PrivateKey(ctx.get(), mesh().cart.key.get());
    }
    if (row.max_version != 0) SSL_CTX_set_max_proto_version(ctx.get(), row.max_version);
    if (row.suites != nullptr) SSL_CTX_set_ciphersuites(ctx.get(), row.suites);
    if (row.alpn != nullptr)
      SSL_CTX_set_alpn_protos(ctx.get(), reinterpret_cast<const unsigned char*>(row.alpn),
                              static_cast<unsigned>(strlen(row.alpn)));
    OpensslEnd client(ctx.get(), false);
    client.talk_to(*server);
    if (row.error == nullptr) {
      CHECK(client.server_status == Status::kDone);
    } else {
      CHECK(client.server_status == Status::kFailed);
      CHECK_THAT(server->error().text, Catch::Contains(row.error));
      if (row.client_error != nullptr) CHECK_THAT(client.error, Catch::Contains(row.client_error));
    }
  }
}

TEST_CASE("chains: intermediates are sent, roots are not, and an intermediate may itself be trusted") {
  const Certificate& root = mesh().root;
  const Certificate middle = make_certificate({.name = "middle", .authority = true}, &root);
  const Certificate inner = make_certificate({.name = "inner", .authority = true}, &middle);
  const Certificate web = make_leaf(inner, id_of("web"));
  struct Row {
    const char* name;
    std::vector<X509*> sent;
    const Certificate& trusted;  // by the client
    bool good;
    size_t chain;
  };
  const Row rows[] = {
      {"the whole way", {inner.x509.get(), middle.x509.get()}, root, true, 4},
      {"the wrong order", {middle.x509.get(), inner.x509.get()}, root, true, 4},
      {"the root too, which stays at home", {inner.x509.get(), middle.x509.get(), root.x509.get()}, root, true, 4},
      {"one missing", {inner.x509.get()}, root, false, 0},
      {"an intermediate as anchor", {inner.x509.get()}, middle, true, 3},
      {"nothing but the leaf", {}, inner, true, 2},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    HandshakePair pair = make_pair(make_context(TlsRole::kClient, mesh().cart, row.trusted, {.keep_peer_chain = true}),
                                   make_context(TlsRole::kServer, web, root, {}, row.sent), {id_of("web")});
    pair.run();
    CHECK(pair.done() == row.good);
    if (!row.good) continue;
    auto client = pair.client.take();
    REQUIRE(client);
    REQUIRE(client->peer_chain != nullptr);
    REQUIRE(client->peer_chain->size() == row.chain);
    CHECK(X509_cmp(client->peer_chain->front().get(), web.x509.get()) == 0);
    CHECK(X509_cmp(client->peer_chain->back().get(), row.trusted.x509.get()) == 0);
  }
}

TEST_CASE("on the wire are the leaf and its intermediates, never the root") {
  const Certificate& root = mesh().root;
  const Certificate middle = make_certificate({.name = "middle", .authority = true}, &root);
  const Certificate deep = make_leaf(middle, id_of("web"));
  struct Row {
    const char* name;
    const Certificate& leaf;
    std::vector<X509*> given;
    int sent;
  };
  const Row rows[] = {
      {"an intermediate and the root are given", deep, {middle.x509.get(), root.x509.get()}, 2},
      {"the root alone is given", mesh().web, {root.x509.get()}, 1},
      {"nothing is given, and the root is only trusted", mesh().web, {}, 1},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    auto server = TlsHandshake::make_server(make_context(TlsRole::kServer, row.leaf, root, {}, row.given));
    REQUIRE(server);
    const SslCtxPtr ctx(SSL_CTX_new(TLS_client_method()));
    OpensslEnd client(ctx.get(), false);
    client.talk_to(*server);
    CHECK(sk_X509_num(SSL_get_peer_cert_chain(client.ssl.get())) == row.sent);
  }
}

TEST_CASE("the chain check sees the verified chain and can refuse it on either side") {
  for (const bool on_client : {true, false}) {
    for (const Reason reason : {Reason::kCertRevoked, Reason::kInternal}) {
      size_t seen = 0;
      const ChainCheck refuse = [&](std::span<const X509Ptr> chain) -> Result<> {
        seen = chain.size();
        return fail(reason, "connection closed: peer certificate revoked by CRL");
      };
      HandshakePair pair = make_pair(mesh().client({.chain_check = on_client ? refuse : ChainCheck{}}),
                                     mesh().server({.chain_check = on_client ? ChainCheck{} : refuse}), {id_of("web")});
      pair.run();
      CHECK(seen == 2);
      const Error& error = (on_client ? pair.client : pair.server).error();
      CHECK(error.reason == reason);
      CHECK(error.text == "connection closed: peer certificate revoked by CRL");
      const char* const alert = reason == Reason::kCertRevoked ? "certificate_revoked (44)" : "bad_certificate (42)";
      CHECK_THAT(refused_end_says(pair, on_client), Catch::Contains(alert));
    }
  }
}

// ---- hostile bytes ----

TEST_CASE("bytes that are not TLS end the handshake at once with a plain word") {
  struct Row {
    const char* name;
    std::string bytes;
    const char* text;
  };
  const Row rows[] = {
      {"HTTP", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "peer does not speak TLS"},
      {"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "peer does not speak TLS"},
      {"SSH", "SSH-2.0-OpenSSH_9.2\r\n", "peer does not speak TLS"},
      {"zeros", std::string(64, '\0'), "peer does not speak TLS"},
  };
  for (const Row& row : rows) {
    for (const bool as_server : {true, false}) {
      INFO(row.name << (as_server ? " to a server" : " to a client"));
      auto end =
          as_server ? TlsHandshake::make_server(mesh().server()) : TlsHandshake::make_client(mesh().client(), {id_of("web")});
      REQUIRE(end);
      size_t consumed = 0;
      REQUIRE(end->advance({}, consumed) == Status::kWantsInput);
      const auto* const data = reinterpret_cast<const uint8_t*>(row.bytes.data());
      CHECK(end->advance({data, row.bytes.size()}, consumed) == Status::kFailed);
      CHECK_THAT(end->error().text, Catch::Contains(row.text));
    }
  }
}

// The bytes that each end of a good handshake sends, in turns.
struct Flights {
  Bytes hello, answer, finish;
};
Flights record_flights(HandshakePair& pair) {
  Flights flights;
  HandshakePair::step(pair.client, pair.client_status, pair.to_client, pair.to_server, SIZE_MAX);
  flights.hello = pair.to_server;
  HandshakePair::step(pair.server, pair.server_status, pair.to_server, pair.to_client, SIZE_MAX);
  flights.answer = pair.to_client;
  HandshakePair::step(pair.client, pair.client_status, pair.to_client, pair.to_server, SIZE_MAX);
  flights.finish = pair.to_server;
  return flights;
}

TEST_CASE("a handshake that is cut anywhere waits for more and never counts as done") {
  HandshakePair pair = make_pair(mesh().client(), mesh().server(), {id_of("web")});
  const Flights flights = record_flights(pair);
  size_t consumed = 0;
  for (size_t size = 0; size < flights.hello.size(); ++size) {
    auto server = TlsHandshake::make_server(mesh().server());
    CHECK(server->advance(std::span(flights.hello).first(size), consumed) == Status::kWantsInput);
    CHECK(consumed == size);
  }
  // The last flight, byte by byte into one server: done at its last byte and not before.
  for (size_t i = 0; i < flights.finish.size(); ++i) {
    const auto status = pair.server.advance(std::span(flights.finish).subspan(i, 1), consumed);
    CHECK(consumed == 1);
    CHECK(status == (i + 1 == flights.finish.size() ? Status::kDone : Status::kWantsInput));
  }
  CHECK(pair.server.take());
}

TEST_CASE("one wrong bit anywhere in a flight never leads to a connection") {
  // A context of its own for the server's side of every try; the server is fed the same hello, so only its
  // answer is spoilt.
  std::mt19937_64 random(6);
  const auto client_context = mesh().client(), server_context = mesh().server();
  size_t done = 0;
  for (int i = 0; i < 150; ++i) {
    HandshakePair pair = make_pair(client_context, server_context, {id_of("web")});
    HandshakePair::step(pair.client, pair.client_status, pair.to_client, pair.to_server, SIZE_MAX);
    const int spoilt = i % 3;
    const auto spoil = [&](Bytes& bytes) {
      if (!bytes.empty()) bytes[random() % bytes.size()] ^= static_cast<uint8_t>(1 << random() % 8);
    };
    if (spoilt == 0) spoil(pair.to_server);
    HandshakePair::step(pair.server, pair.server_status, pair.to_server, pair.to_client, SIZE_MAX);
    if (spoilt == 1) spoil(pair.to_client);
    HandshakePair::step(pair.client, pair.client_status, pair.to_client, pair.to_server, SIZE_MAX);
    if (spoilt == 2) spoil(pair.to_server);
    pair.run();
    done += pair.done();
  }
  // A version byte of a record header that nobody looks at may be wrong, or a legacy change_cipher_spec;
  // hardly more.
  CHECK(done <= 3);
}

TEST_CASE("garbage of every kind into a fresh handshake is refused or waited for") {
  std::mt19937_64 random(7);
  const auto client_context = mesh().client(), server_context = mesh().server();
  for (int i = 0; i < 400; ++i) {
    Bytes garbage(random() % 300);
    for (uint8_t& byte : garbage) byte = static_cast<uint8_t>(random());
    if (garbage.size() > 6 && i % 2 == 0) {  // a plausible header
      garbage[0] = 22;
      garbage[1] = 3;
      garbage[2] = 1;
      garbage[3] = 0;
      garbage[4] = static_cast<uint8_t>(garbage.size() - 5);
      garbage[5] = i % 4 == 0 ? 1 : 2;
    }
    auto end = i % 3 == 0 ? TlsHandshake::make_client(client_context, {id_of("web")}) : TlsHandshake::make_server(server_context);
    size_t consumed = 0;
    end->advance({}, consumed);
    CHECK(end->advance(garbage, consumed) != Status::kDone);
    CHECK_FALSE(end->take());
  }
}

TEST_CASE("a peer that sends and sends and is never done is refused at a limit") {
  struct Row {
    const char* name;
    uint32_t announced;  // length of a ClientHello that comes in records of 16384 bytes
    const char* text;
  };
  const Row rows[] = {{"longer than OpenSSL takes", 0xffffff, "excessive message size"},
                      {"as long as OpenSSL takes", 131072, "peer sent more than 131072 bytes and the handshake is not done"}};
  for (const Row& row : rows) {
    INFO(row.name);
    auto server = TlsHandshake::make_server(mesh().server());
    REQUIRE(server);
    Bytes record(kRecordHeader + kMaxPlaintext);
    const uint8_t head[] = {22,
                            3,
                            1,
                            0x40,
                            0,
                            1,
                            static_cast<uint8_t>(row.announced >> 16),
                            static_cast<uint8_t>(row.announced >> 8),
                            static_cast<uint8_t>(row.announced)};
    std::ranges::copy(head, record.begin());
    size_t total = 0, consumed = 0;
    auto status = Status::kWantsInput;
    while (status == Status::kWantsInput && total < 2 * kMaxHandshakeBytes) {
      status = server->advance(record, consumed);
      total += consumed;
      std::fill_n(record.begin() + kRecordHeader, 4, uint8_t{0});
    }
    CHECK(status == Status::kFailed);
    CHECK(total <= kMaxHandshakeBytes);
    CHECK_THAT(server->error().text, Catch::Contains(row.text));
  }
}

}  // namespace
}  // namespace zt::hbone
