#pragma once
#include <expected>
#include <span>
#include <string>
#include <vector>

#include "identity/openssl_ptr.h"
#include "identity/trust_bundle.h"
#include "identity/wall_time.h"

namespace zt::identity {

// Does `certificate` lead over any of `untrusted` to one of `roots` at time `now`? The path, certificate
// first, trust anchor last; or why not, and at which certificate. A root need not be self-signed, as in
// istiod and ztunnel. Signatures and keys must be as strong as a handshake wants them. Purpose and names are not looked at: this is for our own certificates, peers' are
// verified in the handshake. Any thread.
[[nodiscard]] std::expected<std::vector<X509Ptr>, std::string> verify_chain(X509* certificate, std::span<const X509Ptr> untrusted,
                                                                            const TrustBundle& roots, WallTime now);

}  // namespace zt::identity
