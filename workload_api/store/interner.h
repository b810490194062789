#pragma once
#include <absl/container/flat_hash_set.h>

#include <cstddef>
#include <string_view>

#include "workload_api/model/locality.h"
#include "workload_api/model/name_list.h"
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
  void intern(Locality& locality) { intern(locality.packed_); }
  void intern(NameList& names) { intern(names.packed_); }
  [[nodiscard]] Str make(std::string_view text);

  // Drops what nobody else holds, and shrinks the table if it is mostly empty then. Walks the whole table.
  void sweep();

  [[nodiscard]] size_t size() const { return texts_.size(); }
  [[nodiscard]] size_t capacity() const { return texts_.capacity(); }

 private:
  static constexpr size_t kFirstSweep = 64;

  void make_room();

  absl::flat_hash_set<Str, StrHash, StrEqual> texts_;
  size_t sweep_at_ = kFirstSweep;
};

}  // namespace zt::workload_api
