// Bytes of a SOCKS5 client: whatever it sends, in pieces as they are asked for.
#include <cstdlib>

#include "ztunnel/proxy/socks5.h"

using namespace zt::ztunnel::socks5;

namespace {
void require(bool holds) {
  if (!holds) std::abort();
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Conversation talk;
  std::span<const uint8_t> rest(data, size);
  while (talk.wanted() > 0 && talk.wanted() <= rest.size()) {
    const size_t wanted = talk.wanted();
    require(wanted <= Conversation::kMostWanted && !talk.request() && talk.refusal().empty());
    talk.take(rest.first(wanted));
    rest = rest.subspan(wanted);
    require(talk.output().size() <= 10);
  }
  if (talk.wanted() > 0) return 0;
  require(talk.request().has_value() == talk.refusal().empty());
  if (!talk.request()) return 0;
  require(talk.request()->port != 0);
  if (const auto* name = std::get_if<std::string>(&talk.request()->host))
    require(!name->empty() && name->size() <= kMostNameBytes && !name->ends_with('.'));
  return 0;
}
