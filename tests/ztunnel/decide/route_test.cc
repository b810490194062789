#include "ztunnel/decide/route.h"
#include "base/host_port.h"
#include "mesh/reason.h"

#include <catch2/catch.hpp>

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>

#include "workload_api/yaml/yaml_source.h"

namespace zt::ztunnel {
namespace {

using workload_api::Service;
using workload_api::Snapshot;
using workload_api::SnapshotPtr;
using workload_api::Store;
using workload_api::Workload;

constexpr uint16_t kIllegal[] = {15001, 15006, 15008, 15080};

SnapshotPtr mesh(std::string_view yaml) {
  auto batch = workload_api::parse_local_config(yaml, "test.yaml");
  if (!batch) FAIL(batch.error().text);
  Store store({});
  store.apply(std::move(*batch));
  return store.snapshot();
}

IpAddress ip(std::string_view text) { return *IpAddress::parse(text); }

std::string join(const std::vector<identity::SpiffeId>& ids) {
  std::string text;
  for (const auto& id : ids) text += (text.empty() ? "" : " ") + id.namespace_ + "/" + id.service_account;
  return text;
}

std::string names(const Destination& to) {
  return "workload=" + (to.workload ? to.workload->uid.str() : "-") + " service=" + (to.service ? to.service->key.str() : "-");
}

// One line for a route, for the tables.
std::string describe(const Route& route) {
  struct Describe {
    std::string operator()(const Deny& deny) const { return "deny: " + deny.text; }
    std::string operator()(const Plain& plain) const { return "plain " + plain.address.to_string() + " " + names(plain.to); }
    std::string operator()(const Hbone& hbone) const {
      return "hbone " + hbone.dial.to_string() + " authority=" + hbone.authority + " expect=[" + join(hbone.expected) + "] " +
             names(hbone.to);
    }
    std::string operator()(const DoubleHbone& hbone) const {
      return "double " + hbone.dial.to_string() + " authority=" + hbone.authority + " expect=[" + join(hbone.expected) +
             "] inner=[" + join(hbone.inner_expected) + "] " + names(hbone.to);
    }
    std::string operator()(const NeedsResolution& pending) const {
      return "resolve " + pending.hostname.str() + (pending.prefer_v6 ? " v6" : " v4");
    }
  };
  return std::visit(Describe{}, route);
}

Route route_from(const Snapshot& snapshot, std::string_view source, std::string_view destination, uint64_t number = 0,
                 std::string_view client_ip = {}) {
  const Workload* workload = snapshot.workload(source);
  REQUIRE(workload != nullptr);
  const NumberFor count = [&](const Service&) { return number; };
  const auto address = SocketAddress::parse(destination);
  REQUIRE(address);
  return route(snapshot, {.source = *workload,
                          .client_ip = client_ip.empty() ? workload->addresses.front() : ip(client_ip),
                          .destination = *address,
                          .network = "",
                          .illegal_ports = kIllegal,
                          .number = count});
}

constexpr const char* kMesh = R"(
workloads:
- {uid: client, namespace: shop, serviceAccount: client, node: n1, protocol: HBONE, workloadIps: [10.0.0.1, "2001:db8::1"]}
- {uid: tcp-local, namespace: shop, serviceAccount: tcp, node: n1, workloadIps: [10.0.1.1]}
- {uid: tcp-remote, namespace: shop, serviceAccount: tcp, node: n2, workloadIps: [10.0.1.2]}
- {uid: hbone-local, namespace: shop, serviceAccount: web, node: n1, protocol: HBONE, workloadIps: [10.0.1.3]}
- {uid: hbone-remote, namespace: shop, serviceAccount: web, node: n2, protocol: HBONE, workloadIps: [10.0.1.4]}
- {uid: dual, namespace: shop, serviceAccount: dual, protocol: HBONE, workloadIps: [10.0.1.5, "2001:db8::5"],
   services: {shop/dual: {}, shop/dual4: {}, shop/dual6: {}}}
- {uid: host, namespace: shop, serviceAccount: host, networkMode: HostNetwork, workloadIps: [10.9.0.1], services: {shop/on-host: {}}}
- {uid: numbered, namespace: shop, serviceAccount: api, protocol: HBONE, workloadIps: [10.0.1.6], services: {shop/api: {82: 9999}, shop/sans: {}}}
- {uid: named-port, namespace: shop, serviceAccount: named, protocol: HBONE, workloadIps: [10.0.1.7], services: {shop/named: {80: 9000}}}
- {uid: partner, namespace: shop, serviceAccount: partner, hostname: partner.example, workloadIps: [], services: {shop/partner: {}}}
- {uid: mesh-partner, namespace: shop, serviceAccount: mp, protocol: HBONE, hostname: mp.example, workloadIps: [], services: {shop/mesh-partner: {}}}
- {uid: both, namespace: shop, serviceAccount: both, workloadIps: [10.0.1.8]}
- {uid: stranger, namespace: shop, serviceAccount: s, network: other, protocol: HBONE, workloadIps: [10.5.0.1], services: {shop/abroad: {}}}
services:
- {hostname: api, namespace: shop, vips: [/10.1.0.1, "/2001:db8:1::1"], ports: {80: 8080, 81: 0, 82: 0}}
- {hostname: named, namespace: shop, vips: [/10.1.0.2], ports: {80: 0}}
- {hostname: empty, namespace: shop, vips: [/10.1.0.3], ports: {80: 8080}}
- {hostname: pass, namespace: shop, vips: [/10.1.0.4], cidrVips: [/10.200.0.0/16], ports: {80: 8080}, loadBalancer: {mode: Passthrough}}
- {hostname: on-host, namespace: shop, vips: [/10.1.0.5], ports: {80: 8080}}
- {hostname: dual, namespace: shop, vips: [/10.1.0.6, "/2001:db8:1::6"], ports: {80: 8080}}
- {hostname: dual4, namespace: shop, vips: [/10.1.0.7, "/2001:db8:1::7"], ports: {80: 8080}, ipFamilies: IPv4}
- {hostname: dual6, namespace: shop, vips: [/10.1.0.8, "/2001:db8:1::8"], ports: {80: 8080}, ipFamilies: IPv6}
- {hostname: partner, namespace: shop, vips: [/10.1.0.9, "/2001:db8:1::9"], ports: {443: 8443}}
- {hostname: mesh-partner, namespace: shop, vips: [/10.1.0.10], ports: {443: 8443}}
- {hostname: both, namespace: shop, vips: [/10.0.1.8], ports: {80: 8080}}
- {hostname: abroad, namespace: shop, vips: [/10.1.0.11], ports: {80: 8080}}
- {hostname: sans, namespace: shop, vips: [/10.1.0.12], ports: {80: 8080}, subjectAltNames: ["spiffe://td/ns/x/sa/y", "not an id", "spiffe://cluster.local/ns/shop/sa/api"]}
- {hostname: hidden, namespace: pay, vips: [/10.1.0.13], ports: {80: 8080}, visibility: Namespace}
)";

}  // namespace

