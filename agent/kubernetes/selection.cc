#include "agent/kubernetes/selection.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/text.h"
#include "base/yaml/reader.h"
#include "mesh/reason.h"

namespace zt::agent {

namespace {

using kubernetes::Labels;
using kubernetes::Object;
using Condition = LabelSelector::Condition;
using Operator = LabelSelector::Operator;

constexpr size_t kMaxVirtualInterfaces = 16;
constexpr size_t kMaxSelectorBytes = 64 * 1024;

bool holds(const Condition& condition, const Labels& labels) {
  const auto found = labels.find(condition.key);
  const bool there = found != labels.end();
  switch (condition.op) {
    case Operator::kIn: return there && condition.values.contains(found->second);
    case Operator::kNotIn: return !there || !condition.values.contains(found->second);
    case Operator::kExists: return there;
    case Operator::kDoesNotExist: return !there;
  }
  return false;
}

std::string_view text_of(const Labels& labels, std::string_view key) {
  const auto found = labels.find(key);
  return found == labels.end() ? std::string_view() : std::string_view(found->second);
}

// As Go's ParseBool has it, since that is what these annotations are read with elsewhere.
std::optional<bool> go_bool(std::string_view text) {
  constexpr std::array<std::string_view, 6> yes{"1", "t", "T", "TRUE", "true", "True"},
      no{"0", "f", "F", "FALSE", "false", "False"};
  if (std::ranges::find(yes, text) != yes.end()) return true;
  if (std::ranges::find(no, text) != no.end()) return false;
  return std::nullopt;
}

LabelSelector read_selector(const yaml::Value& value) {
  LabelSelector selector;
  yaml::Map map(value);
  if (const auto labels = map.take("matchLabels")) {
    labels->each_pair([&](const yaml::Value& key, const yaml::Value& wanted) {
      selector.conditions.push_back({std::string(key.text()), Operator::kIn, {std::string(wanted.text())}});
    });
  }
  if (const auto expressions = map.take("matchExpressions")) {
    expressions->each([&](const yaml::Value& item) {
      yaml::Map expression(item);
      Condition condition{.key = std::string(expression.require("key").required_text())};
      const yaml::Value op = expression.require("operator");
      condition.op = op.one_of<Operator>({{"In", Operator::kIn},
                                          {"NotIn", Operator::kNotIn},
                                          {"Exists", Operator::kExists},
                                          {"DoesNotExist", Operator::kDoesNotExist}});
      const bool needs = condition.op == Operator::kIn || condition.op == Operator::kNotIn;
      if (const auto values = expression.take("values")) {
        values->each([&](const yaml::Value& one) { condition.values.insert(std::string(one.text())); });
      }
      if (needs == condition.values.empty()) op.refuse(needs ? "this operator needs values" : "this operator takes no values");
      expression.finish();
      selector.conditions.push_back(std::move(condition));
    });
  }
  map.finish();
  return selector;
}

}  // namespace

bool LabelSelector::matches(const Labels& labels) const {
  return std::ranges::all_of(conditions, [&](const Condition& condition) { return holds(condition, labels); });
}

std::vector<EnablementSelector> default_selectors() {
  const std::string key(kModeLabel);
  return {{.pod = {{{key, Operator::kIn, {"ambient"}}}}, .ns = {}},
          {.pod = {{{key, Operator::kNotIn, {"none"}}}}, .ns = {{{key, Operator::kIn, {"ambient"}}}}}};
}

Result<std::vector<EnablementSelector>> parse_selectors(std::string_view text, const std::string& name) {
  return yaml::checked(name, [&] {
    yaml::TextSource source(text);
    yaml::Reader reader(source, {.bytes = kMaxSelectorBytes});
    std::vector<EnablementSelector> selectors;
    reader.whole().each([&](const yaml::Value& item) {
      yaml::Map map(item);
      EnablementSelector selector;
      if (const auto pod = map.take("podSelector")) selector.pod = read_selector(*pod);
      if (const auto ns = map.take("namespaceSelector")) selector.ns = read_selector(*ns);
      map.finish();
      selectors.push_back(std::move(selector));
    });
    return selectors;
  });
}

std::set<std::string, std::less<>> parse_names(std::string_view text) {
  std::set<std::string, std::less<>> names;
  while (!text.empty()) {
    const auto comma = std::min(text.find(','), text.size());
    if (const auto name = trim(text.substr(0, comma)); !name.empty()) names.emplace(name);
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return names;
}

Verdict judge(const Object& pod, const Object* ns, const SelectionRules& rules) {
  if (pod.phase == "Succeeded" || pod.phase == "Failed") return {Wish::kGone, "it has ended"};
  if (pod.host_network) return {Wish::kOut, "it is on the node's network"};
  if (pod.annotations.contains(kSidecarAnnotation)) return {Wish::kOut, "it has a sidecar"};
  if (pod.ns == rules.system_namespace && text_of(pod.labels, "app") == "ztunnel")
    return {Wish::kOut, "it is a proxy of the node"};
  if (rules.excluded_namespaces.contains(pod.ns)) return {Wish::kOut, "its namespace is excluded"};
  if (ns == nullptr) return {Wish::kLeaveAlone, "its namespace is not known yet"};
  const bool selected = std::ranges::any_of(rules.selectors, [&](const EnablementSelector& selector) {
    return selector.pod.matches(pod.labels) && selector.ns.matches(ns->labels);
  });
  return selected ? Verdict{Wish::kIn, "its labels select it"} : Verdict{Wish::kOut, "no label selects it"};
}

Overrides overrides_of(const Object& pod, const redirection::RedirectionOptions& defaults) {
  Overrides out{.options = defaults, .warnings = {}};
  const auto flag = [&](std::string_view key, bool& into) {
    const auto found = pod.annotations.find(key);
    if (found == pod.annotations.end()) return;
    if (const auto value = go_bool(found->second)) {
      into = *value;
    } else {
      out.warnings.push_back(fmt::format("annotation {}: '{}' is neither true nor false", key, found->second.substr(0, 64)));
    }
  };
  flag(kBypassInboundAnnotation, out.options.ingress);
  flag(kDnsAnnotation, out.options.dns);
  const auto list = [&](std::string_view key, auto parse, auto& into) {
    for (const auto& word : parse_names(text_of(pod.annotations, key))) {
      auto parsed = parse(word);
      if (!parsed) {
        out.warnings.push_back(fmt::format("annotation {}: {}", key, parsed.error().text));
      } else if (into.size() == redirection::Exclusions::kMost) {
        out.warnings.push_back(fmt::format("annotation {}: more than {} of them", key, redirection::Exclusions::kMost));
        return;
      } else {
        into.push_back(*parsed);
      }
    }
  };
  list(kExcludeInboundPortsAnnotation, redirection::parse_port_range, out.options.inbound.ports);
  list(kExcludeInboundRangesAnnotation, redirection::parse_range, out.options.inbound.ranges);
  list(kExcludeOutboundPortsAnnotation, redirection::parse_port_range, out.options.outbound.ports);
  list(kExcludeOutboundRangesAnnotation, redirection::parse_range, out.options.outbound.ranges);
  for (const auto& name : parse_names(text_of(pod.annotations, kVirtualInterfacesAnnotation))) {
    if (auto valid = redirection::valid_interface_name(name); !valid) {
      out.warnings.push_back(fmt::format("annotation {}: {}", kVirtualInterfacesAnnotation, valid.error().text));
    } else if (out.options.virtual_interfaces.size() == kMaxVirtualInterfaces) {
      out.warnings.push_back(
          fmt::format("annotation {}: more than {} interfaces", kVirtualInterfacesAnnotation, kMaxVirtualInterfaces));
      break;
    } else {
      out.options.virtual_interfaces.push_back(name);
    }
  }
  return out;
}

}  // namespace zt::agent
