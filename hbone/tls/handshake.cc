#include "hbone/tls/handshake.h"

#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/x509_vfy.h>

#include <algorithm>
#include <cstring>

#include "hbone/tls/handshake_internal.h"
#include "hbone/tls/wipe_on_free.h"
#include "identity/x509_info.h"
#include "mesh/reason.h"

namespace zt::hbone {
namespace {

struct FreeSsl {
  void operator()(SSL* ssl) const noexcept {
    const WipeOnFree secrets;
    SSL_free(ssl);
  }
};
using SslPtr = std::unique_ptr<SSL, FreeSsl>;

// SSL_R_… of an alert that came is this plus the alert.
constexpr int kAlertReason = SSL_AD_REASON_OFFSET;

// Whose certificate was refused. With its validity if that is the reason: beside the log's own time, it tells
// whose clock is wrong.
std::string describe(const X509* certificate, int why) {
  std::string text = identity::subject_of(certificate);
  if (why != X509_V_ERR_CERT_NOT_YET_VALID && why != X509_V_ERR_CERT_HAS_EXPIRED) return text;
  if (const auto validity = identity::validity_of(certificate))
    text += fmt::format(", valid from {} until {}", identity::rfc3339_seconds(validity->not_before),
                        identity::rfc3339_seconds(validity->not_after));
  return text;
}

}  // namespace

struct TlsHandshakeState {
  enum class Phase : uint8_t { kRunning, kDone, kFailed, kTaken };

  TlsHandshakeState(std::shared_ptr<const TlsContext> from, std::vector<identity::SpiffeId> names)
      : context(std::move(from)), expected(std::move(names)) {}
  TlsHandshakeState(const TlsHandshakeState&) = delete;
  TlsHandshakeState& operator=(const TlsHandshakeState&) = delete;

  static int ssl_index() {
    static const int index = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
    return index;
  }
  static TlsHandshakeState* of(const SSL* ssl) { return static_cast<TlsHandshakeState*>(SSL_get_ex_data(ssl, ssl_index())); }

  Result<> start();
  void fail_with(Error why);
  Error openssl_error();
  Result<> verify(X509_STORE_CTX* store);
  Result<> verify_chain(X509_STORE_CTX* store, VerifiedPeer& found);
  std::optional<VerifiedPeers::Key> key_of(X509_STORE_CTX* store);

