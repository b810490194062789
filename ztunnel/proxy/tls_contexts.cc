#include "ztunnel/proxy/tls_contexts.h"

#include "mesh/reason.h"
#include "ztunnel/proxy/stopwatch.h"

namespace zt::ztunnel {

Task<Result<std::shared_ptr<const hbone::TlsContext>>> TlsContexts::get(identity::SpiffeId id, hbone::TlsRole role) {
  thread_.check();
  const auto deadline = Clock::now() + settings_.certificate_timeout;
  for (;;) {
    Entry& entry = entries_[id];
    if (entry.credentials.certificate && !entry.credentials.certificate->expired(
                                             std::chrono::floor<std::chrono::milliseconds>(std::chrono::system_clock::now()))) {
      auto& context = entry.contexts[static_cast<size_t>(role)];
      if (!context) {
        auto made = bind(entry, role);
        if (!made) co_return std::unexpected(std::move(made).error());
        context = std::move(*made);
      }
      co_return context;
    }
    if (!entry.waiting) {
      entry.waiting = std::make_shared<Event>();
      entry.error.reset();
      request_(id, ticket_.on_answer([this, id](Result<identity::Credentials> result) {
        Entry& answered = entries_[id];
        if (result) {
          update(id, *result);
        } else {
          answered.error = std::move(result).error();
        }
        if (auto waiting = std::exchange(answered.waiting, nullptr)) waiting->set();
      }));
    }
    const std::shared_ptr<Event> waiting = entry.waiting;
    if (waiting) {
      const auto left = deadline - Clock::now();
      const Stopwatch watch;
      const bool came = left > Clock::duration::zero() && co_await waiting->wait(loop_, left);
      watch.stop(metrics_.times.certificate_wait);
      if (!came) {
        co_return fail(Reason::kIdentityTimeout, "identity error: no certificate for " + id.to_string() + " in time");
      }
    }
    Entry& answered = entries_[id];
    if (answered.error) co_return fail(answered.error->reason, "identity error: " + answered.error->text);
  }
}

Result<std::shared_ptr<const hbone::TlsContext>> TlsContexts::bind(Entry& entry, hbone::TlsRole role) {
  auto& shared = entry.shared[static_cast<size_t>(role)];
  ZT_ASSIGN(shared, settings_.shared_contexts->get(entry.credentials, role, settings_.tls));
  // Whoever keeps chains does so for revocation.
  hbone::ChainCheck check;
  if (settings_.tls.keep_peer_chain) {
    check = [this, role](std::span<const identity::X509Ptr> chain) { return check_revocation(chain, role); };
  }
  return shared->bound_to(std::move(check), verified_peers_);
}

Result<> TlsContexts::check_revocation(std::span<const identity::X509Ptr> chain, hbone::TlsRole role) {
  const X509* const revoked = revocations_ ? revocations_->revoked_in(chain) : nullptr;
  if (revoked == nullptr) return {};
  metrics_.crl_rejections.get({role == hbone::TlsRole::kServer ? "destination" : "source"}).add();
  return fail(Reason::kCertRevoked, "peer certificate revoked by CRL: " + identity::revoked_text(revoked));
}

void TlsContexts::update(const identity::SpiffeId& id, const identity::Credentials& credentials) {
  thread_.check();
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
  for (auto* contexts : {&entry.shared, &entry.contexts}) {
    for (auto& context : *contexts) context.reset();
  }
}

}  // namespace zt::ztunnel
