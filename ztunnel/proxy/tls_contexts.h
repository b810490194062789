#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>

#include "base/task.h"
#include "base/thread_checker.h"
#include "base/ticket.h"
#include "hbone/tls/context.h"
#include "identity/revocation.h"
#include "identity/secret_manager.h"
#include "ztunnel/proxy/worker_settings.h"
#include "ztunnel/telemetry/metrics_registry.h"

namespace zt::ztunnel {

// Asks the control thread for certificates. Thread-safe: get() posts there, `done` comes on the control thread.
using CertificateRequest = std::function<void(const identity::SpiffeId& id, identity::SecretManager::Waiter done)>;

// The TLS contexts of one worker, by identity; made when a certificate changes, not per connection. Worker's thread.
class TlsContexts {
 public:
  TlsContexts(EventLoop& loop, const WorkerSettings& settings, Metrics& metrics, CertificateRequest request)
      : loop_(loop), settings_(settings), metrics_(metrics), request_(std::move(request)), ticket_(loop) {}

  // The context for connections of `id`, waiting for the first certificate up to the configured limit.
  // kIdentityUnavailable, kIdentityTimeout.
  Task<Result<std::shared_ptr<const hbone::TlsContext>>> get(identity::SpiffeId id, hbone::TlsRole role);
  // A certificate or the roots changed; empty credentials: forgotten or expired.
  void update(const identity::SpiffeId& id, const identity::Credentials& credentials);

  // Revocation lists for handshakes from now on; tunnels that are there are DataPlane's to look at.
  void set_revocations(identity::RevocationListsPtr lists) { revocations_ = std::move(lists); }
  // kCertRevoked, with the certificate's serial number. Counts what it refuses.
  Result<> check_revocation(std::span<const identity::X509Ptr> chain, hbone::TlsRole role);

 private:
  struct Entry {
    identity::Credentials credentials;
    std::shared_ptr<const hbone::TlsContext> shared[2], contexts[2];  // by role, made on first use
    std::optional<Error> error;                                       // of the request in flight when it ended
    std::shared_ptr<Event> waiting;                                   // set when the request in flight ends
  };
  Result<std::shared_ptr<const hbone::TlsContext>> bind(Entry& entry, hbone::TlsRole role);

  [[no_unique_address]] ThreadChecker thread_;
  EventLoop& loop_;
  const WorkerSettings& settings_;
  Metrics& metrics_;
  CertificateRequest request_;
  identity::RevocationListsPtr revocations_;
  const std::shared_ptr<hbone::VerifiedPeers> verified_peers_ = std::make_shared<hbone::VerifiedPeers>();
  std::unordered_map<identity::SpiffeId, Entry> entries_;
  Ticket ticket_;
};

}  // namespace zt::ztunnel
