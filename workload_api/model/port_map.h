#pragma once
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <span>
#include <utility>

#include "workload_api/model/str.h"

namespace zt::workload_api {

// Service port → target port, immutable, sorted by service port. A target of 0 means "named": each endpoint's
// own map has the number. Kept packed in a Str, because the pods of a deployment all have the same map and
// then share one.
class PortMap {
 public:
  using Pair = std::pair<uint16_t, uint16_t>;

  PortMap() = default;
  PortMap(std::initializer_list<Pair> pairs) : PortMap(std::span(pairs.begin(), pairs.size())) {}
  // Of two pairs with the same service port the later one counts, as in a protobuf list.
  explicit PortMap(std::span<const Pair> pairs);

  [[nodiscard]] std::optional<uint16_t> find(uint16_t service_port) const;
  [[nodiscard]] bool contains(uint16_t service_port) const { return find(service_port).has_value(); }
  [[nodiscard]] bool leads_to(uint16_t target_port) const;  // some service port has this target
  [[nodiscard]] bool empty() const { return packed_.empty(); }
  [[nodiscard]] size_t size() const { return packed_.size() / kPairBytes; }
  [[nodiscard]] Pair operator[](size_t index) const {
    uint16_t ports[2];
    std::memcpy(ports, packed_.view().data() + index * kPairBytes, kPairBytes);
    return {ports[0], ports[1]};
  }

  friend bool operator==(const PortMap&, const PortMap&) = default;

 private:
  friend class Interner;
  static constexpr size_t kPairBytes = 4;
  Str packed_;
};

}  // namespace zt::workload_api