TEST_CASE("Where captured connections go") {
  const auto snapshot = mesh(kMesh);
  struct Row {
    const char* name;
    const char* destination;
    const char* expected;
  };
  const Row rows[] = {
      {"an unknown destination passes as it is", "192.0.2.1:443", "plain 192.0.2.1:443 workload=- service=-"},
      {"a TCP workload of our node", "10.0.1.1:80", "plain 10.0.1.1:80 workload=tcp-local service=-"},
      {"a TCP workload of another node", "10.0.1.2:80", "plain 10.0.1.2:80 workload=tcp-remote service=-"},
      {"an HBONE workload of our node: no short cut", "10.0.1.3:80",
       "hbone 10.0.1.3:15008 authority=10.0.1.3:80 expect=[shop/web] workload=hbone-local service=-"},
      {"an HBONE workload of another node", "10.0.1.4:80",
       "hbone 10.0.1.4:15008 authority=10.0.1.4:80 expect=[shop/web] workload=hbone-remote service=-"},
      {"a VIP, port by number", "10.1.0.1:80",
       "hbone 10.0.1.6:15008 authority=10.0.1.6:8080 expect=[shop/api] workload=numbered service=shop/api"},
      {"a VIP, port by name, known to the endpoint", "10.1.0.1:82",
       "hbone 10.0.1.6:15008 authority=10.0.1.6:9999 expect=[shop/api] workload=numbered service=shop/api"},
      {"a VIP, port by name, unknown to the endpoint", "10.1.0.1:81", "deny: no healthy upstream: 10.1.0.1:81"},
      {"a VIP whose endpoint has its own port", "10.1.0.2:80",
       "hbone 10.0.1.7:15008 authority=10.0.1.7:9000 expect=[shop/named] workload=named-port "
       "service=shop/named"},
      {"a VIP, unknown port", "10.1.0.1:8080", "deny: no healthy upstream: 10.1.0.1:8080"},
      {"an IPv6 VIP, unknown port", "[2001:db8:1::1]:8080", "deny: no healthy upstream: [2001:db8:1::1]:8080"},
      {"a service without endpoints is refused, not passed", "10.1.0.3:80", "deny: no healthy upstream: 10.1.0.3:80"},
      {"a PASSTHROUGH service", "10.1.0.4:80", "plain 10.1.0.4:80 workload=- service=-"},
      {"a PASSTHROUGH service, any port", "10.1.0.4:9", "plain 10.1.0.4:9 workload=- service=-"},
      {"an address in the block of a PASSTHROUGH service", "10.200.3.4:443", "plain 10.200.3.4:443 workload=- service=-"},
      {"a host-network address is nobody's", "10.9.0.1:80", "plain 10.9.0.1:80 workload=- service=-"},
      {"a host-network workload as an endpoint", "10.1.0.5:80", "plain 10.9.0.1:8080 workload=host service=shop/on-host"},
      {"dual stack: IPv4 asked, IPv4 taken", "10.1.0.6:80",
       "hbone 10.0.1.5:15008 authority=10.0.1.5:8080 expect=[shop/dual] workload=dual service=shop/dual"},
      {"dual stack: IPv6 asked, IPv6 taken", "[2001:db8:1::6]:80",
       "hbone [2001:db8::5]:15008 authority=[2001:db8::5]:8080 expect=[shop/dual] workload=dual "
       "service=shop/dual"},
      {"an IPv4 service keeps to IPv4", "[2001:db8:1::7]:80",
       "hbone 10.0.1.5:15008 authority=10.0.1.5:8080 expect=[shop/dual] workload=dual service=shop/dual4"},
      {"an IPv6 service keeps to IPv6", "10.1.0.8:80",
       "hbone [2001:db8::5]:15008 authority=[2001:db8::5]:8080 expect=[shop/dual] workload=dual "
       "service=shop/dual6"},
      {"the very address of a dual-stack pod", "[2001:db8::5]:80",
       "hbone [2001:db8::5]:15008 authority=[2001:db8::5]:80 expect=[shop/dual] workload=dual service=-"},
      {"a workload known by hostname", "10.1.0.9:443", "resolve partner.example v4"},
      {"a workload known by hostname, IPv6 client", "[2001:db8:1::9]:443", "resolve partner.example v6"},
      {"an address of a workload and of a service: the service is dialled", "10.0.1.8:80",
       "plain 10.0.1.8:80 workload=- service=-"},
      {"another network without gateway", "10.1.0.11:80", "deny: no valid routing destination for workload: stranger"},
      {"service identities come before the workload's, each once", "10.1.0.12:80",
       "hbone 10.0.1.6:15008 authority=10.0.1.6:8080 expect=[x/y shop/api] workload=numbered "
       "service=shop/sans"},
      {"a hidden service is no service", "10.1.0.13:80", "plain 10.1.0.13:80 workload=- service=-"},
      {"ourselves by loopback", "127.0.0.1:15001", "deny: attempted recursive call to ourselves"},
      {"ourselves by our own address, as redirection that lost the destination would say", "10.0.0.1:15001",
       "deny: attempted recursive call to ourselves"},
      {"ourselves by IPv6 loopback", "[::1]:15008", "deny: attempted recursive call to ourselves"},
      {"another port of loopback", "127.0.0.1:80", "plain 127.0.0.1:80 workload=- service=-"},
      {"a pod's own port 15001 is its proxy's to refuse", "10.0.1.1:15001", "plain 10.0.1.1:15001 workload=tcp-local service=-"},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    CHECK(describe(route_from(*snapshot, "client", row.destination)) == row.expected);
  }
}

