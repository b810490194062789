#include "ztunnel/proxy/worker.h"

#include <pthread.h>

#include "base/log.h"
#include "mesh/reason.h"
#include "workload_api/xds/on_demand.h"

namespace zt::ztunnel {

namespace {
log::Scope kLog("proxy");
// How long one turn goes on holding a new snapshot against what is open.
constexpr std::chrono::microseconds kSweepTurn{200};
// find_source(): no policy depends on the answer (they look at the address and at what TLS proved), so it is worth the round
// trip to a control plane that is well, once, and not a time-out (WorkerSettings::source_wait; the peer waits without limit).
constexpr std::chrono::seconds kAskAgain{60};
}  // namespace

Worker::Worker(size_t index, const WorkerSettings& settings, Metrics& metrics, CertificateRequest certificates,
               LookupRequest lookups)
    : index_(index),
      settings_(settings),
      metrics_(metrics),
      io_(loop_, settings.memory_budget_per_worker),
      tls_(*this, std::move(certificates)),
      lookups_(std::move(lookups)),
      snapshot_(std::make_shared<const workload_api::Snapshot>()) {}

Worker::~Worker() { stop(); }

void Worker::start() {
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), ("ztunnel-" + std::to_string(index_)).c_str());
    loop_.run();
  });
}

void Worker::stop() {
  if (!thread_.joinable()) return;
  loop_.stop();
  thread_.join();
}

void Worker::publish(workload_api::SnapshotPtr snapshot) {
  loop_.post([this, snapshot = std::move(snapshot)]() mutable { take_snapshot(std::move(snapshot)); });
}

Task<void> Worker::look_up(std::string key, Clock::duration limit) {
  const auto answered = std::make_shared<Event>();
  lookups_(std::move(key), [this, answered] { post([answered] { answered->set(); }); });
  co_await answered->wait(loop_, limit);
}

Task<void> Worker::find_source(IpAddress ip) {
  return ask(asked_sources_, settings_.network + "/" + ip.to_string(), settings_.source_wait,
             [this, ip] { return snapshot_->workload(settings_.network, ip) != nullptr; });
}

Task<void> Worker::find_service(std::string ns, std::string host) {
  std::string key = ns + "/" + host;
  return ask(asked_services_, std::move(key), workload_api::kLookupLimit,
             [this, ns = std::move(ns), host = std::move(host)] { return snapshot_->service_by_hostname(host, ns) != nullptr; });
}

Task<void> Worker::ask(AskedKeys& keys, std::string key, Clock::duration limit, std::function<bool()> known) {
  if (known()) co_return;
  const auto now = Clock::now();
  const auto is_old = [now](const auto& entry) { return now - entry.second.when >= kAskAgain; };
  auto asked = keys.find(key);
  if (asked == keys.end() || is_old(*asked)) {
    if (keys.size() >= kMaxAsked) std::erase_if(keys, is_old);
    if (keys.size() >= kMaxAsked) co_return;
    asked = keys.insert_or_assign(key, Asked{now, std::make_shared<Event>()}).first;
    lookups_(key, [this, answered = asked->second.answered] { post([answered] { answered->set(); }); });
  }
  // Those who ask for it meanwhile wait for the same answer, and no longer than the first.
  const auto [when, answered] = asked->second;
  if (const auto left = when + limit - now; left > Clock::duration::zero()) co_await answered->wait(loop_, left);
  // From here on the control plane tells us about it unasked.
  if (known()) keys.erase(key);
}

void Worker::take_snapshot(workload_api::SnapshotPtr snapshot) {
  snapshot_ = std::move(snapshot);
  // Waiters may wait again at once: they get a new event.
  auto changed = std::exchange(snapshot_changed_, std::make_shared<Event>());
  changed->set();
  for (auto& [key, listener] : listeners_) {
    if (!std::exchange(listener.queued, true)) {
      sweep_.push_back(key);
    } else if (listener.begun) {
      listener.again = true;  // after the others: snapshots that come fast must not keep the last of them from its turn
    }
  }
  sweep();
}

