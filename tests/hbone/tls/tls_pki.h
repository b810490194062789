#pragma once
// Certificates of every kind, good and bad, and two handshakes that talk to each other in memory.
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hbone/tls/context.h"
#include "hbone/tls/handshake.h"
#include "identity/openssl_ptr.h"

namespace zt::hbone::testing {

using identity::PkeyPtr;
using identity::SpiffeId;

inline SpiffeId id_of(std::string account, std::string trust_domain = "cluster.local") {
  return {std::move(trust_domain), "shop", std::move(account)};
}

// What goes into a certificate.
struct CertificateSpec {
  std::string name{};                           // CN; empty = no subject at all, as workload certificates have it
  std::vector<std::string> uris{};              // URI SANs
  std::string extra_san{};                      // e.g. "DNS:example.org"
  std::string usage = "serverAuth,clientAuth";  // extended key usage; empty = none
  bool authority = false;
  long not_before = -120, not_after = 3600;  // seconds from now
  const char* key = "P-256";                 // or P-384, RSA, ED25519
};

struct Certificate {
  X509Ptr x509;
  PkeyPtr key;
};

inline void add_extension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str());
  INFO(value);
  REQUIRE(extension != nullptr);
  REQUIRE(X509_add_ext(certificate, extension, -1) == 1);
  X509_EXTENSION_free(extension);
}

inline PkeyPtr make_key(std::string_view type) {
  if (type == "RSA") return PkeyPtr(EVP_RSA_gen(2048));
  if (type == "ED25519") return PkeyPtr(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
  return PkeyPtr(EVP_EC_gen(type.data()));
}

// Issued by `issuer`, or self-signed without one.
inline Certificate make_certificate(const CertificateSpec& spec, const Certificate* issuer = nullptr) {
  static long serial = 1;
  Certificate made{X509Ptr(X509_new()), make_key(spec.key)};
  X509* const x = made.x509.get();
  REQUIRE(X509_set_version(x, X509_VERSION_3) == 1);
  ASN1_INTEGER_set(X509_get_serialNumber(x), serial++);
  X509_gmtime_adj(X509_getm_notBefore(x), spec.not_before);
  X509_gmtime_adj(X509_getm_notAfter(x), spec.not_after);
  X509_set_pubkey(x, made.key.get());
  if (!spec.name.empty())
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(spec.name.c_str()), -1, -1, 0);
  X509* const by = issuer != nullptr ? issuer->x509.get() : x;
  X509_set_issuer_name(x, X509_get_subject_name(by));
  if (spec.authority) {
    add_extension(x, by, NID_basic_constraints, "critical,CA:TRUE");
    add_extension(x, by, NID_key_usage, "critical,keyCertSign,cRLSign");
    add_extension(x, by, NID_subject_key_identifier, "hash");
  } else {
    add_extension(x, by, NID_key_usage, "critical,digitalSignature,keyEncipherment");
    if (!spec.usage.empty()) add_extension(x, by, NID_ext_key_usage, spec.usage);
  }
  std::string sans;
  for (const std::string& uri : spec.uris) sans += (sans.empty() ? "URI:" : ",URI:") + uri;
  if (!spec.extra_san.empty()) sans += (sans.empty() ? "" : ",") + spec.extra_san;
  if (!sans.empty()) add_extension(x, by, NID_subject_alt_name, (spec.name.empty() ? "critical," : "") + sans);
  EVP_PKEY* const signer = issuer != nullptr ? issuer->key.get() : made.key.get();
  REQUIRE(X509_sign(x, signer, EVP_PKEY_is_a(signer, "ED25519") == 1 ? nullptr : EVP_sha256()) > 0);
  return made;
}

inline Certificate make_root(std::string name = "root") { return make_certificate({.name = std::move(name), .authority = true}); }

inline Certificate make_leaf(const Certificate& issuer, const SpiffeId& id) {
  return make_certificate({.uris = {id.to_string()}}, &issuer);
}

