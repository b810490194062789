#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <absl/container/flat_hash_map.h>

#include "workload_api/model/model.h"

namespace zt::workload_api {

// A workload as an endpoint of one service.
struct Endpoint {
  WorkloadPtr workload;
  PortMap ports;  // service port → its port
};

// Standard: an ordinary connection, or a gateway. Waypoint: the connection goes to a waypoint, whose service
// need not list the port.
enum class ResolutionMode : uint8_t { kStandard, kWaypoint };

struct Choice {
  const Endpoint* endpoint = nullptr;  // null = none; else lives as long as the ServiceEntry
  uint16_t port = 0;                   // port of the endpoint
  explicit operator bool() const { return endpoint != nullptr; }
};

// Endpoints that had better not be chosen while there are others.
using Avoid = std::function<bool(const Workload&)>;

// Load balancing state of one service (§3.4), computed when the service or its endpoints change so that what a
// connection costs does not grow with them.
//
// Which endpoints rank highest depends on where the client is, but not on which client: endpoints are kept
// sorted by their values of the routing preferences, most important first. The endpoints that agree with a
// client in the first k preferences are then neighbours, the ranges for k = 0, 1, 2, … are nested, and the
// highest rank present is the last range that is not empty; a table leads from each range to those within. Capacities are
// running sums over the same order, so a range's share is one subtraction, and a guide leads from a share to its place.
class Balancer {
 public:
  Balancer() = default;
  Balancer(const Service& service, std::span<const Endpoint> endpoints);

  [[nodiscard]] Choice choose(const Service& service, std::span<const Endpoint> endpoints, const Workload& source,
                              uint16_t service_port, ResolutionMode mode, uint64_t number, const Avoid* avoid = nullptr) const;

 private:
  struct Range {
    size_t first, last;
    [[nodiscard]] bool empty() const { return first == last; }
  };
  // Of the endpoints that agree in the first `level` preferences and begin at `first`: those with this value of the next one.
  struct GroupKey {
    uint32_t level, first;
    std::string_view value;  // of an endpoint's workload
    friend bool operator==(const GroupKey&, const GroupKey&) = default;
    template <class H>
    friend H AbslHashValue(H state, const GroupKey& key) {
      return H::combine(std::move(state), key.level, key.first, key.value);
    }
  };
  // Endpoints sorted by preferences. `sums` is empty if all have the same capacity, else sums[i] = capacity
  // before position i.
  struct Order {
    std::vector<uint32_t> positions;  // indexes into the service's endpoints
    std::vector<uint64_t> sums;
    // The sum of all capacities is cut into as many parts as there are endpoints: guide[j] is the first sum that is greater than
    // what the j-th part begins with, so that a place is searched for between two neighbours.
    std::vector<uint32_t> guide;
    absl::flat_hash_map<GroupKey, Range> groups;
  };
  // The endpoints that may be chosen in one situation.
  struct Candidates {
    Order order;
    Order without_network;  // only if the first preference is NETWORK: for clients in whose network there is
                            // none
  };
  // What besides locality decides whether an endpoint is a candidate at all.
  struct Situation {
    enum class Ports : uint8_t {
      kNumbered,       // the service knows the target port
      kNamed,          // the endpoint's own map must have `port`
      kNamedWaypoint,  // the same, but an application tunnel with a port will do
      kTunnel,         // the service does not list the port: only an application tunnel takes it
    };
    Ports ports = Ports::kNumbered;
    uint16_t port = 0;
    // Leave out endpoints in this network that have a gateway but no address: from here the gateway is of no
    // use.
    std::optional<std::string_view> client_network;
  };
  struct Prepared {
    Situation::Ports ports;
    uint16_t port;
    bool has_network;
    Str network;
    uint32_t set;  // index into sets_; situations with the same candidates share one
  };
  static bool admits(const Situation& situation, const Endpoint& endpoint);
  void prepare(const Situation& situation, const Service& service, std::span<const Endpoint> endpoints);
  static Order make_order(std::vector<uint32_t> positions, std::span<const Endpoint> endpoints,
                          std::span<const RoutingScope> preferences);
  static void make_guide(Order& order);
  static void make_groups(Order& order, std::span<const Endpoint> endpoints, std::span<const RoutingScope> preferences);
  // Those of `range`, which agree in the first `level` preferences of the order, that have `value` of the next one.
  static Range narrow(const Order& order, Range range, uint32_t level, std::string_view value);
  static const Endpoint* pick(const Order& order, Range range, std::span<const Endpoint> endpoints, uint64_t number);
  // The same, of those that are not to be avoided; null: all are.
  static const Endpoint* pick_other(const Order& order, Range range, std::span<const Endpoint> endpoints, uint64_t number,
                                    const Avoid& avoid);
  [[nodiscard]] const Candidates* find(const Situation& situation) const;

  std::vector<Prepared> prepared_;
  std::vector<Candidates> sets_;
};

}  // namespace zt::workload_api
