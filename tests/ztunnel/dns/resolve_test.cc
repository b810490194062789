#include "ztunnel/dns/resolve.h"

#include <iterator>
#include <set>
#include <sstream>

#include "tests/ztunnel/dns/support.h"

namespace zt::ztunnel::dns::test {
namespace {

constexpr const char* kMesh = R"(
workloads:
- {uid: c//Pod/shop/web-1, name: web-1, namespace: shop, serviceAccount: web, workloadIps: [10.0.0.1], network: ""}
- {uid: c//Pod/shop/db-0, name: db-0, namespace: shop, serviceAccount: db, workloadIps: [10.0.0.10, "fd00::10"],
   services: {"shop/db.shop.svc.cluster.local": {"5432": 6432}}}
- {uid: c//Pod/shop/db-1, name: db-1, namespace: shop, serviceAccount: db, workloadIps: [10.0.0.11], networkMode: HostNetwork,
   services: {"shop/db.shop.svc.cluster.local": {"5432": 6432}}}
- {uid: c//Pod/shop/db-2, name: db-2, namespace: shop, serviceAccount: db, workloadIps: ["fd00::12"],
   services: {"shop/db.shop.svc.cluster.local": {"5432": 6432}}}
- {uid: c//Pod/shop/db-3, name: db-3, namespace: shop, serviceAccount: db, workloadIps: [10.0.0.13], status: Unhealthy,
   services: {"shop/db.shop.svc.cluster.local": {"5432": 6432}}}
- {uid: c//Pod/shop/db-4, name: db-4, namespace: shop, serviceAccount: db, workloadIps: [10.0.0.14], network: other,
   services: {"shop/db.shop.svc.cluster.local": {"5432": 6432}}}
- {uid: c//Pod/shop/plain-x7, name: plain-x7, namespace: shop, serviceAccount: db, workloadIps: [10.0.0.15],
   services: {"shop/one.shop.svc.cluster.local": {"80": 80}}}
- {uid: se/host, name: host, namespace: shop, serviceAccount: x, hostname: real.partner.example, workloadIps: [],
   services: {"shop/auto.partner.example": {"443": 443}}}
services:
- {name: web, namespace: shop, hostname: web.shop.svc.cluster.local, vips: [/10.96.0.1, "/fd00:96::1", other/10.96.9.9], ports: {"80": 8080, "443": 8443}}
- {name: v4, namespace: shop, hostname: v4.shop.svc.cluster.local, vips: [/10.96.0.2], ports: {"80": 80}, ipFamilies: IPv4}
- {name: v6, namespace: shop, hostname: v6.shop.svc.cluster.local, vips: ["/fd00:96::3"], ports: {"80": 80}, ipFamilies: IPv6}
- {name: db, namespace: shop, hostname: db.shop.svc.cluster.local, vips: [], ports: {"5432": 6432}}
- {name: one, namespace: shop, hostname: one.shop.svc.cluster.local, vips: [], ports: {"80": 80}}
- {name: none, namespace: shop, hostname: none.shop.svc.cluster.local, vips: [], ports: {"80": 80}}
- {name: far, namespace: shop, hostname: far.shop.svc.cluster.local, vips: [other/10.96.0.4], ports: {"80": 80}}
- {name: auto, namespace: shop, hostname: auto.partner.example, vips: [/240.240.0.1], ports: {"443": 443}}
- {name: bare, namespace: shop, hostname: bare.example, vips: [], ports: {"443": 443}}
- {name: blocks, namespace: shop, hostname: blocks.example, vips: [], cidrVips: [{network: "", cidr: 10.9.0.0/16}], ports: {"443": 443}}
- {name: wild, namespace: shop, hostname: "*.wild.example", vips: [/240.240.0.2], ports: {"443": 443}}
- {name: inner, namespace: shop, hostname: "*.deep.wild.example", vips: [/240.240.0.3], ports: {"443": 443}}
- {name: api, namespace: pay, hostname: api.pay.svc.cluster.local, vips: [/10.96.0.5], ports: {"80": 80}}
- {name: own, namespace: pay, hostname: hidden.example, vips: [/10.96.0.6], ports: {"80": 80}, visibility: Namespace}
- {name: twice, namespace: a, hostname: twice.example, vips: [/10.96.1.1], ports: {"80": 80}}
- {name: twice, namespace: b, hostname: twice.example, vips: [/10.96.1.2], ports: {"80": 80}}
- {name: twice, namespace: c, hostname: twice.example, vips: [/10.96.1.3], ports: {"80": 80}, canonical: true}
- {name: mixed, namespace: a, hostname: mixed.example, vips: [], ports: {"80": 80}}
- {name: mixed, namespace: b, hostname: mixed.example, vips: [/10.96.1.5], ports: {"80": 80}}
)";

struct From {
  std::string ns = "shop";
  std::string network = {};
  std::optional<std::string> preferred = {};
  bool ipv6 = true;
  std::string domain = "cluster.local";
};

// "upstream", "upstream, else …" or the answer, as describe() has it, with addresses in order.
std::string answer_of(const workload_api::Snapshot& snapshot, std::string_view name, uint16_t type = ns_t_a,
                      const From& from = {}) {
  const Bytes message = ask(name, {.type = type});
  const Query query(message);
  REQUIRE(query.kind() == Query::Kind::kQuestion);
  const NameRules rules = NameRules::of_pod(from.ns, from.domain);
  auto resolution =
      resolve(snapshot, {.names = rules, .network = from.network, .preferred_ns = from.preferred, .ipv6 = from.ipv6}, query);
  if (resolution.by == Resolution::By::kUpstream) return "upstream";
  std::ranges::sort(resolution.found.addresses);
  std::string text = resolution.by == Resolution::By::kUpstreamThenMesh ? "upstream, else " : "";
  Bytes out;
  write_answer(query, std::move(resolution.found), 0, kMaxMessageBytes, out);
  return text + describe(out);
}

std::set<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  return {std::istream_iterator<std::string>(in), {}};
}

TEST_CASE("What the mesh answers, and what it leaves to the upstream") {
  const auto snapshot = mesh(kMesh);
  const auto [name, type, expected] = GENERATE(table<const char*, ns_type, const char*>({
      {"web.shop.svc.cluster.local", ns_t_a, "NOERROR aa web.shop.svc.cluster.local 10.96.0.1"},
      {"web.shop.svc.cluster.local", ns_t_aaaa, "NOERROR aa web.shop.svc.cluster.local fd00:96::1"},
      {"web.shop.svc.cluster.local", ns_t_txt, "upstream"},
      {"web.shop.svc.cluster.local", ns_t_any, "upstream"},
      {"web", ns_t_a, "NOERROR aa web 10.96.0.1"},
      {"WEB.shop", ns_t_a, "NOERROR aa web.shop 10.96.0.1"},
      {"web.shop.svc", ns_t_a, "NOERROR aa web.shop.svc 10.96.0.1"},
      {"api.pay", ns_t_a, "NOERROR aa api.pay 10.96.0.5"},
      {"api", ns_t_a, "upstream"},
      {"nosuch.shop.svc.cluster.local", ns_t_a, "upstream"},
      {"www.example.com", ns_t_a, "upstream"},
      {".", ns_t_a, "upstream"},
      {"com", ns_t_a, "upstream"},
      // families
      {"v4.shop", ns_t_aaaa, "NOERROR aa"},
      {"v4.shop", ns_t_a, "NOERROR aa v4.shop 10.96.0.2"},
      {"v6.shop", ns_t_a, "NOERROR aa"},
      {"v6.shop", ns_t_aaaa, "NOERROR aa v6.shop fd00:96::3"},
      // another network's address is no use here
      {"far.shop.svc.cluster.local", ns_t_a, "NOERROR aa"},
      // what is not ours to answer
      {"bare.example", ns_t_a, "upstream"},
      {"blocks.example", ns_t_a, "upstream"},
      {"hidden.example", ns_t_a, "upstream"},
      {"real.partner.example", ns_t_a, "upstream"},
      {"auto.partner.example", ns_t_a, "NOERROR aa auto.partner.example 240.240.0.1"},
      {"none.shop", ns_t_a, "NOERROR aa"},
      // wildcards
      {"a.wild.example", ns_t_a, "NOERROR aa a.wild.example 240.240.0.2"},
      {"a.b.wild.example", ns_t_a, "NOERROR aa a.b.wild.example 240.240.0.2"},
      {"a.deep.wild.example", ns_t_a, "NOERROR aa a.deep.wild.example 240.240.0.3"},
      {"wild.example", ns_t_a, "upstream"},
      {"a.wild.example.shop.svc.cluster.local", ns_t_a, "NOERROR aa a.wild.example.shop.svc.cluster.local 240.240.0.2"},
      // search domains
      {"auto.partner.example.shop.svc.cluster.local", ns_t_a,
       "NOERROR aa auto.partner.example.shop.svc.cluster.local CNAME auto.partner.example auto.partner.example 240.240.0.1"},
      {"auto.partner.example.cluster.local", ns_t_a,
       "NOERROR aa auto.partner.example.cluster.local CNAME auto.partner.example auto.partner.example 240.240.0.1"},
      {"auto.partner.example.pay.svc.cluster.local", ns_t_a, "upstream"},
      {"v4.shop.svc.cluster.local.shop.svc.cluster.local", ns_t_aaaa, "NOERROR aa"},
      // pods of headless services
      {"db-0.db.shop.svc.cluster.local", ns_t_a, "NOERROR aa db-0.db.shop.svc.cluster.local 10.0.0.10"},
      {"db-0.db.shop.svc.cluster.local", ns_t_aaaa, "NOERROR aa db-0.db.shop.svc.cluster.local fd00::10"},
      {"db-0.db", ns_t_a, "NOERROR aa db-0.db 10.0.0.10"},
      {"db-0.db.shop", ns_t_a, "NOERROR aa db-0.db.shop 10.0.0.10"},
      {"db-2.db.shop", ns_t_a, "NOERROR aa"},
      {"db-3.db.shop.svc.cluster.local", ns_t_a, "upstream"},
      {"db-9.db.shop.svc.cluster.local", ns_t_a, "upstream"},
      {"10-0-0-11.db.shop.svc.cluster.local", ns_t_a, "NOERROR aa 10-0-0-11.db.shop.svc.cluster.local 10.0.0.11"},
      {"plain-x7.one.shop.svc.cluster.local", ns_t_a, "upstream"},
      {"web-1.web.shop.svc.cluster.local", ns_t_a, "upstream"},
      // reverse names
      {"1.0.96.10.in-addr.arpa", ns_t_ptr, "NOERROR aa 1.0.96.10.in-addr.arpa PTR web.shop.svc.cluster.local"},
      {"1.0.240.240.in-addr.arpa", ns_t_ptr, "NOERROR aa 1.0.240.240.in-addr.arpa PTR auto.partner.example"},
      {"2.0.240.240.in-addr.arpa", ns_t_ptr, "upstream"},
      {"1.0.9.10.in-addr.arpa", ns_t_ptr, "upstream"},
      {"6.0.96.10.in-addr.arpa", ns_t_ptr, "upstream"},
      {"10.0.0.10.in-addr.arpa", ns_t_ptr, "NOERROR aa 10.0.0.10.in-addr.arpa PTR db-0.db.shop.svc.cluster.local"},
      {"15.0.0.10.in-addr.arpa", ns_t_ptr, "NOERROR aa 15.0.0.10.in-addr.arpa PTR 10-0-0-15.one.shop.svc.cluster.local"},
      {"1.0.0.10.in-addr.arpa", ns_t_ptr, "upstream"},
      {"8.8.8.8.in-addr.arpa", ns_t_ptr, "upstream"},
      // services
      {"_80._tcp.web.shop.svc.cluster.local", ns_t_srv,
       "upstream, else NOERROR aa _80._tcp.web.shop.svc.cluster.local SRV 80 web.shop.svc.cluster.local"},
      {"_http._tcp.web.shop.svc.cluster.local", ns_t_srv, "upstream"},
      {"_grpclb._tcp.web.shop.svc.cluster.local", ns_t_srv, "upstream"},
      {"_80._udp.web.shop.svc.cluster.local", ns_t_srv, "upstream"},
      {"_81._tcp.web.shop.svc.cluster.local", ns_t_srv, "upstream"},
      {"db-0.db.shop.svc.cluster.local", ns_t_srv,
       "upstream, else NOERROR aa db-0.db.shop.svc.cluster.local SRV 6432 db-0.db.shop.svc.cluster.local"},
      {"a.wild.example", ns_t_srv, "upstream"},
  }));
  INFO(name);
  CHECK(answer_of(*snapshot, name, type) == expected);
}

TEST_CASE("A headless service has the addresses of its healthy endpoints, of any network and of the host") {
  const auto snapshot = mesh(kMesh);
  CHECK(words_of(answer_of(*snapshot, "db.shop.svc.cluster.local")) ==
        words_of("NOERROR aa db.shop.svc.cluster.local 10.0.0.10 10.0.0.11 10.0.0.14"));
  CHECK(words_of(answer_of(*snapshot, "db.shop.svc.cluster.local", ns_t_aaaa)) ==
        words_of("NOERROR aa db.shop.svc.cluster.local fd00::10 fd00::12"));
  CHECK(words_of(answer_of(*snapshot, "db.shop.svc.cluster.local", ns_t_srv)) ==
        words_of("upstream, else NOERROR aa db.shop.svc.cluster.local SRV 6432 db-0.db.shop.svc.cluster.local "
                 "db-1.db.shop.svc.cluster.local db-2.db.shop.svc.cluster.local db-4.db.shop.svc.cluster.local"));
}

TEST_CASE("Who asks decides: the namespace, the network, whether there is IPv6") {
  const auto snapshot = mesh(kMesh);
  CHECK(answer_of(*snapshot, "api", ns_t_a, {.ns = "pay"}) == "NOERROR aa api 10.96.0.5");
  CHECK(answer_of(*snapshot, "hidden.example", ns_t_a, {.ns = "pay"}) == "NOERROR aa hidden.example 10.96.0.6");
  CHECK(answer_of(*snapshot, "6.0.96.10.in-addr.arpa", ns_t_ptr, {.ns = "pay"}) ==
        "NOERROR aa 6.0.96.10.in-addr.arpa PTR hidden.example");
  CHECK(answer_of(*snapshot, "web.shop", ns_t_a, {.network = "other"}) == "NOERROR aa web.shop 10.96.9.9");
  CHECK(answer_of(*snapshot, "web.shop", ns_t_aaaa, {.ipv6 = false}) == "NOERROR aa");
  CHECK(answer_of(*snapshot, "db.shop", ns_t_aaaa, {.ipv6 = false}) == "NOERROR aa");
}

TEST_CASE("Of several services with one host name the client's own counts, then the canonical, then the preferred namespace") {
  const auto snapshot = mesh(kMesh);
  CHECK(answer_of(*snapshot, "twice.example", ns_t_a, {.ns = "b"}) == "NOERROR aa twice.example 10.96.1.2");
  CHECK(answer_of(*snapshot, "twice.example", ns_t_a, {.ns = "x"}) == "NOERROR aa twice.example 10.96.1.3");
  CHECK(answer_of(*snapshot, "twice.example", ns_t_a, {.ns = "x", .preferred = "b"}) == "NOERROR aa twice.example 10.96.1.3");
  // One that has no address does not hide another that has, not even from its own namespace.
  CHECK(answer_of(*snapshot, "mixed.example", ns_t_a, {.ns = "a"}) == "NOERROR aa mixed.example 10.96.1.5");
}

TEST_CASE("A cluster domain other than cluster.local") {
  const auto snapshot = mesh(R"(
services:
- {name: web, namespace: shop, hostname: web.shop.svc.corp.internal, vips: [/10.96.0.1], ports: {"80": 80}}
- {name: none, namespace: shop, hostname: none.shop.svc.corp.internal, vips: [], ports: {"80": 80}}
- {name: old, namespace: shop, hostname: old.shop.svc.cluster.local, vips: [], ports: {"80": 80}}
)");
  const From from{.domain = "corp.internal"};
  CHECK(answer_of(*snapshot, "web", ns_t_a, from) == "NOERROR aa web 10.96.0.1");
  CHECK(answer_of(*snapshot, "web.shop.svc.corp.internal", ns_t_a, from) == "NOERROR aa web.shop.svc.corp.internal 10.96.0.1");
  CHECK(answer_of(*snapshot, "web.shop.svc.cluster.local", ns_t_a, from) == "upstream");
  CHECK(answer_of(*snapshot, "none.shop.svc.corp.internal", ns_t_a, from) == "NOERROR aa");
  CHECK(answer_of(*snapshot, "old.shop.svc.cluster.local", ns_t_a, from) == "upstream");
}

TEST_CASE("A label with a dot in it is no two labels") {
  const auto snapshot = mesh(kMesh);
  CHECK(answer_of(*snapshot, "a\\.b.wild.example") == "upstream");
  CHECK(answer_of(*snapshot, "web\\.shop.svc.cluster.local") == "upstream");
}

TEST_CASE("Addresses come in another order each time") {
  const auto snapshot = mesh(kMesh);
  const Bytes message = ask("db.shop.svc.cluster.local");
  const Query query(message);
  const NameRules rules = NameRules::of_pod("shop", "cluster.local");
  std::set<std::string> orders;
  for (uint64_t order = 0; order < 50; ++order) {
    auto resolution = resolve(*snapshot, {.names = rules, .network = "", .preferred_ns = {}}, query);
    Bytes out;
    write_answer(query, std::move(resolution.found), order, kMaxMessageBytes, out);
    orders.insert(describe(out));
  }
  CHECK(orders.size() == 6);
}

}  // namespace
}  // namespace zt::ztunnel::dns::test