TEST_CASE("Refusals carry the reason that the flags are made from") {
  const auto snapshot = mesh(kMesh);
  const auto reason = [&](const char* destination) {
    return std::get<Deny>(route_from(*snapshot, "client", destination)).reason;
  };
  CHECK(reason("127.0.0.1:15001") == Reason::kRecursiveCall);
  CHECK(reason("10.1.0.3:80") == Reason::kNoUpstream);
  CHECK(reason("10.1.0.11:80") == Reason::kNoRoute);
}

TEST_CASE("Hostname workloads go on once resolved: same family first, by turns") {
  const auto snapshot = mesh(kMesh);
  const auto finish = [&](const char* destination, std::vector<IpAddress> addresses, uint64_t number) {
    Route pending = route_from(*snapshot, "client", destination);
    REQUIRE(std::holds_alternative<NeedsResolution>(pending));
    return describe(resolved(std::get<NeedsResolution>(std::move(pending)), addresses, number));
  };
  const std::vector<IpAddress> mixed{ip("2001:db8::a"), ip("192.0.2.1"), ip("192.0.2.2")};
  CHECK(finish("10.1.0.9:443", mixed, 0) == "plain 192.0.2.1:8443 workload=partner service=shop/partner");
  CHECK(finish("10.1.0.9:443", mixed, 1) == "plain 192.0.2.2:8443 workload=partner service=shop/partner");
  CHECK(finish("[2001:db8:1::9]:443", mixed, 1) == "plain [2001:db8::a]:8443 workload=partner service=shop/partner");
  CHECK(finish("10.1.0.9:443", {ip("2001:db8::a")}, 5) == "plain [2001:db8::a]:8443 workload=partner service=shop/partner");
  CHECK(finish("10.1.0.9:443", {}, 0) == "deny: no ip addresses were resolved for workload: partner");
  CHECK(finish("10.1.0.10:443", mixed, 0) ==
        "hbone 192.0.2.1:15008 authority=192.0.2.1:8443 expect=[shop/mp] workload=mesh-partner "
        "service=shop/mesh-partner");
}

