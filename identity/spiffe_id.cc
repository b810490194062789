#include "identity/spiffe_id.h"

#include "mesh/spiffe.h"

namespace zt::identity {

Result<SpiffeId> SpiffeId::parse(std::string_view text) {
  ZT_ASSIGN(const SpiffeView id, SpiffeView::parse(text));
  return SpiffeId{std::string(id.trust_domain), std::string(id.ns), std::string(id.service_account)};
}

std::string SpiffeId::to_string() const { return spiffe_id(trust_domain, namespace_, service_account); }

}  // namespace zt::identity
