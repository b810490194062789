#pragma once
#include <cstdint>
#include <string_view>

#include "workload_api/model/str.h"

namespace zt::workload_api {

// Region, zone and subzone, immutable. Kept packed in a Str as PortMap is: the pods of a node have the same.
class Locality {
 public:
  Locality() = default;
  Locality(std::string_view region, std::string_view zone, std::string_view subzone);

  [[nodiscard]] std::string_view region() const { return part(0); }
  [[nodiscard]] std::string_view zone() const { return part(1); }
  [[nodiscard]] std::string_view subzone() const { return part(2); }
  [[nodiscard]] bool empty() const { return packed_.empty(); }

  friend bool operator==(const Locality&, const Locality&) = default;

 private:
  friend class Interner;
  // The lengths of the first two, and the three texts; nothing if all are empty.
  struct Lengths {
    uint32_t region, zone;
  };
  [[nodiscard]] std::string_view part(int which) const;

  Str packed_;
};

}  // namespace zt::workload_api
