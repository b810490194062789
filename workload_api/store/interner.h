#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "workload_api/model/port_map.h"
#include "workload_api/model/str.h"

namespace zt::workload_api {

// Gives equal texts one shared block. Control thread only; the texts it hands out may be copied and dropped
// anywhere.
//
// The table itself holds one reference of each text. Before it would grow, it drops the texts that nobody
// else holds any more, so under churn it stays within a constant factor of what is in use. That is safe while
// others drop theirs concurrently: a text with a single reference can only get new ones through this table.
class Interner {
 public:
  Interner() = default;

  // Replaces the text by the shared one of equal content; the first of its kind becomes the shared one. Costs
  // nothing if the text is one already.
  void intern(Str& text);
  void intern(PortMap& ports) { intern(ports.packed_); }
  [[nodiscard]] Str make(std::string_view text);

  // Drops what nobody else holds, and shrinks the table if it is mostly empty then. Walks the whole table.
  void sweep();

  [[nodiscard]] size_t size() const { return used_; }
  [[nodiscard]] size_t capacity() const { return slots_.size(); }

 private:
  static constexpr size_t kMinSlots = 64;  // a power of two, as every size is

  struct Slot {
    uint64_t hash = 0;  // or a search would read every text that it passes, and growing every text there is
    Str text;           // empty: the slot is free
  };

  [[nodiscard]] Slot& slot_of(std::string_view text);  // where it is, or the free slot where it belongs
  void make_room();
  void place(std::vector<Slot> kept, size_t slots);

  std::vector<Slot> slots_;  // open addressing, linear probing, at most half full
  size_t used_ = 0;
};

}  // namespace zt::workload_api
