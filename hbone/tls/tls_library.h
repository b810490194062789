#pragma once
#include <openssl/types.h>

// Which of OpenSSL's providers work for us: the library context that handshakes run in, and FIPS.
namespace zt::hbone {

// OpenSSL 3.0 and 3.1 put together anew, for each certificate that they parse, a chain of all decoders of all
// key types that any provider has: that alone is a fifth of a handshake. This context holds the default
// provider's own algorithms, but offers of its key types and decoders only those that a mesh handshake can
// meet: P-256, P-384, X25519 and, for the certificates of others, RSA and Ed25519.
//
// nullptr, OpenSSL's word for the process's default context, where that must not or need not be: with OpenSSL
// 3.2 or later, which remember the chain; and when openssl.cnf brings anything but the default provider
// (FIPS, a token), because what the operator configured decides then. One for the process, made by the first
// call, never freed. Any thread.
[[nodiscard]] OSSL_LIB_CTX* handshake_library();

// Whether openssl.cnf has brought in a validated module and made it the default (fips=yes). Then it does all
// that it can and nothing of ours is put in its place. TlsOptions::fips alone restricts what we choose, not
// who computes it. Any thread.
[[nodiscard]] bool fips_module_active();

}  // namespace zt::hbone
