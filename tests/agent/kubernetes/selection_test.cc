#include "agent/kubernetes/selection.h"

#include <catch2/catch.hpp>
#include <map>
#include <string>
#include <vector>

using namespace zt;
using namespace zt::agent;
using Catch::Contains;
using kubernetes::Labels;
using kubernetes::Object;

namespace {

const std::string kMode(kModeLabel);

Object pod(Labels labels = {}, Labels annotations = {}) {
  return {.name = "web",
          .ns = "shop",
          .uid = "u",
          .labels = std::move(labels),
          .annotations = std::move(annotations),
          .phase = "Running"};
}
Object ns(Labels labels = {}) { return {.name = "shop", .uid = "n", .labels = std::move(labels)}; }
SelectionRules rules() { return {.selectors = default_selectors(), .excluded_namespaces = {"kube-system"}}; }

}  // namespace

TEST_CASE("The labels of a pod and of its namespace select it, and the pod's win") {
  struct Row {
    std::optional<std::string> pod_label, ns_label;
    Wish wish;
  };
  const std::vector<Row> rows{
      {std::nullopt, std::nullopt, Wish::kOut}, {std::nullopt, "ambient", Wish::kIn},  {std::nullopt, "none", Wish::kOut},
      {std::nullopt, "sidecar", Wish::kOut},    {"ambient", std::nullopt, Wish::kIn},  {"ambient", "none", Wish::kIn},
      {"ambient", "ambient", Wish::kIn},        {"none", std::nullopt, Wish::kOut},    {"none", "ambient", Wish::kOut},
      {"anything", std::nullopt, Wish::kOut},   {"anything", "ambient", Wish::kIn},    {"", "ambient", Wish::kIn},
      {"Ambient", std::nullopt, Wish::kOut},    {std::nullopt, "AMBIENT", Wish::kOut},
  };
  for (const auto& row : rows) {
    CAPTURE(row.pod_label.value_or("(absent)"), row.ns_label.value_or("(absent)"));
    const Object of = pod(row.pod_label ? Labels{{kMode, *row.pod_label}} : Labels{});
    const Object in = ns(row.ns_label ? Labels{{kMode, *row.ns_label}} : Labels{});
    CHECK(judge(of, &in, rules()).wish == row.wish);
  }
}

TEST_CASE("What keeps a pod out of the mesh, whatever its labels say") {
  const Object labelled = ns({{kMode, "ambient"}});
  Object of = pod({{kMode, "ambient"}});
  std::string why;
  Wish wish = Wish::kOut;
  SelectionRules with = rules();
  SECTION("nothing") {
    wish = Wish::kIn;
    why = "its labels select it";
  }
  SECTION("the node's network") {
    of.host_network = true;
    why = "it is on the node's network";
  }
  SECTION("a sidecar, whatever is said of it") {
    of.annotations["sidecar.istio.io/status"] = "";
    why = "it has a sidecar";
  }
  SECTION("a namespace that is excluded") {
    of.ns = "kube-system";
    why = "its namespace is excluded";
  }
  SECTION("a proxy of the node") {
    of.ns = "istio-system";
    of.labels["app"] = "ztunnel";
    why = "it is a proxy of the node";
  }
  SECTION("an application that is called like the proxy is none") {
    of.labels["app"] = "ztunnel";
    wish = Wish::kIn;
    why = "its labels select it";
  }
  SECTION("it has ended") {
    of.phase = GENERATE("Succeeded", "Failed");
    wish = Wish::kGone;
    why = "it has ended";
  }
  SECTION("ended, on the node's network") {
    of.phase = "Failed";
    of.host_network = true;
    wish = Wish::kGone;
    why = "it has ended";
  }
  SECTION("it is told to end and goes on for its grace period") {
    of.deleting = true;
    wish = Wish::kIn;
    why = "its labels select it";
  }
  SECTION("it has not begun") {
    of.phase = "Pending";
    wish = Wish::kIn;
    why = "its labels select it";
  }
  SECTION("a status annotation is no label") {
    of.labels.clear();
    of.annotations["ambient.istio.io/redirection"] = "enabled";
    with.selectors = {default_selectors()[0]};
    why = "no label selects it";
  }
  CHECK(judge(of, &labelled, with).wish == wish);
  CHECK(judge(of, &labelled, with).why == why);
}

