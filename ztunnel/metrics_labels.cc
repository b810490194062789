#include "ztunnel/metrics_labels.h"

namespace zt::ztunnel {
namespace {

PartyLabels from_workload(const workload_api::Workload& workload) {
  return {.workload = workload.workload_name.view(),
          .canonical_service = workload.canonical_name.view(),
          .canonical_revision = workload.canonical_revision.view(),
          .ns = workload.ns.view(),
          .principal = {},
          .app = workload.canonical_name.view(),
          .version = workload.canonical_revision.view(),
          .cluster = workload.cluster_id.view(),
          .region = workload.locality.region.view(),
          .zone = workload.locality.zone.view()};
}

PartyLabels from_baggage(const hbone::Baggage& baggage) {
  return {.workload = baggage.workload_name,
          .canonical_service = baggage.service_name,
          .canonical_revision = baggage.service_version,
          .ns = baggage.namespace_,
          .principal = {},
          .app = baggage.workload_name,
          .version = baggage.service_version,
          .cluster = baggage.cluster,
          .region = baggage.region,
          .zone = baggage.zone};
}

PartyLabels party(const workload_api::Workload* workload, const hbone::Baggage* baggage) {
  if (workload != nullptr) return from_workload(*workload);
  if (baggage != nullptr) return from_baggage(*baggage);
  return {};
}

}  // namespace

TrafficLabels traffic_labels(const TrafficParties& parties) {
  TrafficLabels labels;
  labels.reporter = parties.reporter;
  labels.mutual_tls = parties.mutual_tls;
  labels.localities = parties.source != nullptr || parties.destination != nullptr;
  labels.source = party(parties.source, parties.source_baggage);
  labels.source.principal = parties.source_principal;
  labels.destination = party(parties.destination, parties.destination_baggage);
  labels.destination.principal =
      parties.destination != nullptr ? parties.destination->identity.view() : parties.destination_principal;
  if (parties.service != nullptr) {
    labels.service = parties.service->hostname.view();
    labels.service_ns = parties.service->ns.view();
    labels.service_name = parties.service->name.view();
  }
  return labels;
}

}  // namespace zt::ztunnel
