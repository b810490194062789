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
#include "identity/scheduler.h"
#include "identity/spiffe_id.h"

namespace zt::identity {

inline constexpr size_t kMaxFetchesInFlight = 8;  // contract §7.5
inline constexpr std::chrono::seconds kCertificateWaitLimit{
    10};                                                // a caller without certificate waits no longer
inline constexpr std::chrono::seconds kFetchLimit{30};  // an unanswered fetch gives its slot back
inline constexpr std::chrono::seconds kRealTimeRetryMin{
    1};  // a caller's request shortens a retry to no less,
inline constexpr std::chrono::seconds kRealTimeRetryMax{5};      // growing to this while failures go on
inline constexpr std::chrono::minutes kClockRecheckInterval{5};  // notices a stepped wall clock
inline constexpr std::chrono::seconds kRootChangeSpread{
    10};  // over which certificates of a dropped root are renewed
inline constexpr size_t kMaxWaitersPerIdentity = 16384;
inline constexpr size_t kMaxIdentities = 65536;

// Order in which fetches get a slot: a connection waits < somebody will soon connect < the one we have still
// works.
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
  uint64_t fetch_failures = 0;                // incl. timeouts
  uint64_t fetch_timeouts = 0;                // kFetchLimit
  uint64_t fetches_discarded = 0;             // answers nobody wanted any more (forgotten, or too late)
  std::chrono::nanoseconds fetch_time_sum{};  // over successes and failures
  uint64_t waits = 0;                         // callers that had to wait
  uint64_t wait_timeouts = 0;                 // kCertificateWaitLimit
  uint64_t root_changes = 0;                  // the trust bundle was replaced
  uint64_t expirations = 0;                   // a certificate ran out with no successor
  size_t in_flight = 0;
  size_t queued = 0;   // due, waiting for a slot
  size_t waiting = 0;  // callers waiting now
  struct Expiry {
    std::string identity;
    WallTime not_after;
  };
  std::vector<Expiry> expiries;  // one per identity that has a certificate
};

// The node's certificates: one per identity, fetched on demand or ahead of it, renewed at half life, kept
// through CA failures for as long as they are valid, never served once expired (contract §7.5, and §14 #11,
// #12, #24, #25 for what is better here).
//
// Threads: everything, construction and destruction included, happens on the scheduler's (control) thread,
// and so do all callbacks. Workers ask through a post to that thread, or better, keep what the change
// listener tells them. Connections hold the shared_ptr they were set up with, so a rotation never touches one
// that is open.
//
// Lifetime: `ca` and `scheduler` outlive the manager; answers of the CA that come after it are dropped.
class SecretManager {
 public:
  using Waiter = std::function<void(Result<Credentials>)>;
  // Called with every new certificate, for every identity when the roots change, and with empty credentials
  // when an identity is forgotten or its certificate ran out.
  using Listener = std::function<void(const SpiffeId&, const Credentials&)>;
  // Uniform in [-1, 1]; spreads refreshes and retries. Default: a seeded generator of its own.
  using Jitter = std::function<double()>;

  SecretManager(CaClient& ca, Scheduler& scheduler, Jitter jitter = {});
  ~SecretManager();
  SecretManager(const SecretManager&) = delete;
  SecretManager& operator=(const SecretManager&) = delete;

  // For a connection that needs it now. `done` is called exactly once, before get() returns if a valid
  // certificate is at hand or a limit is reached, else when the fetch under way (or the next, hastened one)
  // ends, at the latest after kCertificateWaitLimit. Errors: kIdentityTimeout, kIdentityUnavailable,
  // kResourceLimit.
  void get(const SpiffeId& id, Waiter done);
  // A valid certificate if there is one; starts nothing.
  [[nodiscard]] Result<Credentials> current(const SpiffeId& id) const;
  // For a workload that will need it soon. Nothing happens if the identity is known already.
  void prefetch(const SpiffeId& id);
  // No workload here uses it any more: drops the certificate, discards a fetch under way, answers waiters
  // with an error.
  void forget(const SpiffeId& id);

  // `listener` first hears of every certificate there is, within this call. Never removed: listeners live as
  // long as the manager.
  void subscribe(Listener listener);

  [[nodiscard]] std::vector<IdentityStatus> snapshot() const;  // sorted by identity
  [[nodiscard]] SecretManagerStats stats() const;

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;  // answers of the CA hold it weakly
};

}  // namespace zt::identity
