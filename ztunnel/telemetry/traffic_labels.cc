#include "ztunnel/telemetry/traffic_labels.h"

#include "ztunnel/telemetry/metrics_text.h"

namespace zt::ztunnel {
namespace {

constexpr std::string_view kOverflow = "overflow";

void append_party(std::string& out, std::string_view side, const PartyLabels& party) {
  const auto label = [&](std::string_view name, std::string_view value) {
    out.append(",").append(side).append(name).append("=\"");
    append_label_value(out, value.empty() ? kUnknownLabel : value);
    out += '"';
  };
  label("_workload", party.workload);
  label("_canonical_service", party.canonical_service);
  label("_canonical_revision", party.canonical_revision);
  label("_workload_namespace", party.ns);
  label("_principal", party.principal);
  label("_app", party.app);
  label("_version", party.version);
  label("_cluster", party.cluster);
}

PartyLabels overflow_party() {
  return {kOverflow, kOverflow, kOverflow, kOverflow, kOverflow, kOverflow, kOverflow, kOverflow, kOverflow, kOverflow};
}

// The value of a label in rendered text. Names of Kubernetes need no escapes, so none are undone.
std::string_view label_in(std::string_view text, std::string_view name) {
  const auto at = text.find(name);
  if (at == std::string_view::npos) return {};
  const auto begin = at + name.size();
  return text.substr(begin, text.find('"', begin) - begin);
}

}  // namespace

void render_labels(std::string& out, const TrafficLabels& labels, size_t& flag_at) {
  const auto known = [](std::string_view value) { return value.empty() ? kUnknownLabel : value; };
  out = "{";
  append_label(out, "reporter", reporter_name(labels.reporter));
  append_party(out, "source", labels.source);
  append_label(out, "destination_service", known(labels.service));
  append_label(out, "destination_service_namespace", known(labels.service_ns));
  append_label(out, "destination_service_name", known(labels.service_name));
  append_party(out, "destination", labels.destination);
  append_label(out, "request_protocol", "tcp");
  out += ",response_flags=\"";
  flag_at = out.size();
  out += '"';
  append_label(out, "connection_security_policy", labels.mutual_tls ? "mutual_tls" : kUnknownLabel);
  if (labels.localities) {
    append_label(out, "source_region", known(labels.source.region));
    append_label(out, "source_zone", known(labels.source.zone));
    append_label(out, "destination_region", known(labels.destination.region));
    append_label(out, "destination_zone", known(labels.destination.zone));
  }
  if (labels.local) append_label(out, "zt_path", "local");
  out += '}';
}

TrafficLabels overflow_labels(Reporter reporter) {
  return {reporter, overflow_party(), kOverflow, kOverflow, kOverflow, overflow_party(), false, false, {}};
}

std::array<TrafficMetrics::WorkloadName, 2> workloads_of(std::string_view text) {
  return {{{label_in(text, ",source_workload_namespace=\""), label_in(text, ",source_workload=\"")},
           {label_in(text, ",destination_workload_namespace=\""), label_in(text, ",destination_workload=\"")}}};
}

}  // namespace zt::ztunnel
