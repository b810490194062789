#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "identity/ca_client.h"
#include "identity/certificate.h"
#include "identity/revocation.h"
#include "identity/scheduler.h"
#include "identity/spiffe_id.h"

namespace zt::identity {

// Contract §7.5.
inline constexpr size_t kMaxFetchesInFlight = 8;
// A caller without a certificate waits no longer than this.
inline constexpr std::chrono::seconds kCertificateWaitLimit{10};
// A fetch that the CA has not answered by then gives its slot back; its answer will be dropped.
inline constexpr std::chrono::seconds kFetchLimit{30};
// A waiting caller shortens the back-off to this, doubled with each failure in a row up to the second value:
// callers get an answer soon, and a CA in trouble is not hammered.
inline constexpr std::chrono::seconds kRealTimeRetryMin{1};
inline constexpr std::chrono::seconds kRealTimeRetryMax{5};
// Timers that follow the wall clock look at it at least this often: it may have been stepped.
inline constexpr std::chrono::minutes kClockRecheckInterval{5};
// When the CA drops a root, certificates below it are renewed spread over the first value, but none sooner
// than the second after its last renewal: two CAs that disagree about the root must not drive us in circles.
inline constexpr std::chrono::seconds kRootChangeSpread{10};
inline constexpr std::chrono::seconds kRootRenewalInterval{60};
inline constexpr size_t kMaxWaitersPerIdentity = 16384;
inline constexpr size_t kMaxIdentities = 65536;

// Order in which fetches get a slot: the certificate at hand still works < somebody will soon connect < a
// connection waits.
enum class Priority : uint8_t { kBackground, kWarmup, kRealTime };

// One identity as the admin dump shows it.
struct IdentityStatus {
  std::string identity;
  std::string state;        // "Initializing", "Available" or "Unavailable: <why>" (contract §10.6)
  Credentials credentials;  // empty unless Available
};

// Counters since start and gauges of now; read by telemetry.
struct SecretManagerStats {
  uint64_t fetches = 0;  // started
  uint64_t fetch_successes = 0;
  uint64_t fetch_failures = 0;                // timeouts included
  uint64_t fetch_timeouts = 0;                // kFetchLimit
  uint64_t fetches_discarded = 0;             // answers that nobody wanted any more (forgotten, or too late)
  std::chrono::nanoseconds fetch_time_sum{};  // over successes and failures
  uint64_t waits = 0;                         // callers that had to wait
  uint64_t wait_timeouts = 0;                 // kCertificateWaitLimit
  uint64_t root_changes = 0;                  // the trust bundle was replaced by another
  uint64_t expirations = 0;                   // a certificate ran out with no successor
  uint64_t revocations = 0;                   // a certificate of ours was found revoked
  size_t identities = 0;                      // gauge
  size_t in_flight = 0;                       // gauge: slots taken, at most kMaxFetchesInFlight
  size_t queued = 0;                          // gauge: due, waiting for a slot
  size_t waiting = 0;                         // gauge: callers
  struct Expiry {
    std::string identity;
    WallTime not_after;
  };
  std::vector<Expiry> expiries;  // of identities that have a certificate, in no order
};

// The node's certificates: one per identity, fetched on demand or ahead of it, renewed at half life, kept
// through CA failures for as long as they are valid, never served once expired (contract §7.5; §14 #11, #12,
// #24 and #25 for what differs from it).
//
// Threads: everything, construction and destruction included, happens on the scheduler's (control) thread,
// and so do all callbacks; these may call the manager again, but not destroy it. Workers ask through a post
// to that thread, or better, keep what the listener tells them. Connections hold the shared_ptr they were set
// up with, so a rotation never touches an open one.
//
// Lifetime: CA and scheduler outlive the manager, and the scheduler outlives the CA, whose answers are posted
// to it. An answer that comes after the manager has gone is dropped.
class SecretManager {
 public:
  using Waiter = std::function<void(Result<Credentials>)>;
  // Told of every new certificate, of every identity's when the roots change, and with empty credentials when
  // an identity that had a certificate is forgotten or its certificate runs out.
  using Listener = std::function<void(const SpiffeId&, const Credentials&)>;
  // Uniform in [-1, 1]; spreads renewals and retries. Default: a generator seeded by the system.
  using Jitter = std::function<double()>;

  SecretManager(CaClient& ca, Scheduler& scheduler, Jitter jitter = {});
  ~SecretManager();  // answers those who wait, with an error
  SecretManager(const SecretManager&) = delete;
  SecretManager& operator=(const SecretManager&) = delete;

  // For a connection that needs it now. `done` is called exactly once: by get() itself if a valid certificate
  // is at hand, else when the fetch under way (or the next, hastened one) ends, at the latest after
  // kCertificateWaitLimit. Errors: kIdentityTimeout, kIdentityUnavailable, kResourceLimit.
  void get(const SpiffeId& id, Waiter done);
  // A valid certificate if there is one (else kIdentityUnavailable); starts nothing.
  [[nodiscard]] Result<Credentials> current(const SpiffeId& id) const;
  // For a workload that will need it soon. Nothing happens if the identity is known already.
  void prefetch(const SpiffeId& id);
  // No workload here uses it any more: drops the certificate, discards a fetch under way, answers waiters
  // with an error.
  void forget(const SpiffeId& id);

  // Our own certificates are checked too (contract §14 #42): one that is revoked is dropped as if it had
  // expired, and another asked for. An answer of the CA that is revoked already counts as a failed fetch.
  void set_revocations(RevocationListsPtr lists);

  // `listener` first hears of every certificate there is, within this call. There is no unsubscribing: a
  // listener lives as long as the manager (a worker's posts to itself).
  void subscribe(Listener listener);

  [[nodiscard]] std::vector<IdentityStatus> snapshot() const;  // sorted by identity
  [[nodiscard]] SecretManagerStats stats() const;

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;  // the CA's answers know it weakly
};

}  // namespace zt::identity
