#include <algorithm>
#include <utility>

#include "identity/chain_verify.h"
#include "identity/log_scope.h"
#include "identity/secret_manager_impl.h"
#include "identity/secret_schedule.h"
#include "mesh/reason.h"

namespace zt::identity {

// ---- answers of the CA

void SecretManager::Impl::answered(uint64_t flight_number, Result<CertificatePtr> result) {
  const auto flight = flights_.find(flight_number);
  if (flight == flights_.end()) {  // given up before
    ++stats_.fetches_discarded;
    return;
  }
  const Flight done = std::move(flight->second);
  flights_.erase(flight);
  settle(done.id, flight_number, done.start, std::move(result));
}

void SecretManager::Impl::give_up(uint64_t flight_number) {
  const auto flight = flights_.find(flight_number);
  const Flight done = std::move(flight->second);
  flights_.erase(flight);
  ++stats_.fetch_timeouts;
  settle(done.id, flight_number, done.start,
         fail(Reason::kIdentityTimeout, "the CA did not answer within " + std::to_string(kFetchLimit.count()) + " s"));
}

void SecretManager::Impl::settle(const SpiffeId& id, uint64_t flight_number, Clock::time_point started,
                                 Result<CertificatePtr> result) {
  if (result && !*result) result = fail(Reason::kInternal, "the CA answered with nothing");
  if (result && (*result)->expired(scheduler_.wall_now()))
    result = fail(Reason::kIdentityUnavailable, "the CA gave a certificate that expired at " +
                                                    rfc3339_seconds((*result)->not_after()) + " (is our clock right?)");
  if (result) {
    if (auto why = revoked(**result, *(*result)->roots())) {
      ++stats_.revocations;
      result = fail(Reason::kCertRevoked, "the CA gave a certificate that cannot be used: " + *why);
    }
  }
  ++(result ? stats_.fetch_successes : stats_.fetch_failures);
  stats_.fetch_time_sum += scheduler_.now() - started;

  Entry* entry = find(id);
  const bool wanted = entry != nullptr && entry->phase == Phase::kFetching && entry->flight == flight_number;
  if (!wanted) {
    ++stats_.fetches_discarded;  // forgotten meanwhile, and perhaps asked for anew
  } else {
    entry->last_answer = scheduler_.now();
    if (result)
      succeeded(*entry, started, std::move(*result));
    else
      failed(*entry, std::move(result.error().text));
  }
  pump();
  flush();
}

void SecretManager::Impl::succeeded(Entry& entry, Clock::time_point started, CertificatePtr certificate) {
  const WallTime wall_now = scheduler_.wall_now();
  entry.certificate = std::move(certificate);
  entry.was_valid = entry.certificate->not_before() <= wall_now;
  entry.error.clear();
  entry.failures = 0;
  const auto delay = refresh_delay(entry.certificate->not_before(), entry.certificate->not_after(), wall_now, jitter_());
  schedule_fetch(entry, delay, wall_now + delay);
  arm_expiry_timer(entry);
  ZT_LOG(log_scope, kDebug, "certificate is available", Field::string("identity", entry.id.to_string()),
         Field::bare("expires", rfc3339_seconds(entry.certificate->not_after())));

  apply_roots(entry, started);
  answer_waiters(entry, credentials(entry));
}

void SecretManager::Impl::failed(Entry& entry, std::string text) {
  ++entry.failures;
  entry.error = std::move(text);
  const auto delay = retry_delay(entry.failures, jitter_());
  schedule_fetch(entry, delay);
  if (entry.certificate && !usable(entry)) expire(entry);
  ZT_LOG(log_scope, kWarn, entry.certificate ? "cannot renew a certificate; keeping the one we have" : "cannot get a certificate",
         Field::string("identity", entry.id.to_string()), Field::string("error", entry.error),
         Field::count("failures", entry.failures), Field::count("retry_ms", delay.count()));
  answer_waiters(entry,
                 fail(Reason::kIdentityUnavailable, "cannot get a certificate for " + entry.id.to_string() + ": " + entry.error));
}

void SecretManager::Impl::arm_expiry_timer(Entry& entry) {
  const auto left = std::max(entry.certificate->not_after() - scheduler_.wall_now(), std::chrono::milliseconds::zero());
  entry.expiry_timer = scheduler_.after(std::min<std::chrono::milliseconds>(left, kClockRecheckInterval), [this, &entry] {
    if (usable(entry)) {
      arm_expiry_timer(entry);
      renew_if_not_yet_valid(entry);
    } else {
      expire(entry);
    }
    pump();
    flush();
  });
}

// Our clock was ahead when the certificate was issued and has been put right: peers will refuse it for as
// long as it was ahead. Not if it came that way: then our clock is behind the CA's, and another would be no
// better.
void SecretManager::Impl::renew_if_not_yet_valid(Entry& entry) {
  if (!entry.was_valid || entry.certificate->not_before() <= scheduler_.wall_now()) return;
  if (entry.phase == Phase::kWaiting && entry.failures == 0) enqueue(entry, priority_of(entry));
}

void SecretManager::Impl::expire(Entry& entry) {
  const std::string when = rfc3339_seconds(entry.certificate->not_after());
  ++stats_.expirations;
  ZT_LOG(log_scope, kError, "a certificate expired before it could be renewed", Field::string("identity", entry.id.to_string()),
         Field::bare("expired", when));
  drop(entry, "the certificate expired at " + when);
}

// `why` is what callers are told until a fetch has failed for another reason.
void SecretManager::Impl::drop(Entry& entry, std::string why) {
  entry.certificate.reset();
  entry.expiry_timer.reset();
  if (entry.error.empty()) entry.error = std::move(why);
  notify(entry, {});
  if (entry.phase == Phase::kWaiting) hasten(entry);  // contract §7.5: retry at min(back-off, expiry)
}

// ---- revocation

// The chain that a peer will build: to one of the roots that came with the certificate.
std::optional<std::string> SecretManager::Impl::revoked(const WorkloadCertificate& certificate, const TrustBundle& roots) const {
  if (!revocations_ || revocations_->entries() == 0) return std::nullopt;
  const auto chain = verify_chain(certificate.leaf(), certificate.intermediates(), roots, scheduler_.wall_now());
  // A chain that leads nowhere is the peers' to refuse.
  const X509* const found = chain ? revocations_->revoked_in(*chain) : nullptr;
  if (found == nullptr) return std::nullopt;
  return revoked_text(found);
}

void SecretManager::Impl::set_revocations(RevocationListsPtr lists) {
  revocations_ = std::move(lists);
  for (const auto& [id, entry] : entries_) {
    if (!usable(*entry)) continue;
    const auto why = revoked(*entry->certificate, *entry->certificate->roots());
    if (!why) continue;
    ++stats_.revocations;
    ZT_LOG(log_scope, kError, "a certificate of ours is revoked; asking for another",
           Field::string("identity", entry->id.to_string()), Field::string("cause", *why));
    drop(*entry, *why);
  }
  pump();
  flush();
}

// ---- roots

// What listeners hear after a new certificate: of it alone, or of all when it brought other roots.
void SecretManager::Impl::apply_roots(Entry& entry, Clock::time_point started) {
  const auto outcome = roots_.offer(*entry.certificate, started, scheduler_.now());
  if (outcome != NewestRoots::Outcome::kReplaced) {
    notify(entry, credentials(entry));
    if (outcome == NewestRoots::Outcome::kOlder) renew_if_untrusted(entry);
    return;
  }
  ++stats_.root_changes;
  ZT_LOG(log_scope, kInfo, "the CA has new roots; they apply to all identities now",
         Field::count("roots", static_cast<int64_t>(roots_.bundle()->roots().size())));
  for (const auto& [id, other] : entries_) {
    if (!usable(*other)) continue;
    notify(*other, credentials(*other));
    renew_if_untrusted(*other);
  }
}

// Peers that know the new roots refuse a certificate that leads only to an old one: do not wait for its half
// life.
void SecretManager::Impl::renew_if_untrusted(Entry& entry) {
  if (entry.phase != Phase::kWaiting) return;
  const auto& certificate = *entry.certificate;
  if (verify_chain(certificate.leaf(), certificate.intermediates(), *roots_.bundle(), scheduler_.wall_now())) return;
  const auto now = scheduler_.now();
  const auto spread = std::chrono::duration_cast<Clock::duration>(kRootChangeSpread * ((jitter_() + 1.0) / 2.0));
  const auto due = std::max<Clock::time_point>(now, entry.last_answer + kRootRenewalInterval) + spread;
  if (due < entry.due) schedule_fetch(entry, due - now, entry.wall_due);
}

// ---- callbacks

void SecretManager::Impl::arm_waiters_timer(Entry& entry) {
  entry.waiters_timer =
      scheduler_.after(entry.waiters.front().deadline - scheduler_.now(), [this, &entry] { time_out_waiters(entry); });
}

void SecretManager::Impl::time_out_waiters(Entry& entry) {
  const auto now = scheduler_.now();
  const std::string text = "the certificate of " + entry.id.to_string() + " did not come within " +
                           std::to_string(kCertificateWaitLimit.count()) + " s" +
                           (entry.error.empty() ? "" : "; before that: " + entry.error);
  while (!entry.waiters.empty() && entry.waiters.front().deadline <= now) {
    outbox_.emplace_back([done = std::move(entry.waiters.front().done), text] { done(fail(Reason::kIdentityTimeout, text)); });
    entry.waiters.pop_front();
    ++stats_.wait_timeouts;
  }
  if (entry.waiters.empty())
    entry.waiters_timer.reset();
  else
    arm_waiters_timer(entry);
  flush();
}

void SecretManager::Impl::answer_waiters(Entry& entry, const Result<Credentials>& answer) {
  for (WaitingCaller& waiter : std::exchange(entry.waiters, {}))
    outbox_.emplace_back([done = std::move(waiter.done), answer] { done(answer); });
  entry.waiters_timer.reset();
}

void SecretManager::Impl::notify(const Entry& entry, Credentials now) {
  outbox_.emplace_back([this, id = entry.id, now = std::move(now)] {
    for (size_t i = 0; i < listeners_.size(); ++i) listeners_[i](id, now);  // one may subscribe another
  });
}

void SecretManager::Impl::flush() {
  if (flushing_) return;  // called from a callback: the outer turn goes on
  flushing_ = true;
  while (!outbox_.empty())
    for (const auto& call : std::exchange(outbox_, {})) call();
  flushing_ = false;
}

}  // namespace zt::identity
