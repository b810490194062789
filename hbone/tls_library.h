#pragma once
#include <openssl/types.h>

// The OpenSSL library context that handshakes run in.
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

}  // namespace zt::hbone
