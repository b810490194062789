#include "ztunnel/proxy/shared_tls_contexts.h"

#include "mesh/reason.h"

namespace zt::ztunnel {

Result<std::shared_ptr<const hbone::TlsContext>> SharedTlsContexts::get(const identity::Credentials& credentials,
                                                                        hbone::TlsRole role, const hbone::TlsOptions& options) {
  const std::lock_guard lock(mutex_);
  std::erase_if(contexts_, [](const Shared& each) { return each.context.expired(); });
  for (const Shared& each : contexts_) {
    if (each.credentials.certificate != credentials.certificate || each.credentials.trust != credentials.trust ||
        each.role != role)
      continue;
    if (auto context = each.context.lock()) return context;
  }
  const auto& certificate = *credentials.certificate;
  std::vector<X509*> intermediates, roots;
  for (const auto& each : certificate.intermediates()) intermediates.push_back(each.get());
  for (const auto& each : credentials.trust->roots()) roots.push_back(each.get());
  auto made = hbone::TlsContext::make(
      role, {.leaf = certificate.leaf(), .intermediates = intermediates, .key = certificate.private_key(), .roots = roots},
      options);
  if (!made) return fail(Reason::kIdentityUnavailable, "identity error: " + made.error().text);
  contexts_.push_back({.credentials = credentials, .role = role, .context = *made});
  return std::move(*made);
}

}  // namespace zt::ztunnel
