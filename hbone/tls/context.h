#pragma once
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "hbone/tls/tls_library.h"
#include "hbone/tls/verified_peers.h"
#include "identity/openssl_ptr.h"
#include "identity/spiffe_id.h"

// What all connections of one identity share: an SSL_CTX per role. TLS 1.3 only. TLS 1.2 is refused on
// purpose and has no switch: our record layer speaks 1.3, and the peers that this proxy tunnels to and from
// all do. All contexts are in OpenSSL's default library context: one of its own for each worker saved nothing
// that could be measured with two of them.
namespace zt::hbone {

using identity::X509Ptr;
using SslCtxPtr = std::unique_ptr<SSL_CTX, identity::OpensslFree<SSL_CTX_free>>;

enum class TlsRole : uint8_t { kClient, kServer };

// Where a context's certificates come from. Everything is borrowed for the call; what is kept is
// reference-counted.
struct TlsCredentials {
  X509* leaf = nullptr;
  std::span<X509* const> intermediates;  // sent after the leaf, in this order; a self-signed one is not sent
  EVP_PKEY* key = nullptr;
  std::span<X509* const> roots;  // whom we trust: the bundle that came with this very certificate
};

// The chain as verified, leaf first, trust anchor last. An error refuses the peer (alert certificate_revoked
// when its reason is kCertRevoked). Runs inside the handshake on the connection's thread: must not block.
using ChainCheck = std::function<Result<>(std::span<const identity::X509Ptr> chain)>;

struct TlsOptions {
  // Contract §2.1: AES-256 first, and the client's order decides. AES-128 costs a sixth less CPU per byte;
  // true offers it first as a client, and as a server takes it whenever the client can.
  bool prefer_aes128 = false;
  bool pqc_only = false;  // COMPLIANCE_POLICY=pqc: X25519MLKEM768 and nothing else
  bool fips = false;      // P-256 and P-384 only; set by itself where fips_module_active()
  // Other names of our own trust domain, while a mesh is being renamed: a peer's certificate may have any of
  // them. The peers know no such thing (contract §14 #25).
  std::vector<std::string> trust_domain_aliases{};
  ChainCheck chain_check{};  // revocation (contract §2.11); none = no check
  // Fill TlsEstablished::peer_chain, for revocation later. A few KiB for each connection, or for each peer
  // with verified_peers.
  bool keep_peer_chain = false;
  // What saves verifying a known chain again. Binds the context to its thread; none = verify each time.
  std::shared_ptr<VerifiedPeers> verified_peers{};
};

// An immutable SSL_CTX with its rules. Any thread may share it (unless its options say otherwise); ~100 µs
// and ~60 KiB to make, so one per identity and role, not per connection.
class TlsContext {
 public:
  // Errors: kInvalidInput, with a text that names what is wrong: key does not fit the leaf, no roots,
  // pqc_only with an OpenSSL that has no X25519MLKEM768 (older than 3.5).
  static Result<std::shared_ptr<const TlsContext>> make(TlsRole role, const TlsCredentials& credentials,
                                                        const TlsOptions& options = {});
  // The same SSL_CTX for connections of another thread: 60 KiB that a worker need not have of its own. What is bound to a thread is
  // given here and not shared.
  [[nodiscard]] std::shared_ptr<const TlsContext> bound_to(ChainCheck check, std::shared_ptr<VerifiedPeers> peers) const;
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

  [[nodiscard]] TlsRole role() const { return role_; }
  [[nodiscard]] SSL_CTX* ssl_ctx() const { return ctx_.get(); }
  // Our own leaf's trust domain; none if it has no SPIFFE SAN, and then a server does not compare trust
  // domains (contract §2.2).
  [[nodiscard]] const std::optional<std::string>& trust_domain() const { return trust_domain_; }
  [[nodiscard]] const TlsOptions& options() const { return options_; }
  // SHA-256 of role and roots: what the verification of a chain depends on besides the chain and the time.
  [[nodiscard]] const std::array<uint8_t, 32>& trust_digest() const { return trust_digest_; }

 private:
  TlsContext() = default;
  TlsRole role_ = TlsRole::kClient;
  SslCtxPtr ctx_;
  std::optional<std::string> trust_domain_;
  std::array<uint8_t, 32> trust_digest_{};
  TlsOptions options_;
};

// The two rules, on the peer's SPIFFE ids. `aliases` are other names of our own trust domain. Errors carry
// the text of contract §10.3 (what was expected, what came).
Result<std::optional<identity::SpiffeId>> check_client_identity(std::span<const identity::SpiffeId> peer,
                                                                const std::optional<std::string>& own_trust_domain,
                                                                std::span<const std::string> aliases = {});
Result<identity::SpiffeId> check_server_identity(std::span<const identity::SpiffeId> peer,
                                                 std::span<const identity::SpiffeId> expected,
                                                 const std::optional<std::string>& own_trust_domain = {},
                                                 std::span<const std::string> aliases = {});

// True if this OpenSSL can do X25519MLKEM768.
[[nodiscard]] bool have_x25519_mlkem768();
// For the start of the process, before anything waits for a tunnel. kInvalidInput: what `options` ask for
// that this OpenSSL cannot do, and what would.
Result<> check_tls_options(const TlsOptions& options);

}  // namespace zt::hbone
