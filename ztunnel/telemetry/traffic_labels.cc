#include "ztunnel/telemetry/traffic_labels.h"

#include <algorithm>

#include "ztunnel/telemetry/metrics_text.h"

namespace zt::ztunnel {
namespace {

constexpr std::string_view kOverflow = "overflow";

// Writes one label after the other, those that are shown.
class Writer {
 public:
  Writer(std::string& out, uint32_t shown) : out_(out), shown_(shown) {}
  // The next one of traffic_label_names().
  void next(std::string_view value) {
    const size_t at = at_++;
    if ((shown_ >> at & 1) == 0) return;
    append_label(out_, traffic_label_names().at(at), value.empty() ? kUnknownLabel : value);
  }
  void skip(size_t labels) { at_ += labels; }
  void party(const PartyLabels& party) {
    for (const auto value : {party.workload, party.canonical_service, party.canonical_revision, party.ns, party.principal,
                             party.app, party.version, party.cluster})
      next(value);
  }

 private:
  std::string& out_;
  const uint32_t shown_;
  size_t at_ = 0;
};

PartyLabels overflow_party() {
  return {kOverflow, kOverflow, kOverflow, kOverflow, kOverflow, kOverflow, kOverflow, kOverflow, kOverflow, kOverflow};
}

}  // namespace

const std::array<std::string_view, kTrafficLabels>& traffic_label_names() {
  static constexpr std::array<std::string_view, kTrafficLabels> kNames{"reporter",
                                                                       "source_workload",
                                                                       "source_canonical_service",
                                                                       "source_canonical_revision",
                                                                       "source_workload_namespace",
                                                                       "source_principal",
                                                                       "source_app",
                                                                       "source_version",
                                                                       "source_cluster",
                                                                       "destination_service",
                                                                       "destination_service_namespace",
                                                                       "destination_service_name",
                                                                       "destination_workload",
                                                                       "destination_canonical_service",
                                                                       "destination_canonical_revision",
                                                                       "destination_workload_namespace",
                                                                       "destination_principal",
                                                                       "destination_app",
                                                                       "destination_version",
                                                                       "destination_cluster",
                                                                       "request_protocol",
                                                                       "response_flags",
                                                                       "connection_security_policy",
                                                                       "source_region",
                                                                       "source_zone",
                                                                       "destination_region",
                                                                       "destination_zone",
                                                                       "zt_path"};
  return kNames;
}

uint32_t shown_labels(const std::vector<std::string>& names) {
  if (names.empty()) return ~uint32_t{0};
  uint32_t shown = 0;
  for (size_t i = 0; i < kTrafficLabels; ++i) {
    const std::string_view name = traffic_label_names().at(i);
    if (name == "reporter" || name == "response_flags" || std::ranges::find(names, name) != names.end()) shown |= 1u << i;
  }
  return shown;
}

void render_labels(std::string& out, const TrafficLabels& labels, uint32_t shown, size_t& flag_at) {
  out = "{";
  Writer write(out, shown);
  write.next(reporter_name(labels.reporter));
  write.party(labels.source);
  write.next(labels.service);
  write.next(labels.service_ns);
  write.next(labels.service_name);
  write.party(labels.destination);
  write.next("tcp");
  out += ",response_flags=\"";
  flag_at = out.size();
  out += '"';
  write.skip(1);
  write.next(labels.mutual_tls ? "mutual_tls" : kUnknownLabel);
  if (labels.localities) {
    write.next(labels.source.region);
    write.next(labels.source.zone);
    write.next(labels.destination.region);
    write.next(labels.destination.zone);
  } else {
    write.skip(4);
  }
  if (labels.local) write.next("local");
  out += '}';
}

std::string_view label_in(std::string_view text, std::string_view name) {
  for (size_t at = text.find(name); at != std::string_view::npos; at = text.find(name, at + 1)) {
    const size_t begin = at + name.size() + 2;
    if (at == 0 || (text[at - 1] != ',' && text[at - 1] != '{') || !text.substr(at + name.size()).starts_with("=\"")) continue;
    return text.substr(begin, text.find('"', begin) - begin);
  }
  return {};
}

TrafficLabels overflow_labels(Reporter reporter) {
  return {reporter, overflow_party(), kOverflow, kOverflow, kOverflow, overflow_party(), false, false, {}};
}

std::array<TrafficMetrics::WorkloadName, 2> workloads_of(std::string_view text) {
  return {{{label_in(text, "source_workload_namespace"), label_in(text, "source_workload")},
           {label_in(text, "destination_workload_namespace"), label_in(text, "destination_workload")}}};
}

}  // namespace zt::ztunnel
