#include "workload_api/store/interner.h"

#include <algorithm>

namespace zt::workload_api {

void Interner::intern(Str& text) {
  if (text.interned()) return;
  make_room();
  const auto [shared, first] = texts_.insert(text);
  if (first) {
    text.mark_interned();
  } else {
    text = *shared;
  }
}

Str Interner::make(std::string_view text) {
  if (text.empty()) return {};
  if (const auto shared = texts_.find(text); shared != texts_.end()) return *shared;
  make_room();
  const auto made = texts_.emplace(text).first;
  made->mark_interned();
  return *made;
}

void Interner::make_room() {
  if (texts_.size() < sweep_at_) return;
  sweep();
  // Unless that freed a good part, the next one must not come too soon to be cheap per text.
  if (texts_.size() * 2 > sweep_at_) sweep_at_ *= 2;
}

void Interner::sweep() {
  absl::erase_if(texts_, [](const Str& text) { return text.unshared(); });
  sweep_at_ = std::max(kFirstSweep, std::min(sweep_at_, texts_.size() * 8));
  if (texts_.size() * 8 < texts_.capacity()) texts_.rehash(0);  // any other number would only ever grow it
}

}  // namespace zt::workload_api
