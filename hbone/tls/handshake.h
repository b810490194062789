#pragma once
#include <openssl/x509.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "hbone/tls/context.h"
#include "hbone/tls/record_layer.h"
#include "identity/spiffe_id.h"

// A TLS 1.3 handshake by OpenSSL, without I/O. When it is done OpenSSL is out of the picture: its secrets go
// to our record layer and its memory (some 40 KiB) is given back.
namespace zt::hbone {

// More than this from a peer that is not done yet is refused. Certificates are most of it: OpenSSL takes
// chains of up to 100 KiB.
inline constexpr size_t kMaxHandshakeBytes = 128 * 1024;

// What a finished handshake leaves behind.
struct TlsEstablished {
  RecordSealer sealer;
  RecordOpener opener;
  CipherSuite suite{};
  std::string group;                       // OpenSSL's name: "x25519", "secp256r1", "X25519MLKEM768"
  std::optional<identity::SpiffeId> peer;  // the SPIFFE SAN that the peer was admitted by
  PeerChain peer_chain;                    // if the context keeps it: for revocation later
};

struct TlsHandshakeState;

// Thread: the owner's; movable.
class TlsHandshake {
 public:
  enum class Status : uint8_t {
    kWantsInput,  // send output(), then feed what the peer sends
    kDone,        // send output(), then take()
    kFailed,      // send output() (an alert), then close; error() says why
  };

  // `expected` (client only) are the identities one of which the server must have; empty always fails
  // (contract §2.3). Errors: kInternal.
  static Result<TlsHandshake> make_client(std::shared_ptr<const TlsContext> context, std::vector<identity::SpiffeId> expected);
  static Result<TlsHandshake> make_server(std::shared_ptr<const TlsContext> context);
  TlsHandshake(TlsHandshake&&) noexcept;
  TlsHandshake& operator=(TlsHandshake&&) noexcept;
  ~TlsHandshake();

  // Goes on with `received`. `consumed` is set to how much of it belonged to the handshake: all, unless this
  // call reaches kDone; the rest are records for the opener. A client's first call has nothing to feed and
  // makes the ClientHello.
  Status advance(std::span<const uint8_t> received, size_t& consumed);

  // Bytes for the peer that have not been taken by consume_output() yet.
  [[nodiscard]] std::span<const uint8_t> output() const;
  void consume_output(size_t count);

  // After kDone, once. Frees OpenSSL's objects. Fails with kInternal if the secrets cannot be used.
  Result<TlsEstablished> take();
  // After kFailed. kTlsFailed, or kCertRevoked from the context's chain check. The text has no prefix ("tls
  // error: …"): the caller knows which one its side's log wants (contract §10.3).
  [[nodiscard]] const Error& error() const;

 private:
  explicit TlsHandshake(std::unique_ptr<TlsHandshakeState> state);
  std::unique_ptr<TlsHandshakeState> state_;  // OpenSSL holds its address
};

}  // namespace zt::hbone