void Worker::sweep() {
  const auto until = Clock::now() + kSweepTurn;
  while (!sweep_.empty()) {
    SnapshotListener& listener = listeners_.at(sweep_.front());
    if (listener.step(*snapshot_, !std::exchange(listener.begun, true))) {
      void* const key = sweep_.front();
      sweep_.pop_front();
      listener.begun = false;
      listener.queued = std::exchange(listener.again, false);
      if (listener.queued) sweep_.push_back(key);
    }
    if (Clock::now() >= until) break;
  }
  if (!sweep_.empty()) sweep_timer_.start_after(Clock::duration::zero(), [this] { sweep(); });
}

void Worker::forget_listener(void* key) {
  listeners_.erase(key);
  std::erase(sweep_, key);
}

Task<Result<std::shared_ptr<const hbone::TlsContext>>> TlsContexts::get(identity::SpiffeId id, hbone::TlsRole role) {
  const auto deadline = Clock::now() + worker_.settings().certificate_timeout;
  for (;;) {
    Entry& entry = entries_[id];
    if (entry.credentials.certificate && !entry.credentials.certificate->expired(
                                             std::chrono::floor<std::chrono::milliseconds>(std::chrono::system_clock::now()))) {
      auto& context = entry.contexts[static_cast<size_t>(role)];
      if (!context) {
        const auto& certificate = *entry.credentials.certificate;
        std::vector<X509*> intermediates, roots;
        for (const auto& each : certificate.intermediates()) intermediates.push_back(each.get());
        for (const auto& each : entry.credentials.trust->roots()) roots.push_back(each.get());
        hbone::TlsOptions options = worker_.settings().tls;
        options.verified_peers = verified_peers_;
        // Whoever keeps chains does so for revocation.
        if (options.keep_peer_chain) {
          options.chain_check = [this, role](std::span<const identity::X509Ptr> chain) { return check_revocation(chain, role); };
        }
        auto made = hbone::TlsContext::make(
            role, {.leaf = certificate.leaf(), .intermediates = intermediates, .key = certificate.private_key(), .roots = roots},
            options);
        if (!made) co_return fail(Reason::kIdentityUnavailable, "identity error: " + made.error().text);
        context = std::move(*made);
      }
      co_return context;
    }
    if (!entry.waiting) {
      entry.waiting = std::make_shared<Event>();
      entry.error.reset();
      // The answer comes on the control thread and is posted back here. The worker outlives the control thread's last post.
      request_(id, [this, id](Result<identity::Credentials> result) {
        worker_.post([this, id, result = std::move(result)]() mutable {
          Entry& answered = entries_[id];
          if (result) {
            update(id, *result);
          } else {
            answered.error = std::move(result).error();
          }
          if (auto waiting = std::exchange(answered.waiting, nullptr)) waiting->set();
        });
      });
    }
    const std::shared_ptr<Event> waiting = entry.waiting;
    if (waiting) {
      const auto left = deadline - Clock::now();
      if (left <= Clock::duration::zero() || !co_await waiting->wait(worker_.loop(), left)) {
        co_return fail(Reason::kIdentityTimeout, "identity error: no certificate for " + id.to_string() + " in time");
      }
    }
    Entry& answered = entries_[id];
    if (answered.error) co_return fail(answered.error->reason, "identity error: " + answered.error->text);
  }
}

Result<> TlsContexts::check_revocation(std::span<const identity::X509Ptr> chain, hbone::TlsRole role) {
  const X509* const revoked = revocations_ ? revocations_->revoked_in(chain) : nullptr;
  if (revoked == nullptr) return {};
  worker_.metrics().crl_rejections.get({role == hbone::TlsRole::kServer ? "destination" : "source"}).add();
  return fail(Reason::kCertRevoked, "peer certificate revoked by CRL: " + identity::revoked_text(revoked));
}

void TlsContexts::update(const identity::SpiffeId& id, const identity::Credentials& credentials) {
  if (!credentials.certificate) {
    const auto known = entries_.find(id);
    if (known == entries_.end()) return;
    if (known->second.waiting) {
      known->second.credentials = {};
    } else {
      entries_.erase(known);
    }
    return;
  }
  Entry& entry = entries_[id];
  if (entry.credentials.certificate == credentials.certificate && entry.credentials.trust == credentials.trust) return;
  entry.credentials = credentials;
  entry.error.reset();
  // Connections that are open keep theirs.
  for (auto& context : entry.contexts) context.reset();
}

}  // namespace zt::ztunnel
