#include <fmt/format.h>

#include <algorithm>

#include "ctl/dump.h"

// The lists of what a dump says of the mesh.
namespace zt::ctl {

namespace {

template <class Visit>
void each_object(const json::array& list, Visit visit) {
  for (const auto& value : list)
    if (const json::object* object = value.if_object()) visit(*object);
}

// "Kubernetes//Pod/shop/web" is what others call it; the name alone is what people know.
std::string_view waypoint_of(const json::object& object) {
  const json::value* waypoint = object.if_contains("waypoint");
  return waypoint != nullptr && waypoint->is_object() ? text_in(waypoint->get_object(), "destination") : std::string_view();
}

json::value copy_of(const json::object& object, std::string_view name) {
  const json::value* found = object.if_contains(name);
  return found != nullptr ? *found : json::value();
}

// ---- Policies in one line

std::string match_text(const json::value& value) {
  if (value.is_string()) return std::string(value.get_string());
  const json::object* object = value.if_object();
  if (object == nullptr) return json::serialize(value);
  if (object->if_contains("Exact") != nullptr) return std::string(text_in(*object, "Exact"));
  if (object->if_contains("Prefix") != nullptr) return fmt::format("{}*", text_in(*object, "Prefix"));
  if (object->if_contains("Suffix") != nullptr) return fmt::format("*{}", text_in(*object, "Suffix"));
  if (object->if_contains("Presence") != nullptr) return "*";
  if (object->if_contains("serviceAccount") != nullptr)
    return fmt::format("{}/{}", text_in(*object, "namespace"), text_in(*object, "serviceAccount"));
  return json::serialize(value);
}

std::string fields_text(const json::object& match) {
  std::string out;
  for (const auto& [field, values] : match) {
    if (!values.is_array() || values.get_array().empty()) continue;
    out += fmt::format("{}{}=", out.empty() ? "" : " ", std::string_view(field));
    bool first = true;
    for (const auto& value : values.get_array()) {
      out += (first ? "" : ",") + match_text(value);
      first = false;
    }
  }
  return out.empty() ? "(a match that never holds)" : out;
}

// A rule holds if each of its clauses has a match that does.
std::string rules_text(const json::value& rules) {
  if (!rules.is_array() || rules.get_array().empty()) return "nobody";
  std::string out;
  for (const auto& rule : rules.get_array()) {
    if (!rule.is_array()) continue;
    std::string clauses;
    for (const auto& clause : rule.get_array()) {
      if (!clause.is_array()) continue;
      std::string matches;
      each_object(clause.get_array(),
                  [&](const json::object& match) { matches += (matches.empty() ? "" : " or ") + fields_text(match); });
      clauses += (clauses.empty() ? "" : " and ") + (clause.get_array().size() > 1 ? "(" + matches + ")" : matches);
    }
    out += (out.empty() ? "" : " | ") + (clauses.empty() ? std::string("everybody") : clauses);
  }
  return out;
}

// ---- Certificates

std::string_view namespace_of(std::string_view identity) {
  const auto begin = identity.find("/ns/");
  if (begin == std::string_view::npos) return {};
  const auto rest = identity.substr(begin + 4);
  return rest.substr(0, rest.find('/'));
}

// "network/address"; of no network, as in most meshes, the address alone.
std::string vips_text(const json::value& vips) {
  std::string out;
  if (!vips.is_array()) return "-";
  for (const auto& vip : vips.get_array()) {
    if (!vip.is_string()) continue;
    std::string_view text = vip.get_string();
    if (text.starts_with('/')) text.remove_prefix(1);
    out += (out.empty() ? "" : ",") + std::string(text);
  }
  return out.empty() ? "-" : out;
}

std::string days_text(const json::value& value) {
  const double days = value.to_number<double>();
  if (days < 0) return "EXPIRED";
  return days < 2 ? span_text(static_cast<int64_t>(days * 86'400'000)) : fmt::format("{:.0f}d", days);
}

}  // namespace

Listing pods(const Dump& dump, const Filter& filter) {
  std::map<std::pair<std::string_view, std::string_view>, const json::object*> by_name;
  each_object(dump.list("workloads"), [&](const json::object& workload) {
    by_name[{text_in(workload, "namespace"), text_in(workload, "name")}] = &workload;
  });
  std::map<std::string_view, std::string_view> states;
  each_object(dump.list("certificates"),
              [&](const json::object& status) { states[text_in(status, "identity")] = text_in(status, "state"); });
  Listing listing{.columns = {{"NAMESPACE", "namespace"},
                              {"POD", "name"},
                              {"STATE", "state"},
                              {"ADDRESS", "addresses"},
                              {"SERVICE ACCOUNT", "serviceAccount"},
                              {"CERTIFICATE", "certificate"},
                              {"IN", "inbound", {}, true},
                              {"OUT", "outbound", {}, true}},
                  .rows = {},
                  .none = "no pod of this node is in the mesh (or none that the filter takes)"};
  for (const auto& [uid, value] : dump.object("workloadState")) {
    const json::object* status = value.if_object();
    if (status == nullptr) continue;
    const json::value info_value = copy_of(*status, "info");
    const json::object info = info_value.is_object() ? info_value.get_object() : json::object();
    const auto ns = text_in(info, "namespace"), name = text_in(info, "name");
    if (!filter.takes(ns, dump.node(), name)) continue;
    json::object row{{"namespace", ns}, {"name", name}, {"uid", uid}, {"state", text_in(*status, "state")}};
    row["serviceAccount"] = text_in(info, "serviceAccount");
    const auto workload = by_name.find({ns, name});
    if (workload != by_name.end()) {
      row["addresses"] = copy_of(*workload->second, "workloadIps");
      row["workload"] = text_in(*workload->second, "uid");
    }
    std::string_view domain = workload != by_name.end() ? text_in(*workload->second, "trustDomain") : std::string_view();
    if (domain.empty()) domain = "cluster.local";
    const std::string identity = fmt::format("spiffe://{}/ns/{}/sa/{}", domain, ns, text_in(info, "serviceAccount"));
    if (const auto state = states.find(identity); state != states.end()) row["certificate"] = state->second;
    if (const json::value connections = copy_of(*status, "connections"); connections.is_object()) {
      for (const char* direction : {"inbound", "outbound"}) {
        const json::value lines = copy_of(connections.get_object(), direction);
        row[direction] = lines.is_array() ? lines.get_array().size() : 0;
      }
    }
    listing.rows.push_back(std::move(row));
  }
  sort_by(listing, "name", false);
  sort_by(listing, "namespace", false);
  return listing;
}

Listing workloads(const Dump& dump, const Filter& filter) {
  Listing listing{.columns = {{"NAMESPACE", "namespace"},
                              {"NAME", "name"},
                              {"ADDRESS", "workloadIps"},
                              {"NODE", "node"},
                              {"WAYPOINT", "waypoint",
                               [](const json::value& waypoint) {
                                 return waypoint.is_object() ? std::string(text_in(waypoint.get_object(), "destination")) : "-";
                               }},
                              {"PROTOCOL", "protocol"},
                              {"STATUS", "status"},
                              {"POLICIES", "authorizationPolicies"}},
                  .rows = {},
                  .none = "no workload is known (or none that the filter takes)"};
  each_object(dump.list("workloads"), [&](const json::object& workload) {
    if (!filter.takes(text_in(workload, "namespace"), text_in(workload, "node"), text_in(workload, "name"))) return;
    listing.rows.push_back(workload);
    if (waypoint_of(workload).empty()) listing.rows.back().erase("waypoint");
  });
  sort_by(listing, "name", false);
  sort_by(listing, "namespace", false);
  return listing;
}

Listing services(const Dump& dump, const Filter& filter) {
  std::map<std::string_view, const json::object*> by_uid;
  each_object(dump.list("workloads"), [&](const json::object& workload) { by_uid[text_in(workload, "uid")] = &workload; });
  Listing listing{.columns = {{"NAMESPACE", "namespace"},
                              {"NAME", "name"},
                              {"HOSTNAME", "hostname"},
                              {"ADDRESS", "vips", vips_text},
                              {"PORTS", "ports",
                               [](const json::value& ports) {
                                 std::string out;
                                 if (!ports.is_object()) return out;
                                 for (const auto& [port, target] : ports.get_object())
                                   out += fmt::format("{}{}:{}", out.empty() ? "" : ",", std::string_view(port),
                                                      json::serialize(target));
                                 return out.empty() ? std::string("-") : out;
                               }},
                              {"WAYPOINT", "waypoint",
                               [](const json::value& waypoint) {
                                 return waypoint.is_object() ? std::string(text_in(waypoint.get_object(), "destination")) : "-";
                               }},
                              {"ENDPOINTS", "healthy", {}, true}},
                  .rows = {},
                  .none = "no service is known (or none that the filter takes)"};
  each_object(dump.list("services"), [&](const json::object& service) {
    const json::value endpoints = copy_of(service, "endpoints");
    size_t all = 0, healthy = 0;
    bool on_node = false, of_pod = false;
    if (endpoints.is_object()) {
      for (const auto& [uid, endpoint] : endpoints.get_object()) {
        ++all;
        const auto workload = by_uid.find(std::string_view(uid));
        if (workload == by_uid.end()) continue;
        if (text_in(*workload->second, "status") == "Healthy") ++healthy;
        const Filter by_node{.ns = {}, .node = filter.node, .pod = {}};
        on_node = on_node || by_node.takes({}, text_in(*workload->second, "node"), {});
        const Filter by_pod{.ns = {}, .node = {}, .pod = filter.pod};
        of_pod = of_pod || by_pod.takes(text_in(*workload->second, "namespace"), {}, text_in(*workload->second, "name"));
      }
    }
    if (!filter.ns.empty() && filter.ns != text_in(service, "namespace")) return;
    if ((!filter.node.empty() && !on_node) || (!filter.pod.empty() && !of_pod)) return;
    json::object row = service;
    row["healthy"] = fmt::format("{}/{}", healthy, all);
    if (waypoint_of(service).empty()) row.erase("waypoint");
    listing.rows.push_back(std::move(row));
  });
  sort_by(listing, "name", false);
  sort_by(listing, "namespace", false);
  return listing;
}

Listing policies(const Dump& dump, const Filter& filter) {
  Listing listing{.columns = {{"NAMESPACE", "namespace"},
                              {"NAME", "name"},
                              {"ACTION", "action"},
                              {"DRY RUN", "dryRun"},
                              {"SCOPE", "scope"},
                              {"WORKLOADS", "workloads", {}, true},
                              {"WHOM", "rules", rules_text}},
                  .rows = {},
                  .none = "no policy is known (or none that the filter takes): what is in the mesh may be called by anybody"};
  each_object(dump.list("policies"), [&](const json::object& policy) {
    if (!filter.ns.empty() && filter.ns != text_in(policy, "namespace")) return;
    const std::string key = fmt::format("{}/{}", text_in(policy, "namespace"), text_in(policy, "name"));
    const auto scope = text_in(policy, "scope");
    size_t count = 0;
    bool taken = filter.node.empty() && filter.pod.empty();
    each_object(dump.list("workloads"), [&](const json::object& workload) {
      bool its = scope == "Global" || (scope == "Namespace" && text_in(workload, "namespace") == text_in(policy, "namespace"));
      if (scope == "WorkloadSelector") {
        const json::value named = copy_of(workload, "authorizationPolicies");
        its = named.is_array() && std::ranges::any_of(named.get_array(), [&](const json::value& each) {
                return each.is_string() && std::string_view(each.get_string()) == key;
              });
      }
      if (!its) return;
      ++count;
      const Filter of_workload{.ns = {}, .node = filter.node, .pod = filter.pod};
      taken = taken || of_workload.takes(text_in(workload, "namespace"), text_in(workload, "node"), text_in(workload, "name"));
    });
    if (!taken) return;
    json::object row = policy;
    row["workloads"] = count;
    listing.rows.push_back(std::move(row));
  });
  sort_by(listing, "name", false);
  sort_by(listing, "namespace", false);
  return listing;
}

Listing certificates(const Dump& dump, const Filter& filter, int64_t now, bool chain) {
  Listing listing{.columns = {{"IDENTITY", "identity"},
                              {"STATE", "state"},
                              {"KIND", "kind"},
                              {"LEFT", "daysLeft", days_text, true},
                              {"UNTIL", "expirationTime"},
                              {"FROM", "validFrom"},
                              {"SERIAL", "serialNumber"}},
                  .rows = {},
                  .none = "no certificate is held (or none that the filter takes)"};
  each_object(dump.list("certificates"), [&](const json::object& status) {
    const auto identity = text_in(status, "identity");
    if (!filter.ns.empty() && filter.ns != namespace_of(identity)) return;
    const json::value leafs = copy_of(status, "certChain"), roots = copy_of(status, "rootCerts");
    const auto line = [&](const json::object& certificate, const char* kind) {
      json::object row{{"identity", identity}, {"state", text_in(status, "state")}, {"kind", kind}};
      for (const char* name : {"expirationTime", "validFrom", "serialNumber", "pem"}) row[name] = text_in(certificate, name);
      if (const auto until = parse_time(text_in(certificate, "expirationTime")))
        row["daysLeft"] = static_cast<double>(*until - now) / 86400;
      listing.rows.push_back(std::move(row));
    };
    bool leaf = true;
    if (leafs.is_array())
      each_object(leafs.get_array(), [&](const json::object& certificate) {
        if (leaf || chain) line(certificate, leaf ? "leaf" : "intermediate");
        leaf = false;
      });
    if (leaf) listing.rows.push_back({{"identity", identity}, {"state", text_in(status, "state")}, {"kind", "none yet"}});
    if (chain && roots.is_array())
      each_object(roots.get_array(), [&](const json::object& certificate) { line(certificate, "root"); });
  });
  sort_by(listing, "identity", false);
  return listing;
}

}  // namespace zt::ctl