TEST_CASE("Waypoints") {
  const auto snapshot = mesh(R"(
workloads:
- {uid: client, namespace: shop, serviceAccount: client, protocol: HBONE, workloadIps: [10.0.0.1]}
- {uid: wp1, namespace: shop, serviceAccount: wp, protocol: TCP, workloadIps: [10.0.2.1, "2001:db8::21"], services: {shop/wp: {15008: 15008}}}
- {uid: web, namespace: shop, serviceAccount: web, protocol: HBONE, workloadIps: [10.0.1.1, "2001:db8::11"], waypoint: {destination: shop/wp}, services: {shop/svc-web: {}}}
- {uid: by-ip, namespace: shop, serviceAccount: web, protocol: HBONE, workloadIps: [10.0.1.2], waypoint: {destination: /10.0.2.1}}
- {uid: by-vip, namespace: shop, serviceAccount: web, protocol: HBONE, workloadIps: [10.0.1.3], waypoint: {destination: /10.1.2.1}}
- {uid: by-host, namespace: shop, serviceAccount: web, protocol: HBONE, workloadIps: [10.0.1.4], waypoint: {destination: pay/wp.example, hboneMtlsPort: 15010}}
- {uid: wp-host, namespace: pay, serviceAccount: wph, hostname: wp.example, workloadIps: [10.0.2.2]}
- {uid: lost, namespace: shop, serviceAccount: web, protocol: HBONE, workloadIps: [10.0.1.5], waypoint: {destination: shop/none}}
- {uid: lost-ip, namespace: shop, serviceAccount: web, protocol: HBONE, workloadIps: [10.0.1.6], waypoint: {destination: /10.0.2.99}}
- {uid: empty-wp, namespace: shop, serviceAccount: web, protocol: HBONE, workloadIps: [10.0.1.7], waypoint: {destination: shop/wp-empty}}
- {uid: sandwich, namespace: shop, serviceAccount: sw, protocol: HBONE, workloadIps: [10.0.2.3], applicationTunnel: {protocol: PROXY, port: 15088}, services: {shop/wp-sandwich: {}}}
- {uid: plain-backend, namespace: shop, serviceAccount: web, protocol: TCP, workloadIps: [10.0.1.8], services: {shop/svc-wp: {}, shop/svc-pass: {}}}
- {uid: canary, namespace: shop, serviceAccount: canary, protocol: HBONE, workloadIps: [10.0.2.4], services: {shop/wp-canary: {}}}
- {uid: weighted-backend, namespace: shop, serviceAccount: web, protocol: HBONE, workloadIps: [10.0.1.9], services: {shop/svc-weighted: {}}}
services:
- {hostname: wp, namespace: shop, vips: [/10.1.2.1], ports: {15008: 15008}, subjectAltNames: ["spiffe://cluster.local/ns/x/sa/san"]}
- {hostname: wp-empty, namespace: shop, ports: {15008: 15008}}
- {hostname: wp-sandwich, namespace: shop, ports: {80: 8080}}
- {hostname: wp-canary, namespace: shop, ports: {15008: 15008}}
- {hostname: svc-wp, namespace: shop, vips: [/10.1.0.1], ports: {80: 8080}, waypoint: {destination: shop/wp}}
- {hostname: svc-web, namespace: shop, vips: [/10.1.0.2], ports: {80: 8080}}
- {hostname: svc-pass, namespace: shop, vips: [/10.1.0.3], ports: {80: 8080}, waypoint: {destination: shop/wp}, loadBalancer: {mode: Passthrough}}
- {hostname: svc-lost, namespace: shop, vips: [/10.1.0.4], ports: {80: 8080}, waypoint: {destination: shop/none}}
- {hostname: svc-sandwich, namespace: shop, vips: [/10.1.0.5], ports: {80: 8080}, waypoint: {destination: shop/wp-sandwich}}
- {hostname: svc-empty, namespace: shop, vips: [/10.1.0.6, "/2001:db8:1::6"], ports: {80: 8080}, waypoint: {destination: shop/wp}}
- {hostname: svc-weighted, namespace: shop, vips: [/10.1.0.7], ports: {80: 8080}, waypoint: {destination: shop/none},
   weightedWaypoints: [{destination: {destination: shop/wp}, weight: 90}, {destination: {destination: shop/wp-canary}, weight: 10}, {destination: {destination: shop/none}, weight: 0}]}
- {hostname: svc-weightless, namespace: shop, vips: [/10.1.0.8], ports: {80: 8080}, waypoint: {destination: shop/wp},
   weightedWaypoints: [{destination: {destination: shop/wp-canary}, weight: 0}]}
)");
  struct Row {
    const char* name;
    const char* source;
    const char* destination;
    const char* expected;
  };
  const Row rows[] = {
      {"a service's waypoint gets the VIP as authority", "client", "10.1.0.1:80",
       "hbone 10.0.2.1:15008 authority=10.1.0.1:80 expect=[x/san shop/wp] workload=wp1 service=shop/svc-wp"},
      {"and whatever port was asked", "client", "10.1.0.1:9999",
       "hbone 10.0.2.1:15008 authority=10.1.0.1:9999 expect=[x/san shop/wp] workload=wp1 "
       "service=shop/svc-wp"},
      {"a service without endpoints still goes to its waypoint, in the client's family", "client", "[2001:db8:1::6]:80",
       "hbone [2001:db8::21]:15008 authority=[2001:db8:1::6]:80 expect=[x/san shop/wp] workload=wp1 "
       "service=shop/svc-empty"},
      {"a PASSTHROUGH service with a waypoint", "client", "10.1.0.3:80",
       "hbone 10.0.2.1:15008 authority=10.1.0.3:80 expect=[x/san shop/wp] workload=wp1 "
       "service=shop/svc-pass"},
      {"a service's waypoint that is not there", "client", "10.1.0.4:80", "deny: unknown waypoint: shop/none"},
      {"a waypoint that takes unlisted ports by an application tunnel", "client", "10.1.0.5:80",
       "hbone 10.0.2.3:15008 authority=10.1.0.5:80 expect=[shop/sw] workload=sandwich "
       "service=shop/svc-sandwich"},
      {"a workload's waypoint by service hostname", "client", "10.0.1.1:80",
       "hbone 10.0.2.1:15008 authority=10.0.1.1:80 expect=[x/san shop/wp] workload=wp1 service=-"},
      {"a workload's waypoint, IPv6", "client", "[2001:db8::11]:80",
       "hbone [2001:db8::21]:15008 authority=[2001:db8::11]:80 expect=[x/san shop/wp] workload=wp1 "
       "service=-"},
      {"a workload's waypoint is for its own address, not for its service's", "client", "10.1.0.2:80",
       "hbone 10.0.1.1:15008 authority=10.0.1.1:8080 expect=[shop/web] workload=web service=shop/svc-web"},
      {"a workload's waypoint by address: HBONE whatever the waypoint's protocol", "client", "10.0.1.2:80",
       "hbone 10.0.2.1:15008 authority=10.0.1.2:80 expect=[shop/wp] workload=wp1 service=-"},
      {"a workload's waypoint by VIP", "client", "10.0.1.3:80",
       "hbone 10.0.2.1:15008 authority=10.0.1.3:80 expect=[x/san shop/wp] workload=wp1 service=-"},
      {"a workload's waypoint by workload hostname, with its port", "client", "10.0.1.4:80",
       "hbone 10.0.2.2:15010 authority=10.0.1.4:80 expect=[pay/wph] workload=wp-host service=-"},
      {"a workload's waypoint that is not there", "client", "10.0.1.5:80", "deny: unknown waypoint: shop/none"},
      {"a workload's waypoint at an unknown address", "client", "10.0.1.6:80", "deny: unknown waypoint: /10.0.2.99"},
      {"a waypoint without endpoints", "client", "10.0.1.7:80", "deny: unknown waypoint: shop/wp-empty"},
      {"from the waypoint straight on", "wp1", "10.0.1.1:80",
       "hbone 10.0.1.1:15008 authority=10.0.1.1:80 expect=[shop/web] workload=web service=-"},
      {"from the waypoint straight on, by address", "wp1", "10.0.1.2:80",
       "hbone 10.0.1.2:15008 authority=10.0.1.2:80 expect=[shop/web] workload=by-ip service=-"},
      {"from the waypoint straight on, by VIP", "wp1", "10.0.1.3:80",
       "hbone 10.0.1.3:15008 authority=10.0.1.3:80 expect=[shop/web] workload=by-vip service=-"},
      {"from another waypoint through the workload's own", "wp1", "10.0.1.4:80",
       "hbone 10.0.2.2:15010 authority=10.0.1.4:80 expect=[pay/wph] workload=wp-host service=-"},
      {"from a captured waypoint to the service it stands for: not through itself again", "wp1", "10.1.0.1:80",
       "plain 10.0.1.8:8080 workload=plain-backend service=shop/svc-wp"},
      {"from a waypoint that gets a part of the service's connections likewise", "canary", "10.1.0.7:80",
       "hbone 10.0.1.9:15008 authority=10.0.1.9:8080 expect=[shop/web] workload=weighted-backend service=shop/svc-weighted"},
      {"weights of 0 leave the plain waypoint", "client", "10.1.0.8:80",
       "hbone 10.0.2.1:15008 authority=10.1.0.8:80 expect=[x/san shop/wp] workload=wp1 "
       "service=shop/svc-weightless"},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    CHECK(describe(route_from(*snapshot, row.source, row.destination)) == row.expected);
  }

  // A pod that only claims a waypoint's address, or its identity, is not the waypoint.
  CHECK(describe(route_from(*snapshot, "client", "10.0.1.2:80", 0, "10.0.2.1")).starts_with("hbone 10.0.2.1"));
  CHECK(describe(route_from(*snapshot, "wp1", "10.0.1.2:80", 0, "10.0.9.9")).starts_with("hbone 10.0.2.1"));
  CHECK(describe(route_from(*snapshot, "wp1", "10.0.1.1:80", 0, "10.0.9.9")).starts_with("hbone 10.0.2.1"));

  std::map<std::string, int> shares;
  for (uint64_t number = 0; number < 1000; ++number)
    ++shares[std::get<Hbone>(route_from(*snapshot, "client", "10.1.0.7:80", number)).to.workload->uid.str()];
  CHECK(shares["wp1"] == Approx(900).margin(10));
  CHECK(shares["canary"] == Approx(100).margin(10));
}

