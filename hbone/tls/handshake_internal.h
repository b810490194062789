#pragma once
#include <openssl/ssl.h>

// What tls_context.cc hangs into an SSL_CTX and tls_handshake.cc implements: both look up the handshake that
// an SSL belongs to.
namespace zt::hbone {

// The whole of peer verification (SSL_CTX_set_cert_verify_callback): chain, revocation, SPIFFE rules.
int verify_peer_callback(X509_STORE_CTX* store, void*);
// SSL_CTX_set_keylog_callback: keeps the two application traffic secrets. Nothing is ever logged.
void take_secret_callback(const SSL* ssl, const char* line);

}  // namespace zt::hbone
