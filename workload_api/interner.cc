#include "workload_api/interner.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace zt::workload_api {

size_t Interner::slot_of(std::string_view text) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = std::hash<std::string_view>{}(text)&mask;
  while (!slots_[slot].empty() && slots_[slot].view() != text) slot = (slot + 1) & mask;
  return slot;
}

void Interner::intern(Str& text) {
  if (text.interned()) return;
  make_room();
  Str& shared = slots_[slot_of(text.view())];
  if (shared.empty()) {
    text.mark_interned();
    shared = text;
    ++used_;
  } else {
    text = shared;
  }
}

Str Interner::make(std::string_view text) {
  if (text.empty()) return {};
  make_room();
  Str& shared = slots_[slot_of(text)];
  if (shared.empty()) {
    shared = Str(text);
    shared.mark_interned();
    ++used_;
  }
  return shared;
}

void Interner::make_room() {
  if ((used_ + 1) * 2 <= slots_.size()) return;
  sweep();
  // Unless the sweep freed a good part, grow: otherwise the next one would come too soon to be cheap per
  // text.
  if ((used_ + 1) * 4 > slots_.size()) rebuild(std::max(kMinSlots, slots_.size() * 2));
}

void Interner::sweep() {
  const size_t before = slots_.size();
  std::vector<Str> kept;
  for (Str& text : slots_)
    if (!text.empty() && !text.unshared()) kept.push_back(std::move(text));
  used_ = kept.size();
  size_t size = before;
  while (size > kMinSlots && used_ * 8 < size) size /= 2;
  slots_.clear();
  slots_.resize(size);
  if (size < before) slots_.shrink_to_fit();
  for (Str& text : kept) {
    const size_t slot = slot_of(text.view());
    slots_[slot] = std::move(text);
  }
}

void Interner::rebuild(size_t slots) {
  std::vector<Str> old = std::exchange(slots_, std::vector<Str>(slots));
  for (Str& text : old) {
    if (text.empty()) continue;
    const size_t slot = slot_of(text.view());
    slots_[slot] = std::move(text);
  }
}

}  // namespace zt::workload_api
