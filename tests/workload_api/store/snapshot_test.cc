#include "tests/workload_api/mesh.h"

namespace zt::workload_api {

TEST_CASE("Which service answers to an address") {
  const auto snapshot = snapshot_of(R"(
services:
- {hostname: a.shop, namespace: shop, vips: [/10.0.0.1, n2/10.0.0.9], canonical: false}
- {hostname: a.pay, namespace: pay, vips: [/10.0.0.1], canonical: true}
- {hostname: a.team, namespace: team, vips: [/10.0.0.1]}
- {hostname: first.x, namespace: x, vips: [/10.0.0.2]}
- {hostname: second.y, namespace: y, vips: [/10.0.0.2]}
- {hostname: twin.shop, namespace: shop, vips: [/10.0.0.3]}
- {hostname: other-twin.shop, namespace: shop, vips: [/10.0.0.3]}
- {hostname: hidden.shop, namespace: shop, vips: [/172.16.0.4], visibility: Namespace}
- {hostname: hidden.pay, namespace: pay, vips: [/10.0.0.5], visibility: Namespace, canonical: true}
- {hostname: open.x, namespace: x, vips: [/10.0.0.5]}
- {hostname: hidden-exact.shop, namespace: shop, vips: [/10.20.0.1], visibility: Namespace}
- {hostname: wide.net, namespace: net, cidrVips: [/10.20.0.0/16]}
- {hostname: narrow.net, namespace: net, cidrVips: [{network: "", cidr: 10.20.30.0/24}]}
- {hostname: wide.shop, namespace: shop, cidrVips: [/10.0.0.0/8]}
- {hostname: exact.net, namespace: net, vips: [/10.20.30.7]}
- {hostname: plain.p, namespace: p, cidrVips: [/10.40.0.0/16]}
- {hostname: canonical.q, namespace: q, cidrVips: [/10.40.0.0/16], canonical: true}
- {hostname: six.net, namespace: net, cidrVips: ["/2001:db8::/32", "/2001:db8:1::/48"], vips: ["/2001:db8:1::1"]}
- {hostname: six-exact.net, namespace: net, vips: ["/2001:db8:2::1"]}
- {hostname: all4.zero, namespace: zero, cidrVips: [n4/0.0.0.0/0]}
- {hostname: n5.net, namespace: net, cidrVips: [n5/10.20.0.0/16]}
- {hostname: unmasked.net, namespace: net, cidrVips: [n6/10.20.3.4/16]}
)");
  struct Row {
    const char* name;
    const char* network;
    const char* address;
    const char* client;  // namespace; null = none given
    const char* expected;
  };
  const Row rows[] = {
      {"the client's namespace wins", "", "10.0.0.1", "shop", "shop/a.shop"},
      {"the client's namespace wins over canonical", "", "10.0.0.1", "team", "team/a.team"},
      {"canonical wins for strangers", "", "10.0.0.1", "else", "pay/a.pay"},
      {"canonical wins without a client", "", "10.0.0.1", nullptr, "pay/a.pay"},
      {"the first by name wins among equals", "", "10.0.0.2", "else", "x/first.x"},
      {"two services of one namespace share an address", "", "10.0.0.3", "shop", "shop/other-twin.shop"},
      {"another network is another address", "n2", "10.0.0.1", "shop", "none"},
      {"a service in two networks", "n2", "10.0.0.9", "shop", "shop/a.shop"},
      {"namespace visibility: seen from inside", "", "172.16.0.4", "shop", "shop/hidden.shop"},
      {"namespace visibility: not from outside", "", "172.16.0.4", "pay", "none"},
      {"namespace visibility: seen when no client is given", "", "172.16.0.4", nullptr, "shop/hidden.shop"},
      {"a hidden canonical service leaves the others", "", "10.0.0.5", "shop", "x/open.x"},
      {"a hidden exact address falls through to the block", "", "10.20.0.1", "pay", "net/wide.net"},
      {"the longest block", "", "10.20.30.1", "else", "net/narrow.net"},
      {"the next longest block", "", "10.20.31.1", "else", "net/wide.net"},
      {"the client's namespace beats a longer block", "", "10.20.30.1", "shop", "shop/wide.shop"},
      {"an exact address beats every block", "", "10.20.30.7", "shop", "net/exact.net"},
      {"canonical decides between equal blocks", "", "10.40.1.1", "else", "q/canonical.q"},
      {"the namespace decides between equal blocks", "", "10.40.1.1", "p", "p/plain.p"},
      {"IPv6 block", "", "2001:db8:7::1", "else", "net/six.net"},
      {"IPv6 longest block", "", "2001:db8:1::7", "else", "net/six.net"},
      {"IPv6 exact", "", "2001:db8:1::1", "else", "net/six.net"},
      {"IPv6 exact beats the block", "", "2001:db8:2::1", "else", "net/six-exact.net"},
      {"IPv6 outside of every block", "", "2001:db9::1", "else", "none"},
      {"a block of everything in its network", "n4", "192.0.2.1", "else", "zero/all4.zero"},
      {"a block of everything does not take the other family", "n4", "2001:db8::1", "else", "none"},
      {"blocks belong to their network", "n5", "10.20.30.1", "else", "net/n5.net"},
      {"a block written with host bits", "n6", "10.20.200.1", "else", "net/unmasked.net"},
      {"nothing", "", "192.0.2.1", "else", "none"},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    const auto client = row.client != nullptr ? std::optional<std::string_view>(row.client) : std::nullopt;
    CHECK(key_of(snapshot->service_by_vip(row.network, ip(row.address), client)) == row.expected);
  }
}

TEST_CASE("Which service answers to a hostname") {
  const auto snapshot = snapshot_of(R"(
services:
- {hostname: a.example, namespace: one}
- {hostname: a.example, namespace: two}
- {hostname: a.example, namespace: three, canonical: true}
- {hostname: b.example, namespace: one}
- {hostname: b.example, namespace: two}
- {hostname: c.example, namespace: one, visibility: Namespace, canonical: true}
- {hostname: c.example, namespace: two}
- {hostname: "*.wild.example", namespace: one}
)");
  struct Row {
    const char* name;
    const char* hostname;
    const char* client;
    const char* preferred;
    const char* expected;
  };
  const Row rows[] = {
      {"the client's namespace", "a.example", "two", nullptr, "two/a.example"},
      {"canonical", "a.example", "else", "two", "three/a.example"},
      {"the preferred namespace", "b.example", "else", "two", "two/b.example"},
      {"the client's before the preferred namespace", "b.example", "one", "two", "one/b.example"},
      {"the first", "b.example", "else", nullptr, "one/b.example"},
      {"hidden from other namespaces", "c.example", "else", nullptr, "two/c.example"},
      {"seen from its own", "c.example", "one", nullptr, "one/c.example"},
      {"wildcards are found by their literal name", "*.wild.example", "else", nullptr, "one/*.wild.example"},
      {"names compare bytewise", "A.example", "one", nullptr, "none"},
      {"nothing", "d.example", "one", nullptr, "none"},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    const auto preferred = row.preferred != nullptr ? std::optional<std::string_view>(row.preferred) : std::nullopt;
    CHECK(key_of(snapshot->service_by_hostname(row.hostname, row.client, preferred)) == row.expected);
  }
  CHECK(key_of(snapshot->service("two", "a.example")) == "two/a.example");
  CHECK(key_of(snapshot->service("four", "a.example")) == "none");
}

TEST_CASE("Which workload owns an address: pods first, then HBONE, then the one added last") {
  struct Row {
    const char* name;
    const char* workloads;
    const char* expected;
  };
  const Row rows[] = {
      {"a pod beats an entry that was added later",
       "[{uid: c//Pod/s/a, namespace: s, workloadIps: [10.0.0.1]}, {uid: c/entry/b, namespace: s, "
       "workloadIps: [10.0.0.1]}]",
       "c//Pod/s/a"},
      {"a plain pod beats an HBONE entry",
       "[{uid: c//Pod/s/a, namespace: s, workloadIps: [10.0.0.1]}, {uid: c/entry/b, namespace: s, "
       "workloadIps: [10.0.0.1], protocol: HBONE}]",
       "c//Pod/s/a"},
      {"an HBONE pod beats a later plain pod",
       "[{uid: c//Pod/s/a, namespace: s, workloadIps: [10.0.0.1], protocol: HBONE}, {uid: c//Pod/s/b, "
       "namespace: s, workloadIps: [10.0.0.1]}]",
       "c//Pod/s/a"},
      {"of equals the later",
       "[{uid: c//Pod/s/a, namespace: s, workloadIps: [10.0.0.1]}, {uid: c//Pod/s/b, namespace: s, "
       "workloadIps: [10.0.0.1]}]",
       "c//Pod/s/b"},
      {"host network workloads do not count",
       "[{uid: c//Pod/s/a, namespace: s, workloadIps: [10.0.0.1], networkMode: HostNetwork}]", "none"},
      {"nor do those of other networks", "[{uid: c//Pod/s/a, namespace: s, workloadIps: [10.0.0.1], network: n2}]", "none"},
      {"any of its addresses", "[{uid: c//Pod/s/a, namespace: s, workloadIps: [\"2001:db8::1\", 10.0.0.1]}]", "c//Pod/s/a"},
      {"a mapped address is the IPv4 address", "[{uid: c//Pod/s/a, namespace: s, workloadIps: [\"::ffff:10.0.0.1\"]}]",
       "c//Pod/s/a"},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    const auto snapshot = snapshot_of(std::string("workloads: ") + row.workloads);
    CHECK(uid_of(snapshot->workload("", ip("10.0.0.1"))) == row.expected);
  }
}

TEST_CASE("When the owner of an address goes, the next best takes over") {
  Store store({});
  store.apply(batch_of(R"(
workloads:
- {uid: a//Pod/1, namespace: s, workloadIps: [10.0.0.1, 10.0.0.2], protocol: HBONE}
- {uid: b//Pod/2, namespace: s, workloadIps: [10.0.0.1]}
- {uid: c/3, namespace: s, workloadIps: [10.0.0.1]}
)"));
  const auto owner = [&] { return uid_of(store.snapshot()->workload("", ip("10.0.0.1"))); };
  CHECK(owner() == "a//Pod/1");
  for (const auto& [gone, next] : {std::pair("a//Pod/1", "b//Pod/2"), std::pair("b//Pod/2", "c/3"), std::pair("c/3", "none")}) {
    Batch batch;
    batch.removed_addresses = {gone};
    store.apply(std::move(batch));
    CHECK(owner() == next);
  }
  CHECK(store.snapshot()->workload("", ip("10.0.0.2")) == nullptr);
}

TEST_CASE("Own workloads are found by name, namespace and account, of our node only") {
  constexpr const char* kYaml = R"(
workloads:
- {uid: u1, name: web-0, namespace: shop, serviceAccount: web, node: n1, workloadIps: [10.0.0.1]}
- {uid: u2, name: web-0, namespace: shop, serviceAccount: web, node: n2, workloadIps: [10.0.0.2]}
- {uid: u3, name: web-1, namespace: shop, serviceAccount: web, node: n2, workloadIps: [10.0.0.3]}
)";
  const auto ours = snapshot_of(kYaml, "n1");
  CHECK(uid_of(ours->local_workload({"web-0", "shop", "web"})) == "u1");
  CHECK(uid_of(ours->local_workload({"web-1", "shop", "web"})) == "none");
  CHECK(uid_of(ours->local_workload({"web-0", "shop", "other"})) == "none");
  CHECK(uid_of(ours->local_workload({"web-0", "pay", "web"})) == "none");
  const auto all = snapshot_of(kYaml);
  CHECK(uid_of(all->local_workload({"web-0", "shop", "web"})) == "u2");
  CHECK(uid_of(all->local_workload({"web-1", "shop", "web"})) == "u3");
  size_t count = 0;
  ours->for_each_local_workload([&](const Workload&) { ++count; });
  CHECK(count == 1);
  all->for_each_local_workload([&](const Workload&) { ++count; });
  CHECK(count == 4);
}

TEST_CASE("Workloads with a hostname are found by it in their namespace") {
  const auto snapshot = snapshot_of(R"(
workloads:
- {uid: u1, namespace: shop, hostname: db.example, workloadIps: []}
- {uid: u2, namespace: pay, hostname: db.example, workloadIps: []}
)");
  CHECK(uid_of(snapshot->workload_by_hostname("pay", "db.example")) == "u2");
  CHECK(uid_of(snapshot->workload_by_hostname("shop", "db.example")) == "u1");
  CHECK(uid_of(snapshot->workload_by_hostname("shop", "other.example")) == "none");
}

}  // namespace zt::workload_api