inline std::shared_ptr<const TlsContext> make_context(TlsRole role, const Certificate& leaf, const Certificate& root,
                                                      const TlsOptions& options = {}, std::vector<X509*> intermediates = {}) {
  std::vector<X509*> roots{root.x509.get()};
  auto made = TlsContext::make(
      role, {.leaf = leaf.x509.get(), .intermediates = intermediates, .key = leaf.key.get(), .roots = roots}, options);
  if (!made) FAIL(made.error().text);
  return *made;
}

// A mesh of one root, with a client "cart" and a server "web".
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

inline const Mesh& mesh() {
  static const Mesh made;
  return made;
}

// Both ends of a handshake, and what is under way between them.
struct HandshakePair {
  TlsHandshake client, server;
  TlsHandshake::Status client_status = TlsHandshake::Status::kWantsInput;
  TlsHandshake::Status server_status = TlsHandshake::Status::kWantsInput;
  std::vector<uint8_t> to_client{}, to_server{};

  static void step(TlsHandshake& end, TlsHandshake::Status& status, std::vector<uint8_t>& in, std::vector<uint8_t>& out,
                   size_t piece) {
    do {
      const size_t give = std::min(piece, in.size());
      size_t consumed = 0;
      if (status == TlsHandshake::Status::kWantsInput) status = end.advance(std::span(in).first(give), consumed);
      in.erase(in.begin(), in.begin() + static_cast<ptrdiff_t>(consumed));
      if (status != TlsHandshake::Status::kWantsInput) break;
    } while (!in.empty());
    out.insert(out.end(), end.output().begin(), end.output().end());
    end.consume_output(end.output().size());
  }

  // Until neither has anything to say. `piece` bytes at a time.
  void run(size_t piece = SIZE_MAX) {
    for (int turns = 0; turns < 8; ++turns) {
      step(client, client_status, to_client, to_server, piece);
      step(server, server_status, to_server, to_client, piece);
    }
  }
  [[nodiscard]] bool done() const {
    return client_status == TlsHandshake::Status::kDone && server_status == TlsHandshake::Status::kDone;
  }
};

inline HandshakePair make_pair(std::shared_ptr<const TlsContext> client, std::shared_ptr<const TlsContext> server,
                               std::vector<SpiffeId> expected) {
  auto c = TlsHandshake::make_client(std::move(client), std::move(expected));
  auto s = TlsHandshake::make_server(std::move(server));
  REQUIRE(c);
  REQUIRE(s);
  return {.client = std::move(*c), .server = std::move(*s)};
}

// Plain OpenSSL as the other end, for what ours would never do.
struct OpensslEnd {
  std::unique_ptr<SSL, identity::OpensslFree<SSL_free>> ssl;
  TlsHandshake::Status server_status = TlsHandshake::Status::kWantsInput;
  std::string error;

  OpensslEnd(SSL_CTX* ctx, bool server) : ssl(SSL_new(ctx)) {
    SSL_set_bio(ssl.get(), BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    server ? SSL_set_accept_state(ssl.get()) : SSL_set_connect_state(ssl.get());
  }

  // Until neither has anything to say.
  void talk_to(TlsHandshake& other) {
    for (int turns = 0; turns < 8; ++turns) {
      ERR_clear_error();
      // After its handshake a client learns by reading whether the server took its certificate.
      char byte = 0;
      const int result = SSL_is_init_finished(ssl.get()) ? SSL_read(ssl.get(), &byte, 1) : SSL_do_handshake(ssl.get());
      if (result <= 0 && SSL_get_error(ssl.get(), result) == SSL_ERROR_SSL && error.empty())
        error = identity::openssl_error_text("openssl");
      std::vector<uint8_t> bytes(BIO_ctrl_pending(SSL_get_wbio(ssl.get())));
      if (!bytes.empty()) BIO_read(SSL_get_wbio(ssl.get()), bytes.data(), static_cast<int>(bytes.size()));
      size_t consumed = 0;
      if (server_status == TlsHandshake::Status::kWantsInput) server_status = other.advance(bytes, consumed);
      const auto out = other.output();
      if (!out.empty()) BIO_write(SSL_get_rbio(ssl.get()), out.data(), static_cast<int>(out.size()));
      other.consume_output(out.size());
    }
  }
};

}  // namespace zt::hbone::testing
