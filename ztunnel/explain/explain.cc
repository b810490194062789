#include "ztunnel/explain/explain.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/host_port.h"
#include "mesh/spiffe.h"

namespace zt::ztunnel {

using workload_api::PolicyScope;
using workload_api::ServiceEntry;
using workload_api::Snapshot;
using workload_api::TunnelProtocol;
using workload_api::Workload;

namespace {

// Connections that are tried: enough that each endpoint of an ordinary service has its turn.
constexpr size_t kLeastTurns = 16, kMostTurns = 4096;
constexpr size_t kTurnsEach = 4;  // endpoint

// Tells ways apart.
std::string key_of(const Route& route) {
  struct Key {
    std::string operator()(const Deny& deny) const { return "deny " + deny.text; }
    std::string operator()(const Plain& plain) const { return "plain " + plain.address.to_string(); }
    std::string operator()(const Hbone& hbone) const { return "hbone " + hbone.dial.to_string() + " " + hbone.authority; }
    std::string operator()(const DoubleHbone& hbone) const {
      return "double " + hbone.dial.to_string() + " " + hbone.authority + " " + hbone.to.workload->uid.str();
    }
    std::string operator()(const NeedsResolution& pending) const {
      return "resolve " + pending.workload_uid.str() + std::visit(*this, pending.then);
    }
    std::string operator()(const std::variant<Plain, Hbone, DoubleHbone>& then) const { return std::visit(*this, then); }
  };
  return std::visit(Key{}, route);
}

IpAddress client_ip(const Workload& source, const IpAddress& towards) {
  for (const IpAddress& ip : source.addresses)
    if (ip.is_v4() == towards.is_v4()) return ip;
  return source.addresses.empty() ? IpAddress() : source.addresses.front();
}

std::string what_is(const Snapshot& snapshot, const KnownState& state, const Question& question) {
  const IpAddress& ip = question.destination.ip;
  if (const Workload* workload = snapshot.workload(state.network, ip)) return fmt::format("workload {}", workload->uid.view());
  if (const ServiceEntry* entry = snapshot.service_by_vip(state.network, ip, question.source->ns.view()))
    return fmt::format("service {}, {} endpoints", entry->service().key.view(), entry->endpoints().size());
  return "nobody's in the mesh";
}

size_t turns_for(const Snapshot& snapshot, const KnownState& state, const Question& question) {
  const ServiceEntry* entry = snapshot.service_by_vip(state.network, question.destination.ip, question.source->ns.view());
  const size_t endpoints = entry == nullptr ? 0 : entry->endpoints().size();
  // A weighted waypoint's share shows in percent.
  const size_t least = entry != nullptr && !entry->service().weighted_waypoints.empty() ? 1000 : kLeastTurns;
  return std::clamp(endpoints * kTurnsEach, least, kMostTurns);
}

std::vector<PolicyLine> policies_of(const Snapshot& snapshot, const Workload& workload,
                                    const workload_api::PolicySubject& subject, const Verdict& verdict) {
  std::vector<PolicyLine> lines;
  snapshot.for_each_policy_of(workload, [&](const workload_api::Policy* policy, std::string_view name) {
    PolicyLine line{.name = std::string(name), .applies = "the workload names it", .spec = nullptr, .reason = {}};
    if (policy != nullptr) {
      line.spec = policy->spec.get();
      if (line.spec->scope == PolicyScope::kGlobal) line.applies = "it is global";
      if (line.spec->scope == PolicyScope::kNamespace) line.applies = "of the namespace";
      line.reason = policy_reason(*line.spec, subject);
    }
    line.decides = !verdict.policy.empty() && verdict.policy == name;
    lines.push_back(std::move(line));
    return true;
  });
  return lines;
}

Authority authority_of(std::string_view text) {
  if (const auto address = SocketAddress::parse(text)) return *address;
  const auto name = split_host_port(text);
  return name ? HostPort{std::string(name->host), name->port} : HostPort{std::string(text), 0};
}

// A CONNECT as it comes to the proxy of `workload`.
struct Coming {
  const Workload& workload;
  SocketAddress local;  // the tunnel's end there
  IpAddress client;     // its other end, as it is seen there
  std::string_view authority;
  std::string_view network;
};

Arriving arrive(const KnownState& state, const Question& question, const Coming& coming) {
  const Snapshot& snapshot = *state.snapshot;
  const Workload& workload = coming.workload;
  const Authority authority = authority_of(coming.authority);
  const IpAddress& client = coming.client;
  Arriving arriving;
  arriving.target = inbound_target(snapshot, {.workload = workload,
                                              .local = coming.local,
                                              .client_ip = client,
                                              .authority = authority,
                                              .network = coming.network,
                                              .illegal_ports = state.illegal_ports});
  if (!arriving.target) return arriving;
  const std::string proven = question.source->identity.str();
  const workload_api::PolicySubject subject{
      .source_ip = client, .destination = arriving.target->upstream, .peer = SpiffeView::parse(proven).value_or(SpiffeView{})};
  arriving.verdict = authorize(snapshot, workload, subject);
  arriving.policies = policies_of(snapshot, workload, subject, *arriving.verdict);
  return arriving;
}

// Waypoints one behind the other: what a service's sends may go through that of a workload.
constexpr size_t kMostHops = 2;

Explanation explain_hop(const KnownState& state, const Question& question, size_t hop);

// What the proxy of the other network says to the inner tunnel, as far as the workload there is known here.
void look_abroad(const KnownState& state, const Question& question, const DoubleHbone& abroad, Way& way) {
  const Workload& remote = *abroad.remote;
  if (remote.addresses.empty() || remote.protocol != TunnelProtocol::kHbone || remote.native_tunnel) {
    way.beyond = fmt::format("a gateway to network {}: whom it chooses there, and the policies there, are not known here",
                             remote.network.view());
    return;
  }
  way.arrival = arrive(state, question,
                       {.workload = remote,
                        .local = {remote.addresses.front(), kHbonePort},
                        .client = abroad.dial.ip,
                        .authority = abroad.authority,
                        .network = remote.network.view()});
  way.beyond = fmt::format(
      "a gateway to network {}: this is what is known here of {} there, which sees the address of the gateway; the gateway may "
      "choose "
      "another of the service",
      remote.network.view(), remote.uid.view());
}

void look_beyond(const KnownState& state, const Question& question, size_t hop, Way& way) {
  if (const auto* plain = std::get_if<Plain>(&way.route)) {
    way.beyond = plain->to.workload
                     ? "the destination does not take tunnels: no identity is shown, and no proxy of the mesh asks a policy there"
                     : "it leaves as it is: the mesh knows nobody there, and asks no policy";
  } else if (const auto* hbone = std::get_if<Hbone>(&way.route)) {
    const Workload& workload = *hbone->to.workload;
    const auto address = SocketAddress::parse(hbone->authority);
    const bool itself = address && workload.has_address(address->ip);
    const bool proxied = workload.protocol == TunnelProtocol::kHbone && !workload.native_tunnel && hbone->dial.port == kHbonePort;
    if (proxied && (itself || workload.application_tunnel))
      way.arrival = arrive(state, question,
                           {.workload = workload,
                            .local = hbone->dial,
                            .client = client_ip(*question.source, hbone->dial.ip),
                            .authority = hbone->authority,
                            .network = state.network});
    if (!itself) {
      way.beyond =
          "a waypoint: what it does by its own rules is not known here, and the policies of the destination see the "
          "waypoint's identity";
      if (hop < kMostHops) {
        const Question call{.source = hbone->to.workload, .destination = question.destination, .asked = {}, .found = {}};
        way.onward = std::make_shared<const Explanation>(explain_hop(state, call, hop + 1));
      }
    } else if (!proxied) {
      way.beyond = "the workload ends the tunnel itself: what it allows is not known here";
    } else if (can_spare_tunnel(*hbone) && !workload.node.empty() && workload.node == question.source->node &&
               workload.uid != question.source->uid) {
      way.beyond = fmt::format(
          "both are on node {}: a proxy there that serves both makes no tunnel unless ZT_LOCAL_DIRECT=false, and all else is as "
          "said",
          workload.node.view());
    }
  } else if (const auto* abroad = std::get_if<DoubleHbone>(&way.route)) {
    look_abroad(state, question, *abroad, way);
  } else if (std::holds_alternative<NeedsResolution>(way.route)) {
    way.beyond = "its address is asked of DNS when the connection is made";
  }
}

Explanation explain_hop(const KnownState& state, const Question& question, size_t hop) {
  const Snapshot& snapshot = *state.snapshot;
  Explanation explanation{.source = question.source,
                          .destination = what_is(snapshot, state, question),
                          .ways = {},
                          .turns = turns_for(snapshot, state, question)};
  // As a worker counts, but from 0: the same question has the same answer.
  std::map<std::string, uint64_t, std::less<>> counters;
  const NumberFor number = [&](const workload_api::Service& service) { return counters[service.key.str()]++; };
  std::map<std::string, size_t> places;
  for (size_t turn = 0; turn < explanation.turns; ++turn) {
    Route route = zt::ztunnel::route(snapshot, {.source = *question.source,
                                                .client_ip = client_ip(*question.source, question.destination.ip),
                                                .destination = question.destination,
                                                .network = state.network,
                                                .illegal_ports = state.illegal_ports,
                                                .number = number});
    const auto [place, fresh] = places.emplace(key_of(route), explanation.ways.size());
    if (fresh) explanation.ways.push_back({.route = std::move(route), .turns = 0, .arrival = {}, .beyond = {}, .onward = {}});
    ++explanation.ways[place->second].turns;
  }
  std::ranges::sort(explanation.ways, [](const Way& a, const Way& b) {
    return a.turns != b.turns ? a.turns > b.turns : key_of(a.route) < key_of(b.route);
  });
  for (Way& way : explanation.ways) look_beyond(state, question, hop, way);
  return explanation;
}

}  // namespace

Explanation explain(const KnownState& state, const Question& question) { return explain_hop(state, question, 0); }

}  // namespace zt::ztunnel
