#include "hbone/tls/context.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <openssl/err.h>
#include <openssl/x509_vfy.h>

#include <algorithm>
#include <ranges>

#include "hbone/tls/handshake_internal.h"
#include "hbone/tls/tls_library.h"
#include "identity/x509_info.h"
#include "mesh/reason.h"

namespace zt::hbone {
namespace {

constexpr const char* kAes256First = "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256";
constexpr const char* kAes128First = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384";
constexpr const char* kHybrid = "X25519MLKEM768";
constexpr uint8_t kAlpn[] = {2, 'h', '2'};

// Contract §2.1. The hybrid is accepted, not preferred: its key share would make every ClientHello 1.2 KB
// longer. A server whose own order decides, because of prefer_aes128, must not talk a client out of a share
// of it that has come.
std::string groups_for(TlsRole role, const TlsOptions& options) {
  if (options.pqc_only) return kHybrid;
  if (options.fips) return "P-256:P-384";
  std::string groups = "X25519:P-256:P-384";
  if (!have_x25519_mlkem768()) return groups;
  const bool own_order = role == TlsRole::kServer && options.prefer_aes128;
  return own_order ? fmt::format("{}:{}", kHybrid, groups) : fmt::format("{}:{}", groups, kHybrid);
}

// A client that offers no ALPN is served, one that offers others only is refused (as the peer does).
int select_alpn(SSL*, const unsigned char** out, unsigned char* out_length, const unsigned char* offered,
                unsigned int offered_length, void*) {
  for (unsigned int at = 0; at < offered_length; at += 1u + offered[at]) {
    if (offered[at] == 2 && offered_length - at > 2 && offered[at + 1] == 'h' && offered[at + 2] == '2') {
      *out = offered + at + 1;
      *out_length = 2;
      return SSL_TLSEXT_ERR_OK;
    }
  }
  return SSL_TLSEXT_ERR_ALERT_FATAL;
}

std::unexpected<Error> refused(std::string_view what) { return fail(Reason::kInvalidInput, identity::openssl_error_text(what)); }

Result<> trust(SSL_CTX* ctx, std::span<X509* const> roots) {
  if (roots.empty()) return fail(Reason::kInvalidInput, "no root certificate to verify peers with");
  X509_STORE* const store = X509_STORE_new();
  if (store == nullptr) return refused("cannot make a certificate store");
  SSL_CTX_set_cert_store(ctx, store);  // now owned by ctx
  for (X509* const root : roots)
    if (X509_STORE_add_cert(store, root) != 1) return refused("cannot trust root " + identity::subject_of(root));
  // What we were given is trusted as it is, self-signed or not.
  X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN);
  return {};
}

Result<> digest_of(TlsRole role, std::span<X509* const> roots, std::array<uint8_t, 32>& digest) {
  std::vector<uint8_t> all{static_cast<uint8_t>(role)};
  for (X509* const root : roots) {
    if (X509_digest(root, EVP_sha256(), digest.data(), nullptr) != 1)
      return refused("cannot digest root " + identity::subject_of(root));
    all.insert(all.end(), digest.begin(), digest.end());
  }
  if (EVP_Digest(all.data(), all.size(), digest.data(), nullptr, EVP_sha256(), nullptr) != 1)
    return refused("cannot digest the roots");
  return {};
}

Result<> present(SSL_CTX* ctx, const TlsCredentials& credentials) {
  if (credentials.leaf == nullptr || credentials.key == nullptr)
    return fail(Reason::kInvalidInput, "no certificate or no private key");
  const std::string subject = identity::subject_of(credentials.leaf);
  if (SSL_CTX_use_certificate(ctx, credentials.leaf) != 1) return refused("cannot use certificate " + subject);
  if (SSL_CTX_use_PrivateKey(ctx, credentials.key) != 1 || SSL_CTX_check_private_key(ctx) != 1)
    return refused("private key does not fit certificate " + subject);
  for (X509* const each : credentials.intermediates) {
    if (X509_self_signed(each, 0) == 1) continue;  // a root: the peer has its own or does not trust us
    if (SSL_CTX_add1_chain_cert(ctx, each) != 1)
      return refused("cannot send intermediate certificate " + identity::subject_of(each));
  }
  return {};
}

bool is_ours(const identity::SpiffeId& id, const std::optional<std::string>& own_trust_domain,
             std::span<const std::string> aliases) {
  return id.trust_domain == own_trust_domain || std::ranges::find(aliases, id.trust_domain) != aliases.end();
}

std::string list_of(std::span<const identity::SpiffeId> ids) {
  return fmt::format("[{}]", fmt::join(ids | std::views::transform(&identity::SpiffeId::to_string), ", "));
}

}  // namespace

bool have_x25519_mlkem768() {
  static const bool have = [] {
    const SslCtxPtr probe(SSL_CTX_new(TLS_method()));
    const bool known = probe && SSL_CTX_set1_groups_list(probe.get(), kHybrid) == 1;
    ERR_clear_error();
    return known;
  }();
  return have;
}

Result<> check_tls_options(const TlsOptions& options) {
  if (options.pqc_only && !have_x25519_mlkem768())
    return fail(Reason::kInvalidInput, fmt::format("COMPLIANCE_POLICY=pqc needs OpenSSL 3.5 or later: {} has no {}",
                                                   OpenSSL_version(OPENSSL_VERSION), kHybrid));
  return {};
}