TEST_CASE("A pod whose namespace is not known yet stays as it is, unless its own state decides") {
  CHECK(judge(pod({{kMode, "ambient"}}), nullptr, rules()).wish == Wish::kLeaveAlone);
  Object host = pod();
  host.host_network = true;
  CHECK(judge(host, nullptr, rules()).wish == Wish::kOut);
  Object ended = pod();
  ended.phase = "Succeeded";
  CHECK(judge(ended, nullptr, rules()).wish == Wish::kGone);
}

TEST_CASE("Selectors are read as the chart writes them") {
  const auto chart = parse_selectors(R"(
- podSelector:
    matchLabels: {istio.io/dataplane-mode: ambient}
- podSelector:
    matchExpressions:
    - {key: istio.io/dataplane-mode, operator: NotIn, values: [none]}
  namespaceSelector:
    matchLabels: {istio.io/dataplane-mode: ambient}
)",
                                     "AMBIENT_ENABLEMENT_SELECTOR");
  REQUIRE(chart);
  for (const auto& pod_label : {"", "ambient", "none", "x"}) {
    for (const auto& ns_label : {"", "ambient", "none", "x"}) {
      const Object of = pod(*pod_label ? Labels{{kMode, pod_label}} : Labels{});
      const Object in = ns(*ns_label ? Labels{{kMode, ns_label}} : Labels{});
      SelectionRules read = rules();
      read.selectors = *chart;
      CHECK(judge(of, &in, read).wish == judge(of, &in, rules()).wish);
    }
  }
}

TEST_CASE("Every operator of a selector, and no selector at all") {
  const auto selects = [](const std::string& text, const Labels& labels) {
    const auto selectors = parse_selectors("[{podSelector: {matchExpressions: [" + text + "]}}]", "S");
    INFO((selectors ? std::string() : selectors.error().text));
    REQUIRE(selectors);
    return selectors->front().pod.matches(labels);
  };
  CHECK(selects("{key: a, operator: In, values: [x, y]}", {{"a", "y"}}));
  CHECK_FALSE(selects("{key: a, operator: In, values: [x]}", {{"a", "y"}}));
  CHECK_FALSE(selects("{key: a, operator: In, values: [x]}", {}));
  CHECK(selects("{key: a, operator: NotIn, values: [x]}", {}));
  CHECK_FALSE(selects("{key: a, operator: NotIn, values: [x]}", {{"a", "x"}}));
  CHECK(selects("{key: a, operator: Exists}", {{"a", ""}}));
  CHECK_FALSE(selects("{key: a, operator: Exists}", {}));
  CHECK(selects("{key: a, operator: DoesNotExist}", {}));
  CHECK_FALSE(selects("{key: a, operator: DoesNotExist}", {{"a", "x"}}));
  CHECK_FALSE(selects("{key: a, operator: Exists}, {key: b, operator: Exists}", {{"a", ""}}));
  const auto everything = parse_selectors("[{}]", "S");
  REQUIRE(everything);
  CHECK(everything->front().pod.matches({}));
  CHECK(parse_selectors("[]", "S")->empty());
}

TEST_CASE("A selector that is none is refused at its place") {
  const auto [text, wanted] = GENERATE(table<std::string, std::string>(
      {{"{", "S:"},
       {"podSelector: {}", "S:1:1: list expected"},
       {"[5]", "S:1:2"},
       {"[{podselector: {}}]", "podselector"},
       {"[{podSelector: {matchLabels: [a]}}]", "S:1:30"},
       {"[{podSelector: {matchExpressions: [{key: a, operator: Like, values: [x]}]}}]", "\"Like\" is not one of"},
       {"[{podSelector: {matchExpressions: [{key: a, operator: In}]}}]", "this operator needs values"},
       {"[{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [x]}]}}]", "this operator takes no values"},
       {"[{podSelector: {matchExpressions: [{operator: Exists}]}}]", "key"}}));
  CAPTURE(text);
  const auto selectors = parse_selectors(text, "S");
  REQUIRE_FALSE(selectors);
  CHECK_THAT(selectors.error().text, Contains(wanted));
}

TEST_CASE("A list of names is split at commas, and blanks are nothing") {
  using Names = std::set<std::string, std::less<>>;
  CHECK(parse_names("kube-system, istio-system ,,a") == Names{"kube-system", "istio-system", "a"});
  CHECK(parse_names("").empty());
  CHECK(parse_names(" , ").empty());
}