TEST_CASE("Other networks are reached through their gateways") {
  constexpr const char* kNetworks = R"(
workloads:
- {uid: client, namespace: shop, serviceAccount: client, workloadIps: [10.0.0.1]}
- {uid: split, namespace: shop, serviceAccount: sp, network: net2, protocol: HBONE, workloadIps: [], capacity: 3,
   networkGateway: {destination: net2/203.0.113.20, hboneMtlsPort: 15008}, services: {shop/global: {80: 8080}, shop/sw-global: {}}}
- {uid: direct2, namespace: shop, serviceAccount: d2, network: net2, protocol: HBONE, workloadIps: [10.5.0.1],
   networkGateway: {destination: shop/gw.example, hboneMtlsPort: 15011}, services: {shop/hosted: {}}}
- {uid: lost, namespace: shop, serviceAccount: l, network: net3, protocol: HBONE, workloadIps: [], networkGateway: {destination: net3/203.0.113.99}, services: {shop/lost: {}}}
- {uid: gateway, namespace: istio-system, serviceAccount: gw, network: net2, protocol: TCP, workloadIps: [203.0.113.20]}
- {uid: gateway-by-host, namespace: shop, serviceAccount: gwh, network: net2, hostname: gw.example, workloadIps: []}
- {uid: remote-wp, namespace: shop, serviceAccount: rwp, network: net2, protocol: HBONE, workloadIps: [], networkGateway: {destination: net2/203.0.113.20}, services: {shop/wp: {}}}
- {uid: near, namespace: shop, serviceAccount: near, protocol: HBONE, workloadIps: [10.0.0.2], services: {shop/failover: {}}}
- {uid: far, namespace: shop, serviceAccount: far, network: net2, protocol: HBONE, workloadIps: [], networkGateway: {destination: net2/203.0.113.20}, services: {shop/failover: {}}}
services:
- {hostname: global, namespace: shop, vips: [/10.1.0.1, net2/10.6.0.1], ports: {80: 8080}, subjectAltNames: ["spiffe://cluster.local/ns/shop/sa/remote", "spiffe://td2/ns/shop/sa/other"]}
- {hostname: hosted, namespace: shop, vips: [/10.1.0.2], ports: {80: 8080}}
- {hostname: lost, namespace: shop, vips: [/10.1.0.3], ports: {80: 8080}}
- {hostname: wp, namespace: shop, ports: {15008: 15008}}
- {hostname: with-wp, namespace: shop, vips: [/10.1.0.4], ports: {80: 8080}, waypoint: {destination: shop/wp}, subjectAltNames: ["spiffe://cluster.local/ns/shop/sa/remote"]}
- {hostname: failover, namespace: shop, vips: [/10.1.0.5], ports: {80: 8080}, loadBalancer: {mode: Failover, routingPreferences: [Network, Region, Zone]}}
)";
  const auto snapshot = mesh(kNetworks);
  CHECK(describe(route_from(*snapshot, "client", "10.1.0.1:80")) ==
        "double 203.0.113.20:15008 authority=global:80 expect=[istio-system/gw] inner=[shop/remote "
        "shop/other] workload=gateway service=shop/global");
  CHECK(describe(route_from(*snapshot, "client", "10.1.0.3:80")) == "deny: unknown network gateway: net3/203.0.113.99");
  CHECK(describe(route_from(*snapshot, "client", "10.1.0.4:81")) ==
        "double 203.0.113.20:15008 authority=with-wp:81 expect=[istio-system/gw] inner=[shop/remote] "
        "workload=gateway service=shop/with-wp");

  Route by_host = route_from(*snapshot, "client", "10.1.0.2:80");
  CHECK(describe(by_host) == "resolve gw.example v4");
  const IpAddress gateway[] = {ip("203.0.113.30")};
  CHECK(describe(resolved(std::get<NeedsResolution>(std::move(by_host)), gateway, 0)) ==
        "double 203.0.113.30:15011 authority=hosted:80 expect=[shop/gwh] inner=[] workload=gateway-by-host "
        "service=shop/hosted");

  SECTION("only when the own network has none") {
    CHECK(describe(route_from(*snapshot, "client", "10.1.0.5:80")).starts_with("hbone 10.0.0.2:15008"));
    Store store({});
    store.apply(*workload_api::parse_local_config(kNetworks, "test.yaml"));
    workload_api::Batch batch;
    batch.removed_addresses = {"near"};
    store.apply(std::move(batch));
    CHECK(describe(route_from(*store.snapshot(), "client", "10.1.0.5:80"))
              .starts_with("double 203.0.113.20:15008 authority=failover:80"));
  }
}

TEST_CASE("A workload of another network at an address of ours needs a service") {
  // An address is looked up in the source's network, the service in ours: they differ only in odd set-ups.
  const auto snapshot = mesh(R"(
workloads:
- {uid: client, namespace: shop, network: n1, serviceAccount: client, workloadIps: [10.0.0.1]}
- {uid: abroad, namespace: shop, network: n2, serviceAccount: a, protocol: HBONE, workloadIps: [10.5.0.1], services: {shop/svc: {}}}
services: [{hostname: svc, namespace: shop, vips: [n1/10.1.0.1], ports: {80: 8080}}]
)");
  const Route denied = route_from(*snapshot, "client", "10.1.0.1:80");
  CHECK(describe(denied) == "deny: no service for target address: 10.1.0.1:80");
  CHECK(std::get<Deny>(denied).reason == Reason::kNoService);
}

