#include "hbone/tls_handshake.h"

#include <openssl/ssl.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>

#include "tls_pki.h"
#include "tls_test_support.h"

namespace zt::hbone {
namespace {

using namespace testing;
using Status = TlsHandshake::Status;

// A mesh of one root with a client "cart" and a server "web".
struct Mesh {
  Certificate root = make_root();
  Certificate cart = make_leaf(root, id_of("cart")), web = make_leaf(root, id_of("web"));

  [[nodiscard]] std::shared_ptr<const TlsContext> client(const TlsOptions& options = {}) const {
    return make_context(TlsRole::kClient, cart, root, options);
  }
  [[nodiscard]] std::shared_ptr<const TlsContext> server(const TlsOptions& options = {}) const {
    return make_context(TlsRole::kServer, web, root, options);
  }
};

const Mesh& mesh() {
  static const Mesh made;
  return made;
}

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
      HandshakePair pair =
          make_pair(mesh().client({.prefer_aes128 = row.client_prefers_128}),
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
      CHECK(client->peer_chain.empty());
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

}  // namespace
}  // namespace zt::hbone