TEST_CASE("Annotations change a pod's redirection, and nonsense in them is said and passed over") {
  const redirection::RedirectionOptions defaults{.dns = true};
  const auto of = [&](Labels annotations) { return overrides_of(pod({}, std::move(annotations)), defaults); };
  CHECK(of({}).options == defaults);
  CHECK(of({{"ambient.istio.io/bypass-inbound-capture", "true"}}).options.ingress);
  CHECK(of({{"ambient.istio.io/bypass-inbound-capture", "T"}}).options.ingress);
  CHECK_FALSE(of({{"ambient.istio.io/bypass-inbound-capture", "0"}}).options.ingress);
  CHECK_FALSE(of({{"ambient.istio.io/dns-capture", "false"}}).options.dns);
  CHECK(of({{"ambient.istio.io/dns-capture", "1"}}).options.dns);
  const auto nonsense = of({{"ambient.istio.io/dns-capture", "off"}, {"ambient.istio.io/bypass-inbound-capture", "YES"}});
  CHECK(nonsense.options == defaults);
  REQUIRE(nonsense.warnings.size() == 2);
  CHECK_THAT(nonsense.warnings[0], Contains("bypass-inbound-capture: 'YES' is neither true nor false"));
  const auto interfaces = of({{"istio.io/reroute-virtual-interfaces", "tap0, k6t-eth0,,a\"; flush ruleset"}});
  CHECK(interfaces.options.virtual_interfaces == std::vector<std::string>{"k6t-eth0", "tap0"});
  REQUIRE(interfaces.warnings.size() == 1);
  CHECK_THAT(interfaces.warnings[0], Contains("is not an interface name"));
  std::string many;
  for (int i = 0; i < 20; ++i) many += "tap" + std::to_string(i) + ",";
  CHECK(of({{"istio.io/reroute-virtual-interfaces", many}}).options.virtual_interfaces.size() == 16);
  CHECK(of({{"istio.io/reroute-virtual-interfaces", many}}).warnings.size() == 1);
}

TEST_CASE("Annotations name ports and ranges that go around the proxy, and what makes no sense stays captured") {
  const auto of = [](Labels annotations) { return overrides_of(pod({}, std::move(annotations)), {}); };
  const auto good = of({{"ambient.istio.io/exclude-inbound-ports", "80, 8000-8080"},
                        {"ambient.istio.io/exclude-inbound-ip-ranges", "10.0.0.0/8"},
                        {"ambient.istio.io/exclude-outbound-ports", "25"},
                        {"ambient.istio.io/exclude-outbound-ip-ranges", "fd00::/8,192.0.2.1"}});
  CHECK(good.warnings.empty());
  CHECK(good.options.inbound.ports == std::vector<redirection::PortRange>{{80, 80}, {8000, 8080}});
  CHECK(good.options.inbound.ranges == std::vector<Cidr>{*Cidr::parse("10.0.0.0/8")});
  CHECK(good.options.outbound.ports == std::vector<redirection::PortRange>{{25, 25}});
  CHECK(good.options.outbound.ranges == std::vector<Cidr>{*Cidr::parse("192.0.2.1/32"), *Cidr::parse("fd00::/8")});
  const std::string word = GENERATE("0", "65536", "80-", "-80", "90-80", "http", "80 accept", "*");
  CAPTURE(word);
  const auto bad = of({{"ambient.istio.io/exclude-outbound-ports", word + ",443"}});
  CHECK(bad.options.outbound.ports == std::vector<redirection::PortRange>{{443, 443}});
  REQUIRE(bad.warnings.size() == 1);
  CHECK_THAT(bad.warnings[0], Contains("exclude-outbound-ports: '" + word + "' is no port"));
  CHECK(of({{"ambient.istio.io/exclude-inbound-ip-ranges", "example.com,10.0.0.0/33"}}).options ==
        redirection::RedirectionOptions{});
  std::string many;
  for (int i = 1; i < 50; ++i) many += std::to_string(i) + ",";
  CHECK(of({{"ambient.istio.io/exclude-inbound-ports", many}}).options.inbound.ports.size() == 32);
  // A sidecar's are not ours: the pod would lose its encryption by them.
  CHECK(of({{"traffic.sidecar.istio.io/excludeOutboundPorts", "443"}}).options == redirection::RedirectionOptions{});
}
