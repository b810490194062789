#include "ztunnel/dns/resolve.h"

#include <algorithm>
#include <random>

#include "base/text.h"

namespace zt::ztunnel::dns {

namespace {

using workload_api::Endpoint;
using workload_api::IpFamilies;
using workload_api::Service;
using workload_api::ServiceEntry;
using workload_api::Snapshot;
using workload_api::Workload;

bool is_kubernetes(const Service& service, const NameRules& names) {
  const std::string_view host = service.hostname;
  const std::string_view domain = names.cluster_domain;
  return host.ends_with(domain) && host.substr(0, host.size() - domain.size()).ends_with(".svc.");
}

bool is_headless(const Service& service, const NameRules& names) {
  return service.vips.empty() && service.cidr_vips.empty() && is_kubernetes(service, names);
}

const ServiceEntry* find_host(const Snapshot& snapshot, const Client& client, std::string_view host) {
  // What has no address of its own is known to its own DNS only, except for headless services.
  const auto has_answer = [&](const Service& service) { return !service.vips.empty() || is_kubernetes(service, client.names); };
  return snapshot.service_by_hostname(host, std::string_view(client.names.ns), client.preferred_ns, has_answer);
}

std::optional<IpAddress> address_of(const Workload& workload, bool v4) {
  const auto found = std::ranges::find(workload.addresses, v4, &IpAddress::is_v4);
  return found == workload.addresses.end() ? std::nullopt : std::optional(*found);
}

// A pod of a StatefulSet is called <set>-<number>, and that is its host name. Other pods have one only if their spec gives them
// one, which the cluster's DNS knows and the workload API does not say.
bool has_host_name(const Workload& workload) {
  const std::string_view name = workload.name;
  const size_t dash = name.rfind('-');
  return dash != std::string_view::npos && dash + 1 < name.size() &&
         name.find_first_not_of("0123456789", dash + 1) == std::string_view::npos;
}

std::string host_label(const Workload& workload) {
  return has_host_name(workload) || workload.addresses.empty() ? workload.name.str() : dashed(workload.addresses.front());
}

const Endpoint* find_endpoint(const ServiceEntry& entry, std::string_view label) {
  const auto ip = parse_dashed(label);
  for (const Endpoint& endpoint : entry.endpoints()) {
    const Workload& workload = *endpoint.workload;
    if (ip ? workload.has_address(*ip) : workload.name == label && has_host_name(workload)) return &endpoint;
  }
  return nullptr;
}

// What a host name stands for.
struct Target {
  const ServiceEntry* entry = nullptr;
  const Endpoint* endpoint = nullptr;  // one pod of a headless service
  std::string canonical;
};

std::optional<Target> find_target(const Snapshot& snapshot, const Client& client, std::string_view name) {
  std::optional<Target> target;
  if (name.size() > NS_MAXCDNAME || name.find('\\') != std::string_view::npos) return target;
  for_each_alias(name, client.names, [&](const Alias& alias) {
    if (const auto* entry = find_host(snapshot, client, alias.host)) {
      target = {.entry = entry, .canonical = std::string(alias.stripped)};
      return true;
    }
    const auto parent = without_first_label(alias.host);
    if (const auto* entry = parent.empty() ? nullptr : find_host(snapshot, client, parent);
        entry != nullptr && is_headless(entry->service(), client.names)) {
      if (const auto* endpoint = find_endpoint(*entry, alias.host.substr(0, alias.host.size() - parent.size() - 1))) {
        target = {.entry = entry, .endpoint = endpoint, .canonical = std::string(alias.stripped)};
        return true;
      }
    }
    return for_each_wildcard(alias.host, [&](std::string_view wildcard) {
      const auto* entry = find_host(snapshot, client, wildcard);
      if (entry != nullptr) target = {.entry = entry, .canonical = {}};
      return entry != nullptr;
    });
  });
  return target;
}

bool family_allowed(const Client& client, const Service& service, bool v4) {
  if (v4) return service.ip_families != IpFamilies::kIpv6Only;
  return client.ipv6 && service.ip_families != IpFamilies::kIpv4Only;
}

// Of a family that is allowed.
void add_addresses(const Client& client, const Target& target, bool v4, std::vector<IpAddress>& out) {
  const Service& service = target.entry->service();
  if (target.endpoint != nullptr) {
    if (const auto ip = address_of(*target.endpoint->workload, v4)) out.push_back(*ip);
  } else if (!service.vips.empty()) {
    for (const auto& vip : service.vips) {
      if (vip.ip.is_v4() == v4 && vip.network == client.network) out.push_back(vip.ip);
    }
  } else {
    for (const Endpoint& endpoint : target.entry->endpoints()) {
      if (const auto ip = address_of(*endpoint.workload, v4)) out.push_back(*ip);
    }
  }
}

Resolution resolve_address(const Snapshot& snapshot, const Client& client, const Query& query) {
  auto target = find_target(snapshot, client, query.name());
  if (!target) return {};
  const Service& service = target->entry->service();
  const bool v4 = query.type() == ns_t_a;
  Resolution resolution{.by = Resolution::By::kMesh};
  Found& found = resolution.found;
  found.service = target->entry->service_ptr();
  found.type_supported = family_allowed(client, service, v4);
  if (!found.type_supported) return resolution;
  add_addresses(client, *target, v4, found.addresses);
  if (!found.addresses.empty()) found.canonical = std::move(target->canonical);
  return resolution;
}

Resolution resolve_pointer(const Snapshot& snapshot, const Client& client, const Query& query) {
  const auto ip = reverse_address(query.name());
  if (!ip) return {};
  const auto answer = [](const ServiceEntry& entry, std::string name) {
    Resolution resolution{.by = Resolution::By::kMesh};
    resolution.found.service = entry.service_ptr();
    resolution.found.names.push_back(std::move(name));
    return resolution;
  };
  if (const auto* entry = snapshot.service_by_vip(client.network, *ip, std::string_view(client.names.ns))) {
    const Service& service = entry->service();
    const bool exact = std::ranges::any_of(service.vips, [&](const auto& vip) { return vip.ip == *ip; });
    if (!exact || service.hostname.view().starts_with('*')) return {};
    return answer(*entry, service.hostname.str());
  }
  const Workload* workload = snapshot.workload(client.network, *ip);
  if (workload == nullptr) return {};
  for (const auto& membership : workload->services) {
    const auto* entry = snapshot.service(membership.service.view());
    if (entry != nullptr && is_headless(entry->service(), client.names)) {
      return answer(*entry, host_label(*workload) + "." + entry->service().hostname.str());
    }
  }
  return {};
}

Resolution resolve_service(const Snapshot& snapshot, const Client& client, const Query& query) {
  std::string_view name = query.name();
  std::optional<uint16_t> only;
  if (name.starts_with('_')) {  // _8080._tcp.host; a port's name is not known here
    const auto label = name.substr(1, name.find('.') - 1);
    only = whole_number<uint16_t>(label);
    if (!only) return {};
    name = without_first_label(name);
    if (!name.starts_with("_tcp.")) return {};
    name = without_first_label(name);
  }
  const auto target = find_target(snapshot, client, name);
  if (!target || target->entry->service().hostname.view().starts_with('*')) return {};
  const Service& service = target->entry->service();
  Resolution resolution{.by = Resolution::By::kUpstreamThenMesh};
  resolution.found.service = target->entry->service_ptr();
  const bool headless = is_headless(service, client.names);
  for (size_t i = 0; i < service.ports.size(); ++i) {
    const auto [port, target_port] = service.ports[i];
    if (only && *only != port) continue;
    if (!headless) {
      resolution.found.services.push_back({service.hostname.str(), port});
      continue;
    }
    for (const Endpoint& endpoint : target->entry->endpoints()) {
      if (target->endpoint != nullptr && target->endpoint != &endpoint) continue;
      const uint16_t own = endpoint.ports.find(port).value_or(target_port);
      if (own != 0) resolution.found.services.push_back({host_label(*endpoint.workload) + "." + service.hostname.str(), own});
    }
  }
  if (resolution.found.services.empty()) return {};
  return resolution;
}

}  // namespace

Resolution resolve(const Snapshot& snapshot, const Client& client, const Query& query) {
  switch (query.type()) {
    case ns_t_a:
    case ns_t_aaaa: return resolve_address(snapshot, client, query);
    case ns_t_ptr: return resolve_pointer(snapshot, client, query);
    case ns_t_srv: return resolve_service(snapshot, client, query);
    default: return {};
  }
}

std::optional<std::vector<IpAddress>> mesh_addresses(const Snapshot& snapshot, const Client& client, std::string_view name) {
  const auto target = find_target(snapshot, client, name);
  if (!target) return std::nullopt;
  std::vector<IpAddress> addresses;
  for (const bool v4 : {true, false}) {
    if (family_allowed(client, target->entry->service(), v4)) add_addresses(client, *target, v4, addresses);
  }
  return addresses;
}

void write_answer(const Query& query, Found found, uint64_t order, size_t limit, Bytes& out) {
  std::minstd_rand random(static_cast<uint32_t>((order * 0x9e3779b97f4a7c15) >> 32));  // seeds that are near give like orders
  std::ranges::shuffle(found.addresses, random);
  std::ranges::shuffle(found.services, random);
  AnswerWriter answer(query, flag::kAuthoritative | flag::kRecursionAvailable, limit, out);
  Bytes owner(query.wire_name().begin(), query.wire_name().end());
  lower_case(owner);
  if (!found.canonical.empty()) {
    Bytes canonical = wire_name(found.canonical);
    answer.name(owner, ns_t_cname, canonical, kTtl);
    owner = std::move(canonical);
  }
  for (const auto& ip : found.addresses) answer.address(owner, ip, kTtl);
  for (const auto& name : found.names) answer.name(owner, ns_t_ptr, wire_name(name), kTtl);
  for (const auto& [target, port] : found.services) answer.service(owner, port, wire_name(target), kTtl);
  answer.finish();
}

}  // namespace zt::ztunnel::dns
