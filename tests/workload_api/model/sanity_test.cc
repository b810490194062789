#include "workload_api/model/sanity.h"

#include <string>

#include "tests/workload_api/mesh.h"

namespace zt::workload_api {
namespace {

Ref<Authorization> policy_with(const std::string& match, const std::string& action = "Deny") {
  const Batch batch =
      batch_of("policies: [{name: p, namespace: n, scope: Global, action: " + action + ", rules: [[[{" + match + "}]]]}]");
  return batch.policies.at(0);
}

}  // namespace

TEST_CASE("a value that nothing can match is found, with its field and why") {
  struct Row {
    const char* match;
    const char* field;
    const char* value;
    const char* why;
  };
  const Row rows[] = {
      {"principals: [{Exact: spiffe://td/ns/a/sa/b}]", "principals[0]", "spiffe://td/ns/a/sa/b", "without \"spiffe://\""},
      {"principals: [{Prefix: 'spiffe://td/'}]", "principals[0]", "spiffe://td/", "without \"spiffe://\""},
      {"principals: [{Suffix: 'x/spiffe://td'}]", "principals[0]", "x/spiffe://td", "no \"spiffe://\" in it"},
      {"principals: [{Exact: td/ns/a/sa/b}, {Exact: '*'}]", "principals[1]", "*", "stands for itself"},
      {"principals: [{Exact: b}]", "principals[0]", "b", "TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT"},
      {"principals: [{Exact: td/ns/a/sa/b/c}]", "principals[0]", "td/ns/a/sa/b/c", "TRUST-DOMAIN/ns"},
      {"notPrincipals: [{Exact: spiffe://td/ns/a/sa/b}]", "notPrincipals[0]", "spiffe://td/ns/a/sa/b", "without"},
      {"namespaces: [{Exact: '*'}]", "namespaces[0]", "*", "stands for itself"},
      {"notNamespaces: [{Prefix: 'team-*'}]", "notNamespaces[0]", "team-*", "stands for itself"},
      {"namespaces: [{Exact: a/b}]", "namespaces[0]", "a/b", "no slash"},
      {"serviceAccounts: [{namespace: a, serviceAccount: b/c}]", "serviceAccounts[0]", "a/b/c", "a slash in it"},
      {"serviceAccounts: [{namespace: '', serviceAccount: b}]", "serviceAccounts[0]", "/b", "is empty"},
  };
  for (const Row& row : rows) {
    INFO(row.match);
    const auto dead = dead_value(*policy_with(row.match));
    REQUIRE(dead);
    CHECK(dead->field == std::string("rules[0][0][0].") + row.field);
    CHECK(dead->value == row.value);
    CHECK_THAT(dead->why, Catch::Contains(row.why));
    CHECK(dead->more == 0);
  }
  CHECK(dead_value(*policy_with("namespaces: [{Exact: '*'}, {Exact: 'a*'}], principals: [{Exact: x}]"))->more == 2);
}

TEST_CASE("what some peer can match is not called dead") {
  for (const char* match : {
           "principals: [{Exact: td/ns/a/sa/b}, {Prefix: td/}, {Suffix: /sa/b}, {Presence: []}]",
           "notPrincipals: [{Presence: []}]",
           "namespaces: [{Exact: ''}, {Exact: a}, {Prefix: a}, {Suffix: b}, {Presence: []}]",
           "serviceAccounts: [{namespace: a, serviceAccount: b}]",
           "sourceIps: [10.0.0.0/8], destinationPorts: [80]",
           "",
       }) {
    INFO(match);
    CHECK_FALSE(dead_value(*policy_with(match)));
  }
}

TEST_CASE("A workload that nobody can prove to be is noted with its field, and the rest are counted") {
  DeadIdentity found;
  const auto note = [&](const char* domain, const char* ns, const char* account) {
    Workload workload;
    workload.uid = "u";
    workload.trust_domain = domain;
    workload.ns = ns;
    workload.service_account = account;
    note_dead_identity(workload, found);
  };
  note("cluster.local", "shop", "web");
  CHECK(found.workloads == 0);
  SECTION("trust domain") {
    note("spiffe://td", "shop", "web");
    CHECK(found.field == "trust_domain");
    CHECK(found.value == "spiffe://td");
  }
  SECTION("namespace") {
    note("td", "a/b", "web");
    CHECK(found.field == "namespace");
    CHECK(found.value == "a/b");
  }
  SECTION("service account") {
    note("td", "shop", "c/sa/d");
    CHECK(found.field == "service_account");
    CHECK(found.value == "c/sa/d");
  }
  CHECK(found.uid == "u");
  note("a/b", "shop", "web");
  CHECK(found.workloads == 2);
}

// The model is the matcher itself: over small texts, a value called dead never matches any peer that can be.
TEST_CASE("a value that is called dead matches none of all small identities") {
  const std::string parts[] = {"td", "a", "b", "ns", "sa"};
  const std::string values[] = {"td/ns/a/sa/b", "spiffe://td/ns/a/sa/b", "*", "a", "a*", "td", "td/ns/a", "/sa/b", "a/b",
                                "spiffe://"};
  for (const std::string& value : values)
    for (const char* kind : {"Exact", "Prefix", "Suffix"})
      for (const char* field : {"principals", "namespaces"}) {
        const auto policy = policy_with(std::string(field) + ": [{" + kind + ": '" + value + "'}]");
        if (!dead_value(*policy)) continue;
        const PolicyMatcher matcher(policy->rules);
        for (const std::string& domain : parts)
          for (const std::string& ns : parts)
            for (const std::string& account : parts) {
              const std::string id = "spiffe://" + domain + "/ns/" + ns + "/sa/" + account;
              const auto peer = SpiffeView::parse(id);
              REQUIRE(peer);
              INFO(field << " " << kind << " " << value << " " << id);
              CHECK_FALSE(matcher.matches({.source_ip = {}, .destination = {}, .peer = *peer}));
            }
      }
}

TEST_CASE("of a policy with a dead value is warned once for each version of it") {
  Store store({});
  const std::string dead =
      "policies: [{name: p, namespace: n, scope: Global, action: Deny, rules: [[[{principals: [{Exact: 'spiffe://x'}]}]]]}]";
  store.apply(batch_of(dead));
  CHECK(store.dead_policies() == 1);
  store.apply(batch_of(dead));
  store.replace_local(batch_of(dead));
  CHECK(store.dead_policies() == 1);
  store.apply(batch_of(
      "policies: [{name: p, namespace: n, scope: Global, action: Allow, rules: [[[{principals: [{Exact: 'spiffe://x'}]}]]]}]"));
  CHECK(store.dead_policies() == 2);
}

}  // namespace zt::workload_api