TEST_CASE("Turns are per service, so that connections to two services in alternation reach all endpoints of both") {
  const auto snapshot = mesh(R"(
workloads:
- {uid: client, namespace: shop, workloadIps: [10.0.0.1]}
- {uid: a1, namespace: shop, workloadIps: [10.0.1.1], services: {shop/a: {}}}
- {uid: a2, namespace: shop, workloadIps: [10.0.1.2], services: {shop/a: {}}}
- {uid: b1, namespace: shop, workloadIps: [10.0.2.1], services: {shop/b: {}}}
- {uid: b2, namespace: shop, workloadIps: [10.0.2.2], services: {shop/b: {}}}
services:
- {hostname: a, namespace: shop, vips: [/10.1.0.1], ports: {80: 80}}
- {hostname: b, namespace: shop, vips: [/10.1.0.2], ports: {80: 80}}
)");
  auto turns = std::make_unique<RoundRobin>(42);
  const NumberFor number = [&](const Service& service) { return (*turns)(service); };
  std::map<std::string, int> counts;
  for (int i = 0; i < 100; ++i)
    for (const char* destination : {"10.1.0.1:80", "10.1.0.2:80"}) {
      const Workload& client = *snapshot->workload("client");
      const Route way =
          route(*snapshot, {client, client.addresses.front(), *SocketAddress::parse(destination), "", kIllegal, number});
      ++counts[std::get<Plain>(way).to.workload->uid.str()];
    }
  CHECK(counts == std::map<std::string, int>{{"a1", 50}, {"a2", 50}, {"b1", 50}, {"b2", 50}});
}

TEST_CASE("Five hundred pods with one connection each hit the endpoints of a service evenly") {
  std::string text = R"(
services:
- {hostname: a, namespace: shop, vips: [/10.1.0.1], ports: {80: 80}}
workloads:
)";
  for (int i = 0; i < 5; ++i) {
    text += "- {uid: e" + std::to_string(i) + ", namespace: shop, workloadIps: [10.0.1." + std::to_string(i + 1) +
            "], services: {shop/a: {}}}\n";
  }
  for (int i = 0; i < 500; ++i) {
    text += "- {uid: c" + std::to_string(i) + ", namespace: shop, workloadIps: [10.2." + std::to_string(i / 250) + "." +
            std::to_string(i % 250 + 1) + "]}\n";
  }
  const auto snapshot = mesh(text.c_str());
  // As on a node with two workers: one count for each, shared by all of its pods.
  std::vector<std::unique_ptr<RoundRobin>> turns;
  for (const uint64_t seed : {11, 12}) turns.push_back(std::make_unique<RoundRobin>(seed));
  std::map<std::string, int> hits;
  for (int i = 0; i < 500; ++i) {
    const NumberFor number = std::ref(*turns[static_cast<size_t>(i % 2)]);
    const Workload& client = *snapshot->workload(("c" + std::to_string(i)).c_str());
    const Route way =
        route(*snapshot, {client, client.addresses.front(), *SocketAddress::parse("10.1.0.1:80"), "", kIllegal, number});
    ++hits[std::get<Plain>(way).to.workload->uid.str()];
  }
  REQUIRE(hits.size() == 5);
  for (const auto& [endpoint, count] : hits) CHECK(count == 100);
}

TEST_CASE("On demand, what the way needs and nobody knows is named as the control plane knows it") {
  const auto snapshot = mesh(R"(
workloads:
- {uid: client, namespace: shop, workloadIps: [10.0.0.1], network: n1}
- {uid: web, namespace: shop, workloadIps: [10.0.1.1], network: n1, services: {}}
- {uid: wp, namespace: shop, workloadIps: [10.0.2.1], network: n1, services: {}}
- {uid: known-wp, namespace: shop, workloadIps: [10.0.1.2], network: n1, waypoint: {destination: n1/10.0.2.1}, services: {}}
- {uid: lost-wp, namespace: shop, workloadIps: [10.0.1.3], network: n1, waypoint: {destination: n1/10.0.2.9}, services: {}}
- {uid: gw, namespace: shop, workloadIps: [10.0.2.2], network: n1, services: {}}
- {uid: abroad, namespace: shop, workloadIps: [], network: n2, networkGateway: {destination: shop/gw.example}, services: {shop/c: {}}}
- {uid: near-gw, namespace: shop, workloadIps: [], network: n2, networkGateway: {destination: n1/10.0.2.2}, services: {shop/d: {}}}
- {uid: wp-abroad, namespace: shop, workloadIps: [], network: n2, networkGateway: {destination: n2/10.7.0.1}, services: {shop/wp-abroad: {}}}
services:
- {hostname: a, namespace: shop, vips: [n1/10.1.0.1], ports: {80: 8080}}
- {hostname: b, namespace: shop, vips: [n1/10.1.0.2], ports: {80: 8080}, waypoint: {destination: shop/wp.example}}
- {hostname: c, namespace: shop, vips: [n1/10.1.0.3], ports: {80: 8080}}
- {hostname: d, namespace: shop, vips: [n1/10.1.0.4], ports: {80: 8080}}
- {hostname: wp-abroad, namespace: shop, vips: [n1/10.1.0.5], ports: {15008: 15008}}
- {hostname: e, namespace: shop, vips: [n1/10.1.0.6], ports: {80: 8080}, waypoint: {destination: shop/wp-abroad, hboneMtlsPort: 15008}}
- {hostname: f, namespace: shop, vips: [n1/10.1.0.7], ports: {80: 8080},
   weightedWaypoints: [{destination: {destination: shop/x}, weight: 1}, {destination: {destination: shop/y}, weight: 0}]}
)");
  struct Row {
    const char* name;
    const char* destination;
    std::optional<std::string> expected;
  };
  const Row rows[] = {
      {"an address of nobody", "10.9.9.9:80", "n1/10.9.9.9"},
      {"of IPv6", "[2001:db8::9]:80", "n1/2001:db8::9"},
      {"a workload", "10.0.1.1:80", {}},
      {"a service, though nobody serves it", "10.1.0.1:80", {}},
      {"a waypoint that is known", "10.0.1.2:80", {}},
      {"a waypoint by address", "10.0.1.3:80", "n1/10.0.2.9"},
      {"a service's waypoint", "10.1.0.2:80", "shop/wp.example"},
      {"one that has a weight", "10.1.0.7:80", "shop/x"},
      {"the gateway to an endpoint", "10.1.0.3:80", "shop/gw.example"},
      {"a gateway that is known", "10.1.0.4:80", {}},
      {"the gateway to a waypoint that is known", "10.1.0.6:80", "n2/10.7.0.1"},
      {"our own loopback", "127.0.0.1:80", {}},
  };
  const Workload& client = *snapshot->workload("client");
  const NumberFor count = [](const Service&) { return 0; };
  for (const Row& row : rows) {
    INFO(row.name);
    const OutboundRequest request{.source = client,
                                  .client_ip = ip("10.0.0.1"),
                                  .destination = *SocketAddress::parse(row.destination),
                                  .network = "n1",
                                  .illegal_ports = kIllegal,
                                  .number = count};
    const Route way = route(*snapshot, request);
    INFO(describe(way));
    CHECK(unknown_on_route(*snapshot, request, way) == row.expected);
  }
}

