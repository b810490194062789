#include "workload_api/store/balancer.h"

#include <algorithm>
#include <compare>
#include <cstddef>
#include <utility>

#include <absl/container/inlined_vector.h>

#include "workload_api/store/tables.h"

namespace zt::workload_api {
namespace {

std::string_view value_of(const Workload& workload, RoutingScope scope) {
  switch (scope) {
    case RoutingScope::kRegion: return workload.locality.region();
    case RoutingScope::kZone: return workload.locality.zone();
    case RoutingScope::kSubzone: return workload.locality.subzone();
    case RoutingScope::kNode: return workload.node.view();
    case RoutingScope::kCluster: return workload.cluster_id.view();
    case RoutingScope::kNetwork: return workload.network.view();
  }
  return {};
}

std::strong_ordering compare(std::string_view a, std::string_view b) {
  // Texts of one store share their blocks, so most comparisons end here.
  if (a.data() == b.data() && a.size() == b.size()) return std::strong_ordering::equal;
  return a <=> b;
}

// STRICT and FAILOVER rank by preferences, other modes take all alike.
std::span<const RoutingScope> preferences_of(const Service& service) {
  const LoadBalancingMode mode = service.mode();
  if (mode != LoadBalancingMode::kStrict && mode != LoadBalancingMode::kFailover) return {};
  return service.load_balancing->routing_preference;
}

bool network_first(std::span<const RoutingScope> preferences) {
  return !preferences.empty() && preferences.front() == RoutingScope::kNetwork;
}

// Nothing to connect to but a gateway of its network.
bool gateway_only(const Workload& workload) {
  return workload.addresses.empty() && workload.hostname.empty() && workload.network_gateway;
}

bool tunnel_has_port(const Workload& workload) { return workload.application_tunnel && workload.application_tunnel->port != 0; }

}  // namespace

bool Balancer::admits(const Situation& situation, const Endpoint& endpoint) {
  const Workload& workload = *endpoint.workload;
  if (workload.addresses.empty() && workload.hostname.empty()) {
    if (!workload.network_gateway) return false;
    if (situation.client_network && workload.network == *situation.client_network) return false;
  }
  switch (situation.ports) {
    case Situation::Ports::kNumbered: return true;
    case Situation::Ports::kNamed: return endpoint.ports.contains(situation.port);
    case Situation::Ports::kNamedWaypoint: return endpoint.ports.contains(situation.port) || tunnel_has_port(workload);
    case Situation::Ports::kTunnel: return workload.application_tunnel.has_value();
  }
  return false;
}

Balancer::Order Balancer::make_order(std::vector<uint32_t> positions, std::span<const Endpoint> endpoints,
                                     std::span<const RoutingScope> preferences) {
  Order order;
  order.positions = std::move(positions);
  if (!preferences.empty()) {
    std::ranges::sort(order.positions, [&](uint32_t a, uint32_t b) {
      for (const RoutingScope scope : preferences) {
        const auto relation = compare(value_of(*endpoints[a].workload, scope), value_of(*endpoints[b].workload, scope));
        if (relation != 0) return relation < 0;
      }
      return a < b;
    });
  }
  const auto capacity = [&](uint32_t position) { return endpoints[position].workload->capacity; };
  const bool alike = std::ranges::all_of(order.positions, [&](uint32_t position) {
    return capacity(position) == capacity(order.positions.front()) && capacity(position) != 0;
  });
  if (!alike) {
    order.sums.reserve(order.positions.size() + 1);
    order.sums.push_back(0);
    for (const uint32_t position : order.positions) order.sums.push_back(order.sums.back() + capacity(position));
    make_guide(order);
  }
  make_groups(order, endpoints, preferences);
  return order;
}

void Balancer::make_guide(Order& order) {
  const uint64_t total = order.sums.back(), parts = order.positions.size();
  if (total == 0) return;
  order.guide.reserve(parts + 1);
  uint32_t place = 0;
  for (uint64_t part = 0; part <= parts; ++part) {
    const auto begins = static_cast<uint64_t>((static_cast<unsigned __int128>(part) * total + parts - 1) / parts);
    while (place < order.sums.size() && order.sums[place] <= begins) ++place;
    order.guide.push_back(place);
  }
}

void Balancer::make_groups(Order& order, std::span<const Endpoint> endpoints, std::span<const RoutingScope> preferences) {
  const auto value_at = [&](size_t place, size_t level) {
    return value_of(*endpoints[order.positions[place]].workload, preferences[level]);
  };
  const size_t count = order.positions.size();
  std::vector<GroupKey> open;  // of each level: the group that `place` is in
  std::vector<uint32_t> begun(preferences.size() + 1, 0);
  for (size_t place = 0; place <= count; ++place) {
    size_t level = 0;
    if (place > 0 && place < count)
      while (level < preferences.size() && compare(value_at(place - 1, level), value_at(place, level)) == 0) ++level;
    for (size_t ends = level; ends < open.size(); ++ends) order.groups.emplace(open[ends], Range{begun[ends + 1], place});
    open.resize(std::min(level, open.size()));
    for (; place < count && level < preferences.size(); ++level) {
      open.push_back({static_cast<uint32_t>(level), begun[level], value_at(place, level)});
      begun[level + 1] = static_cast<uint32_t>(place);
    }
  }
}

void Balancer::prepare(const Situation& situation, const Service& service, std::span<const Endpoint> endpoints) {
  std::vector<uint32_t> positions;
  positions.reserve(endpoints.size());
  for (uint32_t i = 0; i < endpoints.size(); ++i)
    if (admits(situation, endpoints[i])) positions.push_back(i);

  Prepared prepared{.ports = situation.ports,
                    .port = situation.port,
                    .has_network = situation.client_network.has_value(),
                    .network = Str(situation.client_network.value_or(std::string_view{})),
                    .set = 0};
  // Nearly always every endpoint qualifies in every situation, so look for a set that is as large before
  // making another: each is a subset of the first, and of equal size means equal to it.
  if (!sets_.empty() && positions.size() == sets_.front().order.positions.size()) {
    prepared_.push_back(std::move(prepared));
    return;
  }
  const auto preferences = preferences_of(service);
  Candidates candidates;
  if (network_first(preferences)) candidates.without_network = make_order(positions, endpoints, preferences.subspan(1));
  candidates.order = make_order(std::move(positions), endpoints, preferences);
  prepared.set = static_cast<uint32_t>(sets_.size());
  sets_.push_back(std::move(candidates));
  prepared_.push_back(std::move(prepared));
}

Balancer::Balancer(const Service& service, std::span<const Endpoint> endpoints) {
  std::vector<Situation> situations{{}};  // the first set holds every endpoint that can qualify at all
  for (size_t i = 0; i < service.ports.size(); ++i) {
    const auto [port, target] = service.ports[i];
    if (target != 0) continue;
    situations.push_back({.ports = Situation::Ports::kNamed, .port = port, .client_network = {}});
    situations.push_back({.ports = Situation::Ports::kNamedWaypoint, .port = port, .client_network = {}});
  }
  if (std::ranges::any_of(endpoints, [](const Endpoint& endpoint) { return endpoint.workload->application_tunnel.has_value(); }))
    situations.push_back({.ports = Situation::Ports::kTunnel, .port = 0, .client_network = {}});

  std::vector<std::string_view> networks;
  for (const Endpoint& endpoint : endpoints)
    if (gateway_only(*endpoint.workload)) networks.push_back(endpoint.workload->network.view());
  std::ranges::sort(networks);
  const auto repeated = std::ranges::unique(networks);
  networks.erase(repeated.begin(), repeated.end());

  for (const Situation& situation : situations) {
    prepare(situation, service, endpoints);
    for (const std::string_view network : networks) {
      Situation from_inside = situation;
      from_inside.client_network = network;
      prepare(from_inside, service, endpoints);
    }
  }
}

const Balancer::Candidates* Balancer::find(const Situation& situation) const {
  const Prepared* found = nullptr;
  for (const Prepared& prepared : prepared_) {
    if (prepared.ports != situation.ports || prepared.port != situation.port) continue;
    // Networks that need no set of their own are served by the one without.
    if (!prepared.has_network && found == nullptr) found = &prepared;
    if (prepared.has_network && prepared.network == *situation.client_network) found = &prepared;
  }
  return found == nullptr ? nullptr : &sets_[found->set];
}

Balancer::Range Balancer::narrow(const Order& order, Range range, uint32_t level, std::string_view value) {
  const auto found = order.groups.find(GroupKey{level, static_cast<uint32_t>(range.first), value});
  return found == order.groups.end() ? Range{range.first, range.first} : found->second;
}

const Endpoint* Balancer::pick(const Order& order, Range range, std::span<const Endpoint> endpoints, uint64_t number) {
  if (range.empty()) return nullptr;
  if (order.sums.empty()) return &endpoints[order.positions[range.first + number % (range.last - range.first)]];
  const uint64_t before = order.sums[range.first], total = order.sums[range.last] - before;
  if (total == 0) return nullptr;
  // Multiples of the golden ratio spread evenly over [0, 1) at every length of the series, so that a counter
  // visits endpoints in proportion to capacity without runs; a random number stays uniform.
  const uint64_t spread = number * 0x9e3779b97f4a7c15;
  const auto share = static_cast<uint64_t>((static_cast<unsigned __int128>(spread) * total) >> 64);
  // The position whose share [sums[i], sums[i + 1]) contains it; those of capacity 0 have an empty share.
  const uint64_t value = before + share;
  const auto part = static_cast<size_t>(static_cast<unsigned __int128>(value) * order.positions.size() / order.sums.back());
  // Endpoints that are chosen one after the other are far from each other: what will be read of this one is fetched at once instead of
  // line after line.
  __builtin_prefetch(&order.positions[order.guide[part] - 1]);
  const auto next = std::upper_bound(order.sums.begin() + order.guide[part], order.sums.begin() + order.guide[part + 1], value);
  const Endpoint& endpoint = endpoints[order.positions[static_cast<size_t>(next - order.sums.begin()) - 1]];
  constexpr size_t kLine = 64;
  const auto* workload = reinterpret_cast<const std::byte*>(endpoint.workload.get());
  for (size_t offset = 0; offset < sizeof(Workload); offset += kLine) __builtin_prefetch(workload + offset);
  return &endpoint;
}

const Endpoint* Balancer::pick_other(const Order& order, Range range, std::span<const Endpoint> endpoints, uint64_t number,
                                     const Avoid& avoid) {
  // By chance, so that the others share what those would have got, in proportion.
  constexpr uint64_t kDraws = 8;
  for (uint64_t draw = 0; draw < kDraws; ++draw) {
    const Endpoint* endpoint = pick(order, range, endpoints, draw == 0 ? number : hashing::mix(number, draw));
    if (endpoint == nullptr) return nullptr;
    if (!avoid(*endpoint->workload)) return endpoint;
  }
  const size_t count = range.last - range.first, begin = hashing::mix(number, kDraws) % count;
  for (size_t i = 0; i < count; ++i) {
    const Endpoint& endpoint = endpoints[order.positions[range.first + (begin + i) % count]];
    if (endpoint.workload->capacity != 0 && !avoid(*endpoint.workload)) return &endpoint;
  }
  return nullptr;
}

Choice Balancer::choose(const Service& service, std::span<const Endpoint> endpoints, const Workload& source,
                        uint16_t service_port, ResolutionMode mode, uint64_t number, const Avoid* avoid) const {
  const std::optional<uint16_t> target = service.ports.find(service_port);
  if (mode == ResolutionMode::kStandard && !target) return {};

  Situation situation{.ports = Situation::Ports::kNumbered, .port = 0, .client_network = source.network.view()};
  if (!target) {
    situation.ports = Situation::Ports::kTunnel;
  } else if (*target == 0) {
    situation.ports = mode == ResolutionMode::kStandard ? Situation::Ports::kNamed : Situation::Ports::kNamedWaypoint;
    situation.port = service_port;
  }
  const Candidates* candidates = find(situation);
  if (candidates == nullptr) return {};

  auto preferences = preferences_of(service);
  const bool strict = service.mode() == LoadBalancingMode::kStrict;
  const Order* order = &candidates->order;
  Range range{0, order->positions.size()};
  // The wider ones, with the order they are of: where to look if all of the closest are to be avoided.
  absl::InlinedVector<std::pair<const Order*, Range>, 8> wider;
  const auto narrow_to = [&](Range closer) {
    if (avoid != nullptr && !strict) wider.emplace_back(order, range);
    range = closer;
  };
  uint32_t level = 0;
  if (network_first(preferences)) {
    // Every endpoint of the client's network outranks every other; without one, the rest of the list still
    // ranks the others.
    const Range same = narrow(*order, range, 0, source.network.view());
    if (!same.empty()) {
      narrow_to(same);
      level = 1;
    } else if (strict) {
      return {};
    } else {
      order = &candidates->without_network;
    }
    preferences = preferences.subspan(1);
  }
  for (const RoutingScope scope : preferences) {
    const Range closer = narrow(*order, range, level++, value_of(source, scope));
    if (closer.empty()) {
      if (strict) return {};
      break;
    }
    narrow_to(closer);
  }

  const Endpoint* endpoint = nullptr;
  if (avoid != nullptr && !range.empty()) {
    endpoint = pick_other(*order, range, endpoints, number, *avoid);
    for (; endpoint == nullptr && !wider.empty(); wider.pop_back())
      endpoint = pick_other(*wider.back().first, wider.back().second, endpoints, number, *avoid);
  }
  // All of them: then one of the closest.
  if (endpoint == nullptr) endpoint = pick(*order, range, endpoints, number);
  if (endpoint == nullptr) return {};
  if (const auto port = endpoint->ports.find(service_port)) return {endpoint, *port};
  if (target && *target != 0) return {endpoint, *target};
  if (tunnel_has_port(*endpoint->workload)) return {endpoint, service_port};
  return {};
}

}  // namespace zt::workload_api