Result<std::shared_ptr<const TlsContext>> TlsContext::make(TlsRole role, const TlsCredentials& credentials,
                                                           const TlsOptions& options) {
  ZT_TRY(check_tls_options(options));
  ERR_clear_error();
  std::shared_ptr<TlsContext> made(new TlsContext);
  const bool server = role == TlsRole::kServer;
  made->role_ = role;
  made->options_ = options;
  // A validated module that openssl.cnf makes the default does no X25519, whether FIPS was asked for here or
  // not.
  made->options_.fips = options.fips || fips_module_active();
  made->ctx_.reset(SSL_CTX_new_ex(made->options_.fips ? nullptr : handshake_library(), nullptr,
                                  server ? TLS_server_method() : TLS_client_method()));
  SSL_CTX* const ctx = made->ctx_.get();
  if (ctx == nullptr) return refused("cannot make a TLS context");

  if (SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1 || SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) != 1)
    return refused("cannot restrict TLS to version 1.3");
  if (SSL_CTX_set_ciphersuites(ctx, options.prefer_aes128 ? kAes128First : kAes256First) != 1)
    return refused("cannot set cipher suites");
  const std::string groups = groups_for(role, made->options_);
  if (SSL_CTX_set1_groups_list(ctx, groups.c_str()) != 1) return refused("cannot set groups " + groups);

  SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
  if (server && options.prefer_aes128) SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_num_tickets(ctx, 0);
  SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
  // NO_AUTO_CHAIN: send what we were given, do not search the store for more (it would find the root).
  SSL_CTX_set_mode(ctx, SSL_MODE_NO_AUTO_CHAIN | SSL_MODE_RELEASE_BUFFERS);

  if (server) {
    SSL_CTX_set_alpn_select_cb(ctx, select_alpn, nullptr);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  } else {
    if (SSL_CTX_set_alpn_protos(ctx, kAlpn, sizeof kAlpn) != 0) return refused("cannot set ALPN");
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, nullptr);
  }
  SSL_CTX_set_cert_verify_callback(ctx, verify_peer_callback, nullptr);
  SSL_CTX_set_keylog_callback(ctx, take_secret_callback);

  ZT_TRY(trust(ctx, credentials.roots));
  ZT_TRY(digest_of(role, credentials.roots, made->trust_digest_));
  ZT_TRY(present(ctx, credentials));
  if (const auto own = identity::spiffe_sans(credentials.leaf); !own.empty()) made->trust_domain_ = own.front().trust_domain;
  ERR_clear_error();
  return made;
}

// An SSL_CTX is not changed once it is made, and then OpenSSL lets any number of threads make connections of it.
std::shared_ptr<const TlsContext> TlsContext::bound_to(ChainCheck check, std::shared_ptr<VerifiedPeers> peers) const {
  std::shared_ptr<TlsContext> bound(new TlsContext);
  SSL_CTX_up_ref(ctx_.get());
  bound->role_ = role_;
  bound->ctx_.reset(ctx_.get());
  bound->trust_domain_ = trust_domain_;
  bound->trust_digest_ = trust_digest_;
  bound->options_ = options_;
  bound->options_.chain_check = std::move(check);
  bound->options_.verified_peers = std::move(peers);
  return bound;
}

Result<std::optional<identity::SpiffeId>> check_client_identity(std::span<const identity::SpiffeId> peer,
                                                                const std::optional<std::string>& own_trust_domain,
                                                                std::span<const std::string> aliases) {
  if (!own_trust_domain) return peer.empty() ? std::nullopt : std::optional(peer.front());
  const auto ours = [&](const identity::SpiffeId& id) { return is_ours(id, own_trust_domain, aliases); };
  const auto found = std::ranges::find_if(peer, ours);
  if (found == peer.end()) {
    return fail(Reason::kTlsFailed,
                fmt::format("identity verification error: peer did not present the expected trustdomain ({}), got {}",
                            *own_trust_domain, list_of(peer)));
  }
  // Policies know a peer by one name. Whoever has two of them here could choose which of them is asked about.
  if (std::ranges::any_of(found + 1, peer.end(), [&](const auto& id) { return ours(id) && id != *found; })) {
    return fail(Reason::kTlsFailed,
                fmt::format("identity verification error: peer presented several identities of trustdomain {}: {}",
                            *own_trust_domain, list_of(peer)));
  }
  return *found;
}

Result<identity::SpiffeId> check_server_identity(std::span<const identity::SpiffeId> peer,
                                                 std::span<const identity::SpiffeId> expected,
                                                 const std::optional<std::string>& own_trust_domain,
                                                 std::span<const std::string> aliases) {
  const auto same = [&](const identity::SpiffeId& a, const identity::SpiffeId& b) {
    const bool same_domain =
        a.trust_domain == b.trust_domain || (is_ours(a, own_trust_domain, aliases) && is_ours(b, own_trust_domain, aliases));
    return same_domain && a.namespace_ == b.namespace_ && a.service_account == b.service_account;
  };
  const auto wanted = [&](const identity::SpiffeId& id) {
    return std::ranges::any_of(expected, [&](const identity::SpiffeId& each) { return same(id, each); });
  };
  if (const auto found = std::ranges::find_if(peer, wanted); found != peer.end()) return *found;
  return fail(Reason::kTlsFailed, fmt::format("identity verification error: peer did not present the expected SAN ({}), got {}",
                                              list_of(expected), list_of(peer)));
}

}  // namespace zt::hbone
