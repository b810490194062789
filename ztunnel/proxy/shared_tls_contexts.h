#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "hbone/tls/context.h"
#include "identity/certificate.h"

namespace zt::ztunnel {

// One SSL_CTX for each certificate and role, whichever worker needs it: at 110 identities and 64 workers one for each worker took
// 825 MiB. Any thread; the lock is taken when a worker meets a certificate for the first time.
class SharedTlsContexts {
 public:
  // What is bound to a thread is not in it: TlsContext::bound_to(). kIdentityUnavailable.
  Result<std::shared_ptr<const hbone::TlsContext>> get(const identity::Credentials& credentials, hbone::TlsRole role,
                                                       const hbone::TlsOptions& options);

 private:
  struct Shared {
    identity::Credentials credentials;  // as long as it is here, no other certificate has their addresses
    hbone::TlsRole role;
    std::weak_ptr<const hbone::TlsContext> context;
  };
  std::mutex mutex_;
  std::vector<Shared> contexts_;  // guarded by mutex_; few: two for each identity
};

}  // namespace zt::ztunnel
