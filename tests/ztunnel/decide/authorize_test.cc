#include "ztunnel/decide/authorize.h"
#include "mesh/reason.h"

#include <catch2/catch.hpp>

#include <string>
#include <string_view>

#include "workload_api/yaml/yaml_source.h"

namespace zt::ztunnel {
namespace {

using workload_api::Batch;
using workload_api::PolicySubject;
using workload_api::SnapshotPtr;
using workload_api::Store;

constexpr const char* kWorkload =
    "\nworkloads: [{uid: w, name: w, namespace: shop, serviceAccount: cart, workloadIps: [10.0.0.7]";

Batch parsed(const std::string& yaml) {
  auto batch = workload_api::parse_local_config(yaml, "test.yaml");
  if (!batch) FAIL(batch.error().text);
  return std::move(*batch);
}

// Policies in YAML, and the names that the workload lists.
SnapshotPtr mesh(const std::string& policies, const std::string& listed = "") {
  Store store({});
  store.apply(parsed("policies:\n" + policies + kWorkload + ", authorizationPolicies: [" + listed + "]}]"));
  return store.snapshot();
}

IpAddress ip(std::string_view text) { return *IpAddress::parse(text); }

PolicySubject subject(std::string_view spiffe_id, std::string_view source = "10.0.0.1",
                      std::string_view destination = "10.0.0.7:8080") {
  PolicySubject who{.source_ip = ip(source), .destination = *SocketAddress::parse(destination), .peer = {}};
  if (!spiffe_id.empty()) {
    const auto peer = SpiffeView::parse(spiffe_id);
    REQUIRE(peer);
    who.peer = *peer;
  }
  return who;
}

constexpr const char* kClient = "spiffe://td/ns/pay/sa/api";

Verdict judge(const SnapshotPtr& snapshot, const PolicySubject& who) {
  return authorize(*snapshot, *snapshot->workload("w"), who);
}

// Does one ALLOW policy with these rules let the subject in?
bool matches(const std::string& rules, const PolicySubject& who) {
  const auto snapshot = mesh("- {name: p, namespace: shop, scope: Namespace, action: Allow, rules: " + rules + "}");
  return judge(snapshot, who).allowed();
}

}  // namespace

TEST_CASE("Each field, for a peer with an identity and for a plaintext one") {
  struct Row {
    const char* name;
    const char* match;
    bool tls, plaintext;
  };
  // TLS peer: td/ns/pay/sa/api. Both: from 10.0.0.1 to 10.0.0.7:8080.
  const Row rows[] = {
      {"namespace exact", "namespaces: [{Exact: pay}]", true, false},
      {"namespace exact, other", "namespaces: [{Exact: shop}]", false, false},
      {"namespace case matters", "namespaces: [{Exact: Pay}]", false, false},
      {"namespace prefix", "namespaces: [{Prefix: p}]", true, false},
      {"namespace suffix", "namespaces: [{Suffix: y}]", true, false},
      {"namespace presence", "namespaces: [{Presence: []}]", true, false},
      {"the empty namespace is the plaintext peer's", "namespaces: [{Exact: ''}]", false, true},
      {"one of several values is enough", "namespaces: [{Exact: a}, {Exact: pay}, {Exact: b}]", true, false},
      {"not namespace", "notNamespaces: [{Exact: pay}]", false, true},
      {"not namespace, other", "notNamespaces: [{Exact: shop}]", true, true},
      {"not namespace needs none of the values", "notNamespaces: [{Exact: a}, {Exact: pay}]", false, true},
      {"not presence of a namespace", "notNamespaces: [{Presence: []}]", false, true},
      {"positive and negative must both hold", "namespaces: [{Prefix: p}], notNamespaces: [{Exact: pay}]", false, false},
      {"positive and negative both hold", "namespaces: [{Prefix: p}], notNamespaces: [{Exact: prod}]", true, false},
      {"service account", "serviceAccounts: [{namespace: pay, serviceAccount: api}]", true, false},
      {"service account in another namespace", "serviceAccounts: [{namespace: shop, serviceAccount: api}]", false, false},
      {"other service account", "serviceAccounts: [{namespace: pay, serviceAccount: web}]", false, false},
      {"empty service account is nobody's", "serviceAccounts: [{namespace: '', serviceAccount: ''}]", false, false},
      {"not service account", "notServiceAccounts: [{namespace: pay, serviceAccount: api}]", false, true},
      {"not other service account", "notServiceAccounts: [{namespace: pay, serviceAccount: web}]", true, true},
      {"principal exact", "principals: [{Exact: td/ns/pay/sa/api}]", true, false},
      {"principal with the scheme never matches", "principals: [{Exact: 'spiffe://td/ns/pay/sa/api'}]", false, false},
      {"principal of another trust domain", "principals: [{Exact: cluster.local/ns/pay/sa/api}]", false, false},
      {"principal prefix", "principals: [{Prefix: td/ns/pay/}]", true, false},
      {"principal suffix", "principals: [{Suffix: /sa/api}]", true, false},
      {"principal presence", "principals: [{Presence: []}]", true, false},
      {"empty principal prefix needs a principal", "principals: [{Prefix: ''}]", true, false},
      {"empty exact principal is nobody's", "principals: [{Exact: ''}]", false, false},
      {"not principal", "notPrincipals: [{Exact: td/ns/pay/sa/api}]", false, true},
      {"no principal at all: STRICT mutual TLS as a DENY", "notPrincipals: [{Presence: []}]", false, true},
      {"source address", "sourceIps: [10.0.0.0/24]", true, true},
      {"source address, exact", "sourceIps: [10.0.0.1/32]", true, true},
      {"source address, other block", "sourceIps: [10.0.1.0/24]", false, false},
      {"source address, one of several blocks", "sourceIps: [192.0.2.0/24, 10.0.0.0/8, 10.0.0.0/30]", true, true},
      {"a block of IPv6 holds no IPv4 address", "sourceIps: ['::/0']", false, false},
      {"everything", "sourceIps: [0.0.0.0/0]", true, true},
      {"not source address", "notSourceIps: [10.0.0.0/24]", false, false},
      {"not source address, other block", "notSourceIps: [10.0.1.0/24]", true, true},
      {"destination address", "destinationIps: [10.0.0.7/32]", true, true},
      {"destination address, other", "destinationIps: [10.0.0.8/32]", false, false},
      {"not destination address", "notDestinationIps: [10.0.0.7/32]", false, false},
      {"destination port", "destinationPorts: [80, 8080]", true, true},
      {"destination port, other", "destinationPorts: [80]", false, false},
      {"not destination port", "notDestinationPorts: [8080]", false, false},
      {"not destination port, other", "notDestinationPorts: [80, 443]", true, true},
      {"fields of one match must all hold", "namespaces: [{Exact: pay}], destinationPorts: [80]", false, false},
      {"no fields: never", "", false, false},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    const std::string rules = std::string("[[[{") + row.match + "}]]]";
    CHECK(matches(rules, subject(kClient)) == row.tls);
    CHECK(matches(rules, subject("")) == row.plaintext);
  }
}

TEST_CASE("Blocks inside others do not hide them, whichever comes first") {
  for (const char* blocks : {"10.0.0.0/30, 10.0.0.0/8", "10.0.0.0/8, 10.0.0.0/30", "10.0.0.0/8, 10.255.255.252/30"}) {
    INFO(blocks);
    const std::string rules = std::string("[[[{sourceIps: [") + blocks + "]}]]]";
    CHECK(matches(rules, subject("", "10.0.0.0")));
    CHECK(matches(rules, subject("", "10.9.9.9")));
    CHECK(matches(rules, subject("", "10.255.255.255")));
    CHECK_FALSE(matches(rules, subject("", "11.0.0.0")));
    CHECK_FALSE(matches(rules, subject("", "9.255.255.255")));
  }
}

TEST_CASE("IPv6 sources, also where a block ends like a mapped address") {
  CHECK(matches("[[[{sourceIps: ['2001:db8::/32']}]]]", subject("", "2001:db8:1::1")));
  CHECK_FALSE(matches("[[[{sourceIps: ['2001:db8::/32', 10.0.0.0/8]}]]]", subject("", "2001:db9::1")));
  CHECK(matches("[[[{sourceIps: ['::/80']}]]]", subject("", "::1")));
  CHECK(matches("[[[{sourceIps: ['::/80']}]]]", subject("", "::ffff:0:1:2")) == false);  // beyond the first 80 bits
  CHECK_FALSE(matches("[[[{sourceIps: ['::/80']}]]]", subject("", "10.0.0.1")));
  CHECK(matches("[[[{sourceIps: ['::/0']}]]]", subject("", "ffff::1")));
  CHECK(matches("[[[{sourceIps: ['::ffff:10.0.0.0', 10.0.0.1]}]]]", subject("", "::ffff:10.0.0.1")));
}

TEST_CASE("Nesting: policies of rules of clauses of matches, and what each means when empty") {
  struct Row {
    const char* name;
    const char* rules;
    bool expected;
  };
  const Row rows[] = {
      {"no rules: never", "[]", false},
      {"a rule without clauses: always", "[[]]", true},
      {"a clause without matches: always", "[[[]]]", true},
      {"an empty match: never", "[[[{}]]]", false},
      {"an empty match beside one that holds", "[[[{}, {namespaces: [{Exact: pay}]}]]]", true},
      {"an empty clause beside one that does not hold", "[[[], [{namespaces: [{Exact: shop}]}]]]", false},
      {"rules are alternatives", "[[[{namespaces: [{Exact: shop}]}]], [[{namespaces: [{Exact: pay}]}]]]", true},
      {"clauses must all hold", "[[[{namespaces: [{Exact: pay}]}], [{destinationPorts: [80]}]]]", false},
      {"clauses all hold", "[[[{namespaces: [{Exact: pay}]}], [{destinationPorts: [8080]}]]]", true},
      {"matches are alternatives", "[[[{namespaces: [{Exact: shop}]}, {destinationPorts: [8080]}]]]", true},
      {"no match holds", "[[[{namespaces: [{Exact: shop}]}, {destinationPorts: [80]}]]]", false},
      {"an empty rule after one that does not hold", "[[[{namespaces: [{Exact: shop}]}]], []]", true},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    CHECK(matches(row.rules, subject(kClient)) == row.expected);
  }
}

TEST_CASE("DENY before ALLOW, and no ALLOW at all allows") {
  const std::string deny_pay =
      "- {name: deny, namespace: shop, scope: Namespace, action: Deny, rules: [[[{namespaces: [{Exact: "
      "pay}]}]]]}\n";
  const std::string allow_pay =
      "- {name: allow, namespace: shop, scope: Namespace, action: Allow, rules: [[[{namespaces: [{Exact: "
      "pay}]}]]]}\n";
  const std::string allow_web =
      "- {name: web, namespace: shop, scope: Namespace, action: Allow, rules: [[[{namespaces: [{Exact: "
      "web}]}]]]}\n";
  const std::string deny_nothing = "- {name: none, namespace: shop, scope: Namespace, action: Deny, rules: []}\n";
  const std::string global_deny = "- {name: g, namespace: root, scope: Global, action: Deny, rules: [[]]}\n";
  const std::string elsewhere = "- {name: e, namespace: pay, scope: Namespace, action: Deny, rules: [[]]}\n";
  struct Row {
    const char* name;
    std::string policies;
    bool allowed;
    const char* text;
  };
  const Row rows[] = {
      {"no policies", "- {name: unused, namespace: shop, scope: WorkloadSelector, action: Deny, rules: [[]]}", true, ""},
      {"a DENY that matches", deny_pay, false, "explicitly denied by: shop/deny"},
      {"a DENY that does not match", deny_nothing, true, ""},
      {"DENY wins over ALLOW", allow_pay + deny_pay, false, "explicitly denied by: shop/deny"},
      {"an ALLOW that matches", allow_pay + deny_nothing, true, ""},
      {"an ALLOW that does not match", allow_web, false, "allow policies exist, but none allowed"},
      {"one ALLOW of two is enough", allow_web + allow_pay, true, ""},
      {"a global DENY", allow_pay + global_deny, false, "explicitly denied by: root/g"},
      {"another namespace's policy", elsewhere, true, ""},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    const Verdict verdict = judge(mesh(row.policies), subject(kClient));
    CHECK(verdict.allowed() == row.allowed);
    CHECK(verdict.text == row.text);
    CHECK(verdict.reason == (row.allowed ? Reason::kOk : Reason::kPolicyDenied));
  }
}

TEST_CASE("Selector policies count for the workloads that name them, and for nobody else") {
  const std::string policy = "- {name: p, namespace: shop, scope: WorkloadSelector, action: Deny, rules: [[]]}\n";
  CHECK(judge(mesh(policy), subject(kClient)).allowed());
  const Verdict verdict = judge(mesh(policy, "shop/p"), subject(kClient));
  CHECK_FALSE(verdict.allowed());
  CHECK(verdict.policy == "shop/p");
}

TEST_CASE("A policy that the workload names but nobody has delivered: wait, unless a known one denies") {
  const std::string allow = "- {name: allow, namespace: shop, scope: Namespace, action: Allow, rules: [[]]}\n";
  const std::string deny = "- {name: deny, namespace: shop, scope: Namespace, action: Deny, rules: [[]]}\n";
  const Verdict waiting = judge(mesh(allow, "shop/late, shop/later"), subject(kClient));
  CHECK(waiting.decision == Verdict::Decision::kUnknownPolicy);
  CHECK(waiting.reason == Reason::kPolicyUnknown);
  CHECK(waiting.policy == "shop/late");
  CHECK(waiting.text == "policy not delivered: shop/late");
  CHECK_FALSE(waiting.allowed());

  const Verdict denied = judge(mesh(allow + deny, "shop/late"), subject(kClient));
  CHECK(denied.decision == Verdict::Decision::kDeny);
  CHECK(denied.text == "explicitly denied by: shop/deny");

  const std::string none_allow = "- {name: allow, namespace: shop, scope: Namespace, action: Allow, rules: []}\n";
  CHECK(judge(mesh(none_allow, "shop/late"), subject(kClient)).decision == Verdict::Decision::kUnknownPolicy);
}

TEST_CASE("Where the operator says so, a policy that is not there is skipped") {
  const std::string allow =
      "- {name: allow, namespace: shop, scope: Namespace, action: Allow, rules: [[[{namespaces: [{Exact: "
      "web}]}]]]}\n";
  const auto judge_skipping = [](const SnapshotPtr& snapshot) {
    return authorize(*snapshot, *snapshot->workload("w"), subject(kClient), MissingPolicy::kSkip);
  };
  CHECK(judge_skipping(mesh("- {name: other, namespace: pay, scope: Namespace, action: Deny, rules: [[]]}\n", "shop/late"))
            .allowed());
  const Verdict verdict = judge_skipping(mesh(allow, "shop/late"));
  CHECK(verdict.decision == Verdict::Decision::kDeny);
  CHECK(verdict.text == "allow policies exist, but none allowed");
}

TEST_CASE("Dry runs never decide, what they would have done is noted") {
  using Kind = DryRunNote::Kind;
  const std::string dry_deny = "- {name: dd, namespace: shop, scope: Namespace, action: Deny, dryRun: true, rules: [[]]}\n";
  const std::string dry_allow = "- {name: da, namespace: shop, scope: Namespace, action: Allow, dryRun: true, rules: [[]]}\n";
  const std::string dry_allow_other = "- {name: dn, namespace: shop, scope: Namespace, action: Allow, dryRun: true, rules: []}\n";
  const std::string allow = "- {name: allow, namespace: shop, scope: Namespace, action: Allow, rules: [[]]}\n";
  const std::string allow_other = "- {name: other, namespace: shop, scope: Namespace, action: Allow, rules: []}\n";
  const std::string deny = "- {name: deny, namespace: shop, scope: Namespace, action: Deny, rules: [[]]}\n";
  struct Row {
    const char* name;
    std::string policies;
    bool allowed;
    std::vector<DryRunNote> notes;
  };
  const Row rows[] = {
      {"a dry-run DENY", dry_deny, true, {{Kind::kWouldDeny, "shop/dd"}}},
      {"a dry-run DENY beside one that denies", deny + dry_deny, false, {{Kind::kWouldDeny, "shop/dd"}}},
      {"a dry-run ALLOW that matches", dry_allow, true, {{Kind::kWouldAllow, "shop/da"}}},
      {"dry-run ALLOWs of which none matches", dry_allow_other, true, {{Kind::kNoneWouldAllow, "shop/dn"}}},
      {"the same with an enforced ALLOW", dry_allow_other + allow, true, {}},
      {"a dry-run ALLOW does not let anybody in", dry_allow + allow_other, false, {{Kind::kWouldAllow, "shop/da"}}},
      {"one of two dry-run ALLOWs", dry_allow_other + dry_allow, true, {{Kind::kWouldAllow, "shop/da"}}},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    const Verdict verdict = judge(mesh(row.policies), subject(kClient));
    CHECK(verdict.allowed() == row.allowed);
    CHECK(verdict.dry_run == row.notes);
  }
}

TEST_CASE("What istiod makes of PeerAuthentication") {
  // STRICT except on 9000 and 9001: one clause each.
  const std::string permissive_ports =
      "- {name: c, namespace: shop, scope: WorkloadSelector, action: Deny, rules: "
      "[[[{notPrincipals: [{Presence: []}]}], [{notDestinationPorts: [9000]}], [{notDestinationPorts: "
      "[9001]}]]]}\n";
  const auto snapshot = mesh(permissive_ports, "shop/c");
  CHECK(judge(snapshot, subject(kClient)).allowed());
  CHECK_FALSE(judge(snapshot, subject("")).allowed());
  CHECK(judge(snapshot, subject("", "10.0.0.1", "10.0.0.7:9000")).allowed());
  CHECK(judge(snapshot, subject("", "10.0.0.1", "10.0.0.7:9001")).allowed());
  CHECK_FALSE(judge(snapshot, subject("", "10.0.0.1", "10.0.0.7:9002")).allowed());
}

}  // namespace zt::ztunnel