  const std::shared_ptr<const TlsContext> context;
  const std::vector<identity::SpiffeId> expected;
  SslPtr ssl;
  Phase phase = Phase::kRunning;
  size_t received = 0;
  std::span<const uint8_t> in;  // what advance() was given, as far as OpenSSL has not read it
  std::vector<uint8_t> out;
  size_t out_taken = 0;
  TrafficSecret client_secret, server_secret;
  std::optional<identity::SpiffeId> peer;
  PeerChain peer_chain;
  std::optional<Error> verify_error;  // why verify_peer_callback said no
  std::optional<Error> error;
};

namespace {

// ---- a BIO that reads the caller's bytes where they lie and writes to TlsHandshakeState::out ----

int read_input(BIO* bio, char* to, int size) {
  auto* const handshake = static_cast<TlsHandshakeState*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  if (size <= 0) return 0;
  const size_t take = std::min(handshake->in.size(), static_cast<size_t>(size));
  if (take == 0) {
    BIO_set_retry_read(bio);
    return -1;
  }
  std::memcpy(to, handshake->in.data(), take);
  handshake->in = handshake->in.subspan(take);
  return static_cast<int>(take);
}

int write_output(BIO* bio, const char* from, int size) {
  auto* const handshake = static_cast<TlsHandshakeState*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  if (size > 0) handshake->out.insert(handshake->out.end(), from, from + size);
  return size;
}

long control(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

BIO* make_bio(TlsHandshakeState* handshake) {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* const made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "handshake");
    if (made != nullptr) {
      BIO_meth_set_read(made, read_input);
      BIO_meth_set_write(made, write_output);
      BIO_meth_set_ctrl(made, control);
    }
    return made;
  }();
  BIO* const bio = method != nullptr ? BIO_new(method) : nullptr;
  if (bio == nullptr) return nullptr;
  BIO_set_data(bio, handshake);
  BIO_set_init(bio, 1);
  return bio;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// What is more useful to an operator than OpenSSL's own words.
const char* plain_words(int reason) {
  switch (reason) {
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_NO_PROTOCOLS_AVAILABLE: return "peer does not speak TLS 1.3, and nothing older is accepted";
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
    case SSL_R_PACKET_LENGTH_TOO_LONG: return "peer does not speak TLS";
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE: return "peer sent no certificate";
    case SSL_R_NO_SHARED_CIPHER: return "peer offers neither TLS_AES_256_GCM_SHA384 nor TLS_AES_128_GCM_SHA256";
    case SSL_R_NO_SUITABLE_KEY_SHARE:
    case SSL_R_NO_SUITABLE_GROUPS:
    case SSL_R_BAD_KEY_SHARE: return "peer offers no key exchange group that we use";
    case SSL_R_NO_APPLICATION_PROTOCOL: return "peer offers other protocols (ALPN) than h2";
    default: return nullptr;
  }
}

}  // namespace

Result<> TlsHandshakeState::start() {
  ERR_clear_error();
  ssl.reset(SSL_new(context->ssl_ctx()));
  BIO* const bio = make_bio(this);
  if (!ssl || bio == nullptr || SSL_set_ex_data(ssl.get(), ssl_index(), this) != 1) {
    BIO_free(bio);
    return fail(Reason::kInternal, identity::openssl_error_text("cannot start a TLS handshake"));
  }
  SSL_set_bio(ssl.get(), bio, bio);  // owns it now, once
  if (context->role() == TlsRole::kServer) {
    SSL_set_accept_state(ssl.get());
  } else {
    SSL_set_connect_state(ssl.get());
  }
  return {};
}

void TlsHandshakeState::fail_with(Error why) {
  error = std::move(why);
  phase = Phase::kFailed;
  ssl.reset();
  in = {};
}

Error TlsHandshakeState::openssl_error() {
  const unsigned long code = ERR_peek_error();
  const int reason = ERR_GET_REASON(code);
  std::string text;
  if (verify_error) {
    ERR_clear_error();
    return *verify_error;
  }
  if (ERR_GET_LIB(code) == ERR_LIB_SSL && reason > kAlertReason && reason < kAlertReason + 256) {
    const auto alert = static_cast<uint8_t>(reason - kAlertReason);
    text = fmt::format("peer sent alert {} ({})", alert_name(static_cast<Alert>(alert)), alert);
  } else if (const char* words = ERR_GET_LIB(code) == ERR_LIB_SSL ? plain_words(reason) : nullptr; words != nullptr) {
    text = words;
  } else {
    return {Reason::kTlsFailed, identity::openssl_error_text("handshake failed")};
  }
  ERR_clear_error();
  return {Reason::kTlsFailed, std::move(text)};
}

// What the outcome of verify_chain() depends on, besides the time.
std::optional<VerifiedPeers::Key> TlsHandshakeState::key_of(X509_STORE_CTX* store) {
  std::vector<uint8_t> all(context->trust_digest().begin(), context->trust_digest().end());
  VerifiedPeers::Key digest;
  const auto add = [&](const X509* certificate) {
    if (X509_digest(certificate, EVP_sha256(), digest.data(), nullptr) != 1) return false;
    all.insert(all.end(), digest.begin(), digest.end());
    return true;
  };
  const STACK_OF(X509)* const presented = X509_STORE_CTX_get0_untrusted(store);
  if (!add(X509_STORE_CTX_get0_cert(store))) return std::nullopt;
  for (int i = 0; i < sk_X509_num(presented); ++i)
    if (!add(sk_X509_value(presented, i))) return std::nullopt;
  if (EVP_Digest(all.data(), all.size(), digest.data(), nullptr, EVP_sha256(), nullptr) != 1) return std::nullopt;
  return digest;
}

// Signatures, validity, purpose. Sets the store context's error, which decides the alert that OpenSSL sends.
Result<> TlsHandshakeState::verify_chain(X509_STORE_CTX* store, VerifiedPeer& found) {
  // The purpose (client or server authentication) is set by OpenSSL's defaults for this callback.
  if (X509_verify_cert(store) != 1) {
    const int code = X509_STORE_CTX_get_error(store);
    // An internal failure may leave no error code behind.
    if (code == X509_V_OK) X509_STORE_CTX_set_error(store, X509_V_ERR_UNSPECIFIED);
    const X509* const at = X509_STORE_CTX_get_current_cert(store);
    return fail(Reason::kTlsFailed, fmt::format("peer's certificate is not valid: {}{}", X509_verify_cert_error_string(code),
                                                at != nullptr ? ": " + describe(at, code) : ""));
  }
  found.ids = identity::spiffe_sans(X509_STORE_CTX_get0_cert(store));
  found.not_before = identity::WallTime::min();
  found.not_after = identity::WallTime::max();
  const STACK_OF(X509)* const chain = X509_STORE_CTX_get0_chain(store);
  std::vector<X509Ptr> kept;
  for (int i = 0; i < sk_X509_num(chain); ++i) {
    X509* const each = sk_X509_value(chain, i);
    const auto validity = identity::validity_of(each);
    if (!validity) {
      X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
      return fail(Reason::kTlsFailed, "peer's certificate is not valid: " + validity.error().text);
    }
    found.not_before = std::max(found.not_before, validity->not_before);
    found.not_after = std::min(found.not_after, validity->not_after);
    kept.push_back(identity::share(each));
  }
  found.chain = std::make_shared<const std::vector<X509Ptr>>(std::move(kept));
  return {};
}

Result<> TlsHandshakeState::verify(X509_STORE_CTX* store) {
  const TlsOptions& options = context->options();
  const bool needs_chain = options.chain_check || options.keep_peer_chain;
  VerifiedPeers* const known = options.verified_peers.get();
  const auto key = known != nullptr ? key_of(store) : std::nullopt;
  VerifiedPeer now_verified;
  const VerifiedPeer* verified = key ? known->find(*key, identity::wall_clock_now()) : nullptr;
  if (verified == nullptr || (needs_chain && !verified->chain)) {
    ZT_TRY(verify_chain(store, now_verified));
    if (!needs_chain) now_verified.chain.reset();
    verified = key ? &known->insert(*key, std::move(now_verified)) : &now_verified;
  }
  if (options.chain_check) {
    if (auto checked = options.chain_check(*verified->chain); !checked) {
      X509_STORE_CTX_set_error(
          store, checked.error().reason == Reason::kCertRevoked ? X509_V_ERR_CERT_REVOKED : X509_V_ERR_CERT_REJECTED);
      return checked;
    }
  }
  // The peer is who it was admitted as, whichever place that name has in its certificate.
  const auto admit = [&]() -> Result<std::optional<identity::SpiffeId>> {
    if (context->role() == TlsRole::kServer)
      return check_client_identity(verified->ids, context->trust_domain(), options.trust_domain_aliases);
    return check_server_identity(verified->ids, expected, context->trust_domain(), options.trust_domain_aliases);
  };
  auto admitted = admit();
  if (!admitted) {
    X509_STORE_CTX_set_error(store, X509_V_ERR_HOSTNAME_MISMATCH);  // bad_certificate
    return std::unexpected(std::move(admitted).error());
  }
  peer = std::move(*admitted);
  if (options.keep_peer_chain) peer_chain = verified->chain;
  return {};
}

int verify_peer_callback(X509_STORE_CTX* store, void*) {
  auto* const ssl = static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  auto* const handshake = ssl != nullptr ? TlsHandshakeState::of(ssl) : nullptr;
  if (handshake == nullptr) return 0;  // fail closed
  auto verified = handshake->verify(store);
  if (verified) return 1;
  handshake->verify_error = std::move(verified.error());
  return 0;
}

// `line` is "LABEL <client random in hex> <secret in hex>".
void take_secret_callback(const SSL* ssl, const char* line) {
  auto* const handshake = TlsHandshakeState::of(ssl);
  if (handshake == nullptr) return;
  const std::string_view text(line);
  const size_t label_end = text.find(' '), random_end = text.find(' ', label_end + 1);
  if (label_end == std::string_view::npos || random_end == std::string_view::npos) return;
  const std::string_view label = text.substr(0, label_end), digits = text.substr(random_end + 1);
  TrafficSecret* const into = label == "CLIENT_TRAFFIC_SECRET_0"   ? &handshake->client_secret
                              : label == "SERVER_TRAFFIC_SECRET_0" ? &handshake->server_secret
                                                                   : nullptr;
  if (into == nullptr || digits.size() > 2 * TrafficSecret::kMaxBytes) return;
  WipedBytes<TrafficSecret::kMaxBytes> bytes;
  size_t count = 0;
  for (; 2 * count + 1 < digits.size(); ++count) {
    const int high = hex_digit(digits[2 * count]), low = hex_digit(digits[2 * count + 1]);
    if (high < 0 || low < 0) break;
    bytes[count] = static_cast<uint8_t>(high << 4 | low);
  }
  *into = TrafficSecret(std::span<const uint8_t>(bytes).first(count));
}

TlsHandshake::TlsHandshake(std::unique_ptr<TlsHandshakeState> state) : state_(std::move(state)) {}
TlsHandshake::TlsHandshake(TlsHandshake&&) noexcept = default;
TlsHandshake& TlsHandshake::operator=(TlsHandshake&&) noexcept = default;
TlsHandshake::~TlsHandshake() = default;

Result<TlsHandshake> TlsHandshake::make_client(std::shared_ptr<const TlsContext> context,
                                               std::vector<identity::SpiffeId> expected) {
  if (context == nullptr || context->role() != TlsRole::kClient)
    return fail(Reason::kInternal, "client handshake with a server's TLS context");
  auto handshake = std::make_unique<TlsHandshakeState>(std::move(context), std::move(expected));
  ZT_TRY(handshake->start());
  return TlsHandshake(std::move(handshake));
}

Result<TlsHandshake> TlsHandshake::make_server(std::shared_ptr<const TlsContext> context) {
  if (context == nullptr || context->role() != TlsRole::kServer)
    return fail(Reason::kInternal, "server handshake with a client's TLS context");
  auto handshake = std::make_unique<TlsHandshakeState>(std::move(context), std::vector<identity::SpiffeId>{});
  ZT_TRY(handshake->start());
  return TlsHandshake(std::move(handshake));
}

TlsHandshake::Status TlsHandshake::advance(std::span<const uint8_t> received, size_t& consumed) {
  TlsHandshakeState& handshake = *state_;
  consumed = 0;
  if (handshake.phase == TlsHandshakeState::Phase::kFailed) return Status::kFailed;
  if (handshake.phase != TlsHandshakeState::Phase::kRunning) return Status::kDone;
  const size_t allowed = std::min(received.size(), kMaxHandshakeBytes - handshake.received);
  handshake.in = received.first(allowed);
  ERR_clear_error();
  const int result = SSL_do_handshake(handshake.ssl.get());
  consumed = allowed - handshake.in.size();
  handshake.received += consumed;
  handshake.in = {};
  if (result == 1) {
    handshake.phase = TlsHandshakeState::Phase::kDone;
    return Status::kDone;
  }
  if (SSL_get_error(handshake.ssl.get(), result) == SSL_ERROR_WANT_READ) {
    if (allowed == received.size()) return Status::kWantsInput;
    handshake.fail_with(
        {Reason::kTlsFailed, fmt::format("peer sent more than {} bytes and the handshake is not done", kMaxHandshakeBytes)});
    return Status::kFailed;
  }
  handshake.fail_with(handshake.openssl_error());
  return Status::kFailed;
}

std::span<const uint8_t> TlsHandshake::output() const { return std::span(state_->out).subspan(state_->out_taken); }

void TlsHandshake::consume_output(size_t count) {
  state_->out_taken += std::min(count, state_->out.size() - state_->out_taken);
  if (state_->out_taken < state_->out.size()) return;
  state_->out.clear();
  state_->out_taken = 0;
}

Result<TlsEstablished> TlsHandshake::take() {
  TlsHandshakeState& handshake = *state_;
  if (handshake.phase != TlsHandshakeState::Phase::kDone) return fail(Reason::kInternal, "the TLS handshake is not done");
  handshake.phase = TlsHandshakeState::Phase::kTaken;
  const SslPtr ssl = std::move(handshake.ssl);
  const SSL_CIPHER* const cipher = SSL_get_current_cipher(ssl.get());
  const auto suite = static_cast<CipherSuite>(cipher != nullptr ? SSL_CIPHER_get_protocol_id(cipher) : 0);
  const bool server = handshake.context->role() == TlsRole::kServer;
  const auto state_of = [&](bool from_server) {
    RecordState state;
    state.suite = suite;
    state.from_server = from_server;
    state.secret = from_server ? handshake.server_secret : handshake.client_secret;
    return state;
  };
  ZT_ASSIGN(RecordSealer sealer, RecordSealer::make(state_of(server)));
  ZT_ASSIGN(RecordOpener opener, RecordOpener::make(state_of(!server)));
  const char* const group = SSL_group_to_name(ssl.get(), static_cast<int>(SSL_get_negotiated_group(ssl.get())));
  return TlsEstablished{.sealer = std::move(sealer),
                        .opener = std::move(opener),
                        .suite = suite,
                        .group = group != nullptr ? group : "",
                        .peer = std::move(handshake.peer),
                        .peer_chain = std::move(handshake.peer_chain)};
}

const Error& TlsHandshake::error() const {
  static const Error none{Reason::kInternal, "the TLS handshake has not failed"};
  return state_->error ? *state_->error : none;
}

}  // namespace zt::hbone
