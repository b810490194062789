#pragma once
#include <functional>

#include "base/result.h"
#include "identity/certificate.h"
#include "identity/spiffe_id.h"
#include "mesh/reason.h"

namespace zt::identity {

// Where certificates come from: istiod over gRPC, or the embedded CA.
//
// Threads. fetch() is called on the control thread and must not block: key generation, file and network I/O
// happen elsewhere. `done` is called exactly once, on any thread, possibly before fetch() returns; it is
// cheap and never blocks (the secret manager only posts in it), and it may outlive its caller. An
// implementation may get as many calls at once as the secret manager allows (kMaxFetchesInFlight); calls for
// the same identity may overlap after a forget.
//
// Errors carry Reason::kIdentityUnavailable (or kIdentityTimeout for the client's own deadline) and a text
// for operators. The answer must be for `id` (contract §7.3; a dedicated proxy's client may skip that check),
// and must bring its own fresh key.
//
// Destruction. The destructor answers what is outstanding with an error, and no `done` runs after it has
// returned.
class CaClient {
 public:
  using Done = std::function<void(Result<CertificatePtr>)>;

  CaClient() = default;
  CaClient(const CaClient&) = delete;
  CaClient& operator=(const CaClient&) = delete;
  virtual ~CaClient() = default;

  virtual void fetch(const SpiffeId& id, Done done) = 0;
};

}  // namespace zt::identity