namespace {
// "address:port" or "host:port"; the test's own texts.
Authority authority_of(std::string_view text) {
  if (const auto address = SocketAddress::parse(text)) return *address;
  const auto parts = split_host_port(text);
  REQUIRE(parts);
  return HostPort{std::string(parts->host), parts->port};
}
}  // namespace

TEST_CASE("Where inbound tunnels lead") {
  const auto snapshot = mesh(R"(
workloads:
- {uid: web, namespace: shop, serviceAccount: web, protocol: HBONE, workloadIps: [10.0.0.1], services: {shop/web: {82: 9999}, shop/shared: {}}}
- {uid: unhealthy, namespace: shop, serviceAccount: web, status: Unhealthy, workloadIps: [10.0.0.9], services: {shop/web: {82: 7777}}}
- {uid: wp, namespace: shop, serviceAccount: wp, protocol: HBONE, workloadIps: [10.0.0.2], services: {shop/wp: {}}}
- {uid: none-tunnel, namespace: shop, serviceAccount: t, workloadIps: [10.0.0.3], applicationTunnel: {protocol: NONE}}
- {uid: port-tunnel, namespace: shop, serviceAccount: t, workloadIps: [10.0.0.4], applicationTunnel: {protocol: NONE, port: 15088}}
- {uid: proxy-tunnel, namespace: shop, serviceAccount: t, workloadIps: [10.0.0.5], applicationTunnel: {protocol: PROXY, port: 15088}}
- {uid: behind-wp, namespace: shop, serviceAccount: b, workloadIps: [10.0.0.6], waypoint: {destination: shop/wp}}
- {uid: behind-ip, namespace: shop, serviceAccount: b, workloadIps: [10.0.0.7], waypoint: {destination: /10.0.0.2}}
- {uid: behind-other, namespace: shop, serviceAccount: b, workloadIps: [10.0.0.8], waypoint: {destination: shop/other-wp}}
services:
- {hostname: web, namespace: shop, vips: [/10.1.0.1], ports: {80: 8080, 81: 0, 82: 0, 83: 15008}}
- {hostname: shared, namespace: shop, ports: {80: 8081}}
- {hostname: shared, namespace: pay, ports: {80: 8082}, canonical: true}
- {hostname: hidden, namespace: pay, ports: {80: 8082}, visibility: Namespace}
- {hostname: wp, namespace: shop, vips: [/10.1.0.2], ports: {15008: 15008}}
- {hostname: other-wp, namespace: shop, ports: {15008: 15008}}
- {hostname: svc-wp, namespace: shop, vips: [/10.1.0.3], ports: {80: 8080}, waypoint: {destination: shop/wp}}
- {hostname: svc-weighted, namespace: shop, vips: [/10.1.0.4], ports: {80: 8080},
   weightedWaypoints: [{destination: {destination: shop/other-wp}, weight: 90}, {destination: {destination: shop/wp}, weight: 10}]}
- {hostname: svc-weight0, namespace: shop, vips: [/10.1.0.5], ports: {80: 8080}, weightedWaypoints: [{destination: {destination: shop/wp}, weight: 0}]}
- {hostname: two-nets, namespace: shop, vips: [other/10.6.0.1, "/2001:db8:1::1", /10.1.0.6], ports: {80: 8080}}
- {hostname: only-other, namespace: shop, vips: ["other/2001:db8:6::1", other/10.6.0.2], ports: {80: 8080}}
- {hostname: headless, namespace: shop, ports: {80: 8080}}
)");
  struct Row {
    const char* name;
    const char* workload;
    const char* authority;
    const char* expected;  // "address [proxy=address] [service]", or the error
    Reason reason = Reason::kOk;
  };
  const Row rows[] = {
      {"its own address", "web", "10.0.0.1:8080", "10.0.0.1:8080"},
      {"any port of it", "web", "10.0.0.1:1", "10.0.0.1:1"},
      {"another pod's address", "web", "10.0.0.2:8080", "ip mismatch: 10.0.0.1 != 10.0.0.2", Reason::kIpMismatch},
      {"an unknown address", "web", "192.0.2.1:80", "ip mismatch: 10.0.0.1 != 192.0.2.1", Reason::kIpMismatch},
      {"its service's address", "web", "10.1.0.1:80", "ip mismatch: 10.0.0.1 != 10.1.0.1", Reason::kIpMismatch},
      {"port of the outbound listener", "web", "10.0.0.1:15001", "attempted recursive call to ourselves", Reason::kRecursiveCall},
      {"port of the tunnel", "web", "10.0.0.1:15008", "attempted recursive call to ourselves", Reason::kRecursiveCall},
      {"a hostname, port by number", "web", "web:80", "10.0.0.1:8080 shop/web"},
      {"a hostname, port by name", "web", "web:82", "10.0.0.1:9999 shop/web"},
      {"a hostname, port by name, not ready yet", "unhealthy", "web:82", "10.0.0.9:7777 shop/web"},
      {"a hostname, port by name that it does not have", "web", "web:81",
       "requested service shop/web found, but cannot resolve port 81", Reason::kNoUpstream},
      {"a hostname, unknown port", "web", "web:90", "requested service shop/web found, but cannot resolve port 90",
       Reason::kNoUpstream},
      {"a hostname that leads to an illegal port", "web", "web:83", "attempted recursive call to ourselves",
       Reason::kRecursiveCall},
      {"a hostname of two namespaces: its own", "web", "shared:80", "10.0.0.1:8081 shop/shared"},
      {"an unknown hostname", "web", "nobody:80", "no service or workload for hostname: nobody", Reason::kNoService},
      {"a hostname that its namespace does not see", "web", "hidden:80", "no service or workload for hostname: hidden",
       Reason::kNoService},
      {"a hostname it is no endpoint of", "wp", "web:80", "this workload is no endpoint of the service for hostname: web",
       Reason::kNoService},
      {"a hostname it is the waypoint of", "wp", "svc-wp:80", "10.0.0.2:8080 shop/svc-wp"},
      {"a hostname it gets a part of", "wp", "svc-weighted:80", "10.0.0.2:8080 shop/svc-weighted"},
      {"a hostname that gives it none", "wp", "svc-weight0:80",
       "this workload is no endpoint of the service for hostname: svc-weight0", Reason::kNoService},
      {"an application tunnel takes any address", "none-tunnel", "192.0.2.1:80", "10.0.0.3:80"},
      {"an application tunnel with a port", "port-tunnel", "192.0.2.1:80", "10.0.0.4:15088"},
      {"an application tunnel does not hide illegal ports", "port-tunnel", "192.0.2.1:15001",
       "attempted recursive call to ourselves", Reason::kRecursiveCall},
      {"a PROXY tunnel tells the address asked for", "proxy-tunnel", "10.1.0.1:80", "10.0.0.5:15088 proxy=10.1.0.1:80"},
      {"a PROXY tunnel tells a VIP for a hostname: our network, the client's family", "proxy-tunnel", "two-nets:80",
       "10.0.0.5:15088 proxy=10.1.0.6:80 shop/two-nets"},
      {"a PROXY tunnel tells a VIP of another network if there is no other", "proxy-tunnel", "only-other:80",
       "10.0.0.5:15088 proxy=10.6.0.2:80 shop/only-other"},
      {"a PROXY tunnel needs a VIP", "proxy-tunnel", "headless:80", "service shop/headless has no IP addresses",
       Reason::kNoUpstream},
      {"sandwich: a workload whose waypoint it is", "wp", "10.0.0.6:80", "10.0.0.2:80"},
      {"sandwich: a workload whose waypoint it is by address", "wp", "10.0.0.7:80", "10.0.0.2:80"},
      {"sandwich: a workload whose waypoint it is not", "wp", "10.0.0.8:80", "ip mismatch: 10.0.0.2 != 10.0.0.8",
       Reason::kIpMismatch},
      {"sandwich: a service whose waypoint it is", "wp", "10.1.0.3:80", "10.0.0.2:80"},
      {"sandwich: a service that gives it a part of its connections", "wp", "10.1.0.4:80", "10.0.0.2:80"},
      {"sandwich: a service that gives it none", "wp", "10.1.0.5:80", "ip mismatch: 10.0.0.2 != 10.1.0.5", Reason::kIpMismatch},
      {"sandwich: somebody else's waypoint", "web", "10.1.0.3:80", "ip mismatch: 10.0.0.1 != 10.1.0.3", Reason::kIpMismatch},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    const Workload& workload = *snapshot->workload(row.workload);
    const Authority authority = authority_of(row.authority);
    const auto target = inbound_target(*snapshot, {.workload = workload,
                                                   .local = {workload.addresses.front(), 15008},
                                                   .client_ip = ip("10.0.0.77"),
                                                   .authority = authority,
                                                   .network = "",
                                                   .illegal_ports = kIllegal});
    if (!target) {
      CHECK(target.error().text == row.expected);
      CHECK(target.error().reason == row.reason);
      continue;
    }
    std::string text = target->upstream.to_string();
    if (target->proxy_destination) text += " proxy=" + target->proxy_destination->to_string();
    if (target->service) text += " " + target->service->key.str();
    CHECK(text == row.expected);
  }
}

