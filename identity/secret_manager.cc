#include "identity/secret_manager.h"

#include <algorithm>
#include <utility>

#include "base/backoff.h"
#include "identity/log_scope.h"
#include "identity/secret_manager_impl.h"
#include "identity/secret_schedule.h"
#include "mesh/reason.h"

namespace zt::identity {
namespace {

SecretManager::Jitter default_jitter() {
  return [random = Backoff::any_random()] { return 2 * random() - 1; };
}

}  // namespace

// ---- what callers do

void SecretManager::Impl::get(const SpiffeId& id, Waiter done) {
  Entry* entry = find(id);
  if (entry != nullptr && usable(*entry)) return done(credentials(*entry));
  if (entry == nullptr) entry = add(id);
  if (entry == nullptr)
    return done(fail(Reason::kResourceLimit, "more than " + std::to_string(kMaxIdentities) + " identities on this node"));
  if (entry->waiters.size() >= kMaxWaitersPerIdentity)
    return done(fail(Reason::kResourceLimit, "too many connections wait for the certificate of " + id.to_string()));

  entry->waiters.push_back({std::move(done), scheduler_.now() + kCertificateWaitLimit});
  ++stats_.waits;
  if (entry->waiters.size() == 1) arm_waiters_timer(*entry);
  if (entry->certificate) expire(*entry);  // its timer has yet to notice
  if (entry->phase == Phase::kQueued) raise(*entry, Priority::kRealTime);
  if (entry->phase == Phase::kWaiting) hasten(*entry);
  pump();
  flush();
}

Result<Credentials> SecretManager::Impl::current(const SpiffeId& id) const {
  const auto found = entries_.find(id);
  if (found != entries_.end() && usable(*found->second)) return credentials(*found->second);
  return fail(Reason::kIdentityUnavailable, "there is no valid certificate of " + id.to_string());
}

void SecretManager::Impl::prefetch(const SpiffeId& id) {
  if (Entry* known = find(id)) {
    if (known->phase == Phase::kQueued && !known->certificate) raise(*known, Priority::kWarmup);
    return;
  }
  Entry* entry = add(id);
  if (entry == nullptr) {
    ZT_LOG(log_scope, kWarn, "too many identities, not fetching", Field::string("identity", id.to_string()));
    return;
  }
  enqueue(*entry, Priority::kWarmup);
  pump();
}

void SecretManager::Impl::forget(const SpiffeId& id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  const std::unique_ptr<Entry> entry = std::move(found->second);
  entries_.erase(found);
  if (entry->phase == Phase::kQueued) queue_.erase(entry->queue_key);
  if (entry->certificate) notify(*entry, {});
  answer_waiters(*entry, fail(Reason::kIdentityUnavailable, "no workload here is " + id.to_string() + " any more"));
  flush();
}

void SecretManager::Impl::subscribe(Listener listener) {
  for (const auto& [id, entry] : entries_)
    if (usable(*entry)) outbox_.emplace_back([listener, entry_id = id, now = credentials(*entry)] { listener(entry_id, now); });
  listeners_.push_back(std::move(listener));
  flush();
}

void SecretManager::Impl::shut_down() {
  listeners_.clear();
  queue_.clear();
  flights_.clear();
  for (auto& [id, entry] : std::exchange(entries_, {}))
    answer_waiters(*entry, fail(Reason::kIdentityUnavailable, "the certificate store is shutting down"));
  flush();
}

// ---- entries

SecretManager::Impl::Entry* SecretManager::Impl::find(const SpiffeId& id) {
  const auto found = entries_.find(id);
  return found == entries_.end() ? nullptr : found->second.get();
}

SecretManager::Impl::Entry* SecretManager::Impl::add(const SpiffeId& id) {
  if (entries_.size() >= kMaxIdentities) return nullptr;
  auto& entry = entries_[id];
  entry = std::make_unique<Entry>();
  entry->id = id;
  return entry.get();
}

bool SecretManager::Impl::usable(const Entry& entry) const {
  return entry.certificate && !entry.certificate->expired(scheduler_.wall_now());
}

Priority SecretManager::Impl::priority_of(const Entry& entry) const {
  if (!entry.waiters.empty()) return Priority::kRealTime;
  return usable(entry) ? Priority::kBackground : Priority::kWarmup;
}

// ---- the queue

void SecretManager::Impl::enqueue(Entry& entry, Priority priority) {
  entry.fetch_timer.reset();
  entry.phase = Phase::kQueued;
  entry.queue_key = {-static_cast<int>(priority), next_number_++};
  queue_.emplace(entry.queue_key, &entry);
}

void SecretManager::Impl::raise(Entry& entry, Priority priority) {
  const int wanted = -static_cast<int>(priority);
  if (entry.queue_key.first <= wanted) return;
  queue_.erase(entry.queue_key);
  entry.queue_key.first = wanted;  // keeps its place in time
  queue_.emplace(entry.queue_key, &entry);
}

// There is no certificate and nothing is under way: fetch now, or as soon as the last failure allows.
void SecretManager::Impl::hasten(Entry& entry) {
  if (entry.failures > 0) {
    const auto now = scheduler_.now();
    const auto allowed = entry.last_answer + real_time_retry_delay(entry.failures, kRealTimeRetryMin, kRealTimeRetryMax);
    if (entry.due <= allowed) return;  // comes sooner by itself
    if (allowed > now) return schedule_fetch(entry, allowed - now);
  }
  enqueue(entry, priority_of(entry));
}

void SecretManager::Impl::schedule_fetch(Entry& entry, Clock::duration delay, WallTime wall_due) {
  entry.phase = Phase::kWaiting;
  entry.due = scheduler_.now() + delay;
  entry.wall_due = wall_due;
  arm_fetch_timer(entry);
}

void SecretManager::Impl::arm_fetch_timer(Entry& entry) {
  const Clock::duration left = entry.due - scheduler_.now();
  entry.fetch_timer = scheduler_.after(std::min<Clock::duration>(left, kClockRecheckInterval), [this, &entry] {
    if (scheduler_.now() < entry.due && scheduler_.wall_now() < entry.wall_due) return arm_fetch_timer(entry);
    enqueue(entry, priority_of(entry));
    pump();
  });
}

void SecretManager::Impl::pump() {
  while (flights_.size() < kMaxFetchesInFlight && !queue_.empty()) {
    Entry& entry = *queue_.begin()->second;
    queue_.erase(queue_.begin());
    const uint64_t number = next_number_++;
    entry.phase = Phase::kFetching;
    entry.flight = number;
    flights_.emplace(number,
                     Flight{entry.id, scheduler_.now(), scheduler_.after(kFetchLimit, [this, number] { give_up(number); })});
    ++stats_.fetches;
    ca_.fetch(entry.id, [weak = weak_from_this(), &scheduler = scheduler_, number](Result<CertificatePtr> result) {
      scheduler.post([weak, number, answer = std::move(result)]() mutable {
        if (const auto self = weak.lock()) self->answered(number, std::move(answer));
      });
    });
  }
}

// ---- for operators

std::vector<IdentityStatus> SecretManager::Impl::snapshot() const {
  std::vector<IdentityStatus> out;
  out.reserve(entries_.size());
  for (const auto& [id, entry] : entries_) {
    const bool available = usable(*entry);
    std::string state = available              ? "Available"
                        : entry->certificate   ? "Unavailable: the certificate has expired"
                        : entry->error.empty() ? "Initializing"
                                               : "Unavailable: " + entry->error;
    out.push_back({id.to_string(), std::move(state), available ? credentials(*entry) : Credentials{}});
  }
  std::ranges::sort(out, {}, &IdentityStatus::identity);
  return out;
}

SecretManagerStats SecretManager::Impl::stats() const {
  SecretManagerStats out = stats_;
  out.identities = entries_.size();
  out.in_flight = flights_.size();
  out.queued = queue_.size();
  for (const auto& [id, entry] : entries_) {
    out.waiting += entry->waiters.size();
    if (entry->certificate) out.expiries.push_back({id.to_string(), entry->certificate->not_after()});
  }
  return out;
}

// ---- the public face

SecretManager::SecretManager(CaClient& ca, Scheduler& scheduler, Jitter jitter)
    : impl_(std::make_shared<Impl>(ca, scheduler, jitter ? std::move(jitter) : default_jitter())) {}
SecretManager::~SecretManager() { impl_->shut_down(); }

void SecretManager::get(const SpiffeId& id, Waiter done) { impl_->get(id, std::move(done)); }
Result<Credentials> SecretManager::current(const SpiffeId& id) const { return impl_->current(id); }
void SecretManager::prefetch(const SpiffeId& id) { impl_->prefetch(id); }
void SecretManager::forget(const SpiffeId& id) { impl_->forget(id); }
void SecretManager::set_revocations(RevocationListsPtr lists) { impl_->set_revocations(std::move(lists)); }
void SecretManager::subscribe(Listener listener) { impl_->subscribe(std::move(listener)); }
std::vector<IdentityStatus> SecretManager::snapshot() const { return impl_->snapshot(); }
SecretManagerStats SecretManager::stats() const { return impl_->stats(); }

}  // namespace zt::identity
