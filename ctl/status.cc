#include "ctl/status.h"

#include <fmt/format.h>

#include "ctl/connections.h"

namespace zt::ctl {

namespace {

// Certificates are renewed at half of their life: one that has less than this part of it left was tried in vain for long.
constexpr double kLate = 0.1;

std::string control_plane(const json::object& config) {
  const json::value* zt = config.if_contains("zt");
  const std::string_view local =
      zt != nullptr && zt->is_object() ? text_in(zt->get_object(), "localXdsPath") : std::string_view();
  const std::string_view xds = text_in(config, "xdsAddress");
  if (!xds.empty() && !local.empty()) return fmt::format("{} and the file {}", xds, local);
  if (!xds.empty()) return std::string(xds);
  return local.empty() ? "none" : fmt::format("none; the file {}", local);
}

void warn(json::array& warnings, std::string text) { warnings.emplace_back(std::move(text)); }

}  // namespace

json::object status(const Dump& dump, int64_t now) {
  const json::object& version = dump.object("version");
  const json::object& config = dump.object("config");
  json::object out{{"from", dump.origin}, {"version", text_in(version, "version")}, {"node", dump.node()}};
  out["mode"] = text_in(config, "proxyMode");
  out["controlPlane"] = control_plane(config);
  json::array warnings;

  const Listing all_pods = pods(dump, {});
  size_t up = 0;
  for (const auto& pod : all_pods.rows) {
    if (text_in(pod, "state") == "Up") {
      ++up;
      continue;
    }
    warn(warnings,
         fmt::format("pod {}/{} is {}: its listeners could not be made yet. The proxy's log says why (grep for its name)",
                     text_in(pod, "namespace"), text_in(pod, "name"), text_in(pod, "state")));
  }
  out["pods"] = {{"up", up}, {"all", all_pods.rows.size()}};
  if (text_in(config, "proxyMode") == "Shared" && all_pods.rows.empty())
    warn(warnings,
         "no pod is enrolled: is the node agent (ztunnel-agent, istio-cni) running, and are pods of this node in the mesh?");
  size_t in = 0, outbound = 0;
  for (const auto& pod : all_pods.rows) {
    if (const json::value* count = pod.if_contains("inbound")) in += count->to_number<size_t>();
    if (const json::value* count = pod.if_contains("outbound")) outbound += count->to_number<size_t>();
  }
  out["connections"] = {{"inbound", in}, {"outbound", outbound}};
  for (const char* name : {"workloads", "services", "policies"}) out[name] = dump.list(name).size();
  if (dump.list("workloads").empty())
    warn(warnings, "no workload is known: the control plane, or the local file, has said nothing yet");

  const Listing held = certificates(dump, {}, now, false);
  size_t good = 0;
  const json::object* first = nullptr;
  for (const auto& row : held.rows) {
    const json::value* left = row.if_contains("daysLeft");
    const double days = left != nullptr ? left->to_number<double>() : -1;
    if (text_in(row, "state") != "Available") {
      warn(warnings, fmt::format("{} has no certificate: {}", text_in(row, "identity"), text_in(row, "state")));
    } else if (left != nullptr && days < 0) {
      warn(warnings, fmt::format("the certificate of {} ran out at {}: is the CA reachable, and is this clock right?",
                                 text_in(row, "identity"), text_in(row, "expirationTime")));
    } else {
      ++good;
      const auto from = parse_time(text_in(row, "validFrom")), until = parse_time(text_in(row, "expirationTime"));
      const double life = from && until ? static_cast<double>(*until - *from) / 86400 : 1;
      if (left != nullptr && days < life * kLate)
        warn(warnings, fmt::format("the certificate of {} runs out in {}", text_in(row, "identity"),
                                   span_text(static_cast<int64_t>(days * 86'400'000))));
    }
    if (left != nullptr && (first == nullptr || days < first->at("daysLeft").to_number<double>())) first = &row;
  }
  json::object certificate{{"good", good}, {"all", held.rows.size()}};
  if (first != nullptr) certificate["firstToEnd"] = text_in(*first, "expirationTime");
  if (first != nullptr) certificate["daysLeft"] = first->at("daysLeft");
  out["certificates"] = std::move(certificate);
  out["warnings"] = std::move(warnings);
  return out;
}

std::string status_text(const json::object& status) {
  const json::object& pods = status.at("pods").get_object();
  const json::object& connections = status.at("connections").get_object();
  const json::object& certificates = status.at("certificates").get_object();
  const auto count = [](const json::object& object, std::string_view name) { return object.at(name).to_number<uint64_t>(); };
  const auto line = [](std::string_view name, std::string_view value) { return fmt::format("{:<15}{}\n", name, value); };
  std::string out = line("version", text_in(status, "version"));
  out += line("node", fmt::format("{} ({})", text_in(status, "node"), text_in(status, "mode")));
  out += line("state of", text_in(status, "from"));
  out += line("control plane", text_in(status, "controlPlane"));
  out += line("pods", fmt::format("{} up of {}", count(pods, "up"), count(pods, "all")));
  out += line("connections", fmt::format("{} in, {} out", count(connections, "inbound"), count(connections, "outbound")));
  out += line("certificates", fmt::format("{} good of {}", count(certificates, "good"), count(certificates, "all")));
  if (certificates.contains("daysLeft")) {
    const auto left = static_cast<int64_t>(certificates.at("daysLeft").to_number<double>() * 86'400'000);
    out += line("", fmt::format("the first runs out {}, in {}", text_in(certificates, "firstToEnd"), span_text(left)));
  }
  out += line("the mesh", fmt::format("{} workloads, {} services, {} policies", count(status, "workloads"),
                                      count(status, "services"), count(status, "policies")));
  for (const auto& warning : status.at("warnings").get_array())
    out += fmt::format("! {}\n", std::string_view(warning.get_string()));
  return out;
}

}  // namespace zt::ctl