TEST_CASE("The service that telemetry names for an inbound connection") {
  const auto snapshot = mesh(R"(
workloads:
- {uid: web, namespace: shop, workloadIps: [10.0.0.1], services: {shop/a: {80: 8080}, shop/b: {}, shop/c: {80: 9999}, shop/not-there: {}}}
services:
- {hostname: a, namespace: shop, ports: {80: 8080}}
- {hostname: b, namespace: shop, ports: {80: 8080, 90: 9090}}
- {hostname: c, namespace: shop, ports: {80: 0}}
- {hostname: d, namespace: shop, ports: {80: 8080}}
)");
  const auto name = [&](uint16_t port, std::string_view forwarded) {
    const InboundTarget target{.upstream = {ip("10.0.0.1"), port}, .proxy_destination = {}, .service = {}};
    const auto service = inbound_service(*snapshot, *snapshot->workload("web"), target, forwarded);
    return service ? service->key.str() : "none";
  };
  CHECK(name(8080, "") == "shop/a");
  CHECK(name(8080, "b") == "shop/b");
  CHECK(name(8080, "d") == "shop/a");  // not one of its services: a header proves nothing
  CHECK(name(9090, "") == "shop/b");
  CHECK(name(9999, "") == "shop/c");
  CHECK(name(1234, "") == "none");
  CHECK(name(1234, "c") == "shop/c");
}

}  // namespace zt::ztunnel
