#include "workload_api/store/interner.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace zt::workload_api {

Interner::Slot& Interner::slot_of(std::string_view text) {
  const uint64_t hash = std::hash<std::string_view>{}(text);
  const size_t mask = slots_.size() - 1;
  size_t at = hash & mask;
  while (!slots_[at].text.empty() && (slots_[at].hash != hash || slots_[at].text.view() != text)) at = (at + 1) & mask;
  slots_[at].hash = hash;
  return slots_[at];
}

void Interner::intern(Str& text) {
  if (text.interned()) return;
  make_room();
  Str& shared = slot_of(text.view()).text;
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
  Str& shared = slot_of(text).text;
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
  const size_t slots = slots_.size();
  if ((used_ + 1) * 4 > slots) place(std::exchange(slots_, {}), std::max(kMinSlots, slots * 2));
}

void Interner::sweep() {
  std::vector<Slot> kept = std::exchange(slots_, {});
  size_t size = kept.size();
  std::erase_if(kept, [](const Slot& slot) { return slot.text.unshared(); });
  used_ = kept.size();
  while (size > kMinSlots && used_ * 8 < size) size /= 2;
  place(std::move(kept), size);
}

void Interner::place(std::vector<Slot> kept, size_t slots) {
  slots_ = std::vector<Slot>(slots);
  for (Slot& slot : kept) {
    if (slot.text.empty()) continue;
    size_t at = slot.hash & (slots - 1);
    while (!slots_[at].text.empty()) at = (at + 1) & (slots - 1);
    slots_[at] = std::move(slot);
  }
}

}  // namespace zt::workload_api
