#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "identity/newest_roots.h"
#include "identity/secret_manager.h"

// Private to secret_manager.cc (callers, queue) and secret_manager_answers.cc (what comes back, and what is
// told of it).
namespace zt::identity {

// Each identity is in one phase: waiting (for its refresh, its retry, or to be asked), queued for a slot, or
// being fetched. Callbacks to the outside are collected in an outbox and run last, so that they find (and may
// change) a settled state.
class SecretManager::Impl : public std::enable_shared_from_this<Impl> {
 public:
  using Clock = Scheduler::Clock;

  Impl(CaClient& ca, Scheduler& scheduler, Jitter jitter) : ca_(ca), scheduler_(scheduler), jitter_(std::move(jitter)) {}

  void get(const SpiffeId& id, Waiter done);
  Result<Credentials> current(const SpiffeId& id) const;
  void prefetch(const SpiffeId& id);
  void forget(const SpiffeId& id);
  void set_revocations(RevocationListsPtr lists);
  void subscribe(Listener listener);
  void shut_down();
  std::vector<IdentityStatus> snapshot() const;
  SecretManagerStats stats() const;

 private:
  enum class Phase : uint8_t { kWaiting, kQueued, kFetching };
  struct WaitingCaller {
    Waiter done;
    Clock::time_point deadline;
  };
  using QueueKey = std::pair<int, uint64_t>;  // (-priority, order of arrival)
  struct Entry {
    SpiffeId id;
    CertificatePtr certificate;  // dropped when it expires
    bool was_valid = false;      // by our clock, when it came
    std::string error;           // of the last fetch, if that failed
    uint32_t failures = 0;       // in a row
    Phase phase = Phase::kWaiting;
    QueueKey queue_key;                    // while queued
    uint64_t flight = 0;                   // while being fetched
    Clock::time_point last_answer;         // of the CA, good or bad
    Clock::time_point due;                 // while waiting: next fetch
    WallTime wall_due = WallTime::max();   // the same by the wall clock, whichever comes first
    Scheduler::TimerHandle fetch_timer;    // while waiting
    Scheduler::TimerHandle expiry_timer;   // while there is a certificate
    Scheduler::TimerHandle waiters_timer;  // while somebody waits
    std::deque<WaitingCaller> waiters;     // deadlines ascend
  };
  struct Flight {
    SpiffeId id;
    Clock::time_point start;
    Scheduler::TimerHandle limit;
  };

  Entry* find(const SpiffeId& id);
  Entry* add(const SpiffeId& id);  // nothing if there are too many
  bool usable(const Entry& entry) const;
  Priority priority_of(const Entry& entry) const;
  Credentials credentials(const Entry& entry) const { return {entry.certificate, roots_.bundle()}; }

  void enqueue(Entry& entry, Priority priority);
  void raise(Entry& entry, Priority priority);
  void hasten(Entry& entry);
  void schedule_fetch(Entry& entry, Clock::duration delay, WallTime wall_due = WallTime::max());
  void arm_fetch_timer(Entry& entry);
  void arm_expiry_timer(Entry& entry);
  void arm_waiters_timer(Entry& entry);
  void pump();

  void answered(uint64_t flight_number, Result<CertificatePtr> result);
  void give_up(uint64_t flight_number);
  void settle(const SpiffeId& id, uint64_t flight_number, Clock::time_point started, Result<CertificatePtr> result);
  void succeeded(Entry& entry, Clock::time_point started, CertificatePtr certificate);
  void failed(Entry& entry, std::string text);
  void expire(Entry& entry);
  void drop(Entry& entry, std::string why);
  void renew_if_not_yet_valid(Entry& entry);
  // Why `certificate` must not be used, if it is revoked.
  std::optional<std::string> revoked(const WorkloadCertificate& certificate, const TrustBundle& roots) const;
  void apply_roots(Entry& entry, Clock::time_point started);
  void renew_if_untrusted(Entry& entry);

  void time_out_waiters(Entry& entry);
  void answer_waiters(Entry& entry, const Result<Credentials>& answer);
  void notify(const Entry& entry, Credentials credentials);
  void flush();

  CaClient& ca_;
  Scheduler& scheduler_;
  Jitter jitter_;
  std::unordered_map<SpiffeId, std::unique_ptr<Entry>> entries_;
  std::map<QueueKey, Entry*> queue_;
  std::unordered_map<uint64_t, Flight> flights_;
  uint64_t next_number_ = 1;

  NewestRoots roots_;
  RevocationListsPtr revocations_;

  std::vector<Listener> listeners_;
  std::vector<std::function<void()>> outbox_;
  bool flushing_ = false;
  SecretManagerStats stats_;  // counters only; gauges are read off
};

}  // namespace zt::identity
