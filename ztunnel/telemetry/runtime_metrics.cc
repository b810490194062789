#include "ztunnel/telemetry/runtime_metrics.h"

#include <algorithm>
#include <chrono>

namespace zt::ztunnel {
namespace {

using Type = ComputedFamily::Type;
using Emit = ComputedFamily::Emit;

}  // namespace

RuntimeMetrics::RuntimeMetrics(Metrics& metrics, std::string aead) : metrics_(metrics) {
  const auto add = [&](FamilyInfo info, Type type, auto collect) {
    metrics_.add(std::make_unique<ComputedFamily>(std::move(info), type, [latest = latest_, collect](const Emit& emit) {
      const auto sample = latest->get();
      collect(*sample, emit);
    }));
  };
  const auto add_one = [&](const char* name, const char* help, Type type, auto value) {
    add({name, help, "", {}}, type,
        [value](const RuntimeSample& sample, const Emit& emit) { emit({}, static_cast<double>(value(sample))); });
  };
  metrics_.traffic.keep_existing([latest = latest_](TrafficMetrics::WorkloadNames& names) {
    const auto sample = latest->get();
    if (!sample->mesh) return names.clear();
    sample->mesh->for_each_workload(
        [&](const workload_api::Workload& workload) { names.erase({workload.ns.view(), workload.workload_name.view()}); });
  });
  using Sample = RuntimeSample;
  add_one("zt_agent_connected", "Whether the node agent is connected.", Type::kGauge,
          [](const Sample& sample) { return sample.agent_connected ? 1 : 0; });
  add_one("zt_workloads", "Workloads known.", Type::kGauge, [](const Sample& sample) { return sample.workloads; });
  add_one("zt_services", "Services known.", Type::kGauge, [](const Sample& sample) { return sample.services; });
  add_one("zt_policies", "Authorization policies known.", Type::kGauge, [](const Sample& sample) { return sample.policies; });
  add({"zt_worker_connections", "Connections that live on a worker.", "", {"worker"}}, Type::kGauge,
      [](const Sample& sample, const Emit& emit) {
        for (size_t i = 0; i < sample.worker_connections.size(); ++i) emit({std::to_string(i)}, sample.worker_connections[i]);
      });
  add({"zt_tunnels_open", "Tunnels that are open.", "", {"role"}}, Type::kGauge, [](const Sample& sample, const Emit& emit) {
    emit({"client"}, static_cast<double>(sample.client_tunnels));
    emit({"server"}, static_cast<double>(sample.server_tunnels));
  });
  add_one("zt_handshakes_in_flight", "Connections of peers that have not ended their handshake.", Type::kGauge,
          [](const Sample& sample) { return sample.handshakes; });
  add({"zt_memory_held_bytes",
       "Bytes held for peers and applications that do not take them; zt_memory_budget_bytes is the limit.",
       "bytes",
       {}},
      Type::kGauge, [](const Sample& sample, const Emit& emit) { emit({}, static_cast<double>(sample.memory_held)); });
  add({"zt_certificate_fetches", "Certificates asked for, by how that ended.", "", {"result"}}, Type::kCounter,
      [](const Sample& sample, const Emit& emit) {
        const auto& certificates = sample.certificates;
        emit({"ok"}, static_cast<double>(certificates.fetch_successes));
        emit({"failed"}, static_cast<double>(certificates.fetch_failures - certificates.fetch_timeouts));
        emit({"timeout"}, static_cast<double>(certificates.fetch_timeouts));
      });
  add_one("zt_certificate_waits", "Connections that had to wait for a certificate.", Type::kCounter,
          [](const Sample& sample) { return sample.certificates.waits; });
  add_one("zt_certificate_wait_timeouts", "Connections that waited in vain for a certificate.", Type::kCounter,
          [](const Sample& sample) { return sample.certificates.wait_timeouts; });
  add_one("zt_certificates_expired", "Certificates that ran out with no successor.", Type::kCounter,
          [](const Sample& sample) { return sample.certificates.expirations; });
  add_one("zt_certificates_revoked", "Certificates of ours that a revocation list was found to name.", Type::kCounter,
          [](const Sample& sample) { return sample.certificates.revocations; });
  add_one("zt_trust_root_changes", "Changes of the trusted roots.", Type::kCounter,
          [](const Sample& sample) { return sample.certificates.root_changes; });
  add_one("zt_identities", "Identities of this node's workloads.", Type::kGauge,
          [](const Sample& sample) { return sample.certificates.identities; });
  add({"zt_certificate_expiration_timestamp_seconds", "When the certificate of an identity runs out.", "seconds", {"identity"}},
      Type::kGauge, [](const Sample& sample, const Emit& emit) {
        for (const auto& [identity, not_after] : sample.certificates.expiries) {
          emit({identity}, static_cast<double>(std::chrono::floor<std::chrono::seconds>(not_after).time_since_epoch().count()));
        }
      });
  add_one("zt_certificates_pending", "Identities whose certificate is being fetched or is due.", Type::kGauge,
          [](const Sample& sample) { return sample.certificates.in_flight + sample.certificates.queued; });
  add_one("zt_certificate_waiting", "Connections that wait for a certificate now.", Type::kGauge,
          [](const Sample& sample) { return sample.certificates.waiting; });

  // Of the control plane; without one these families are not there.
  const auto add_xds = [&](const char* name, const char* help, Type type, auto value) {
    add({name, help, "", {}}, type, [value](const Sample& sample, const Emit& emit) {
      if (sample.xds) emit({}, static_cast<double>(value(*sample.xds)));
    });
  };
  using Xds = workload_api::XdsStats;
  add_xds("zt_xds_connected", "Whether the control plane answers on the present stream.", Type::kGauge,
          [](const Xds& xds) { return xds.connected ? 1 : 0; });
  add_xds("zt_xds_streams", "Streams to the control plane that were begun.", Type::kCounter,
          [](const Xds& xds) { return xds.streams; });
  add({"zt_xds_last_ack_age_seconds", "Time since the control plane last sent what we could accept whole.", "seconds", {}},
      Type::kGauge, [](const Sample& sample, const Emit& emit) {
        if (!sample.xds || !sample.xds->last_ack) return;
        emit({}, std::chrono::duration<double>(std::chrono::steady_clock::now() - *sample.xds->last_ack).count());
      });
  add_xds("zt_xds_nacks", "Responses of which something was refused.", Type::kCounter, [](const Xds& xds) { return xds.nacks; });
  add_xds("zt_xds_rejected_resources", "Resources that were refused.", Type::kCounter,
          [](const Xds& xds) { return xds.rejected_resources; });
  add_xds("zt_xds_undecodable_messages", "Messages that could not be read; each ended its stream.", Type::kCounter,
          [](const Xds& xds) { return xds.undecodable_messages; });
  add({"zt_xds_longest_apply_seconds", "Longest time that the control thread was busy with one response.", "seconds", {}},
      Type::kGauge, [](const Sample& sample, const Emit& emit) {
        if (sample.xds) emit({}, std::chrono::duration<double>(sample.xds->longest_apply).count());
      });
  add({"zt_xds_lookups", "What the control plane was asked for on demand, by how that ended.", "", {"result"}}, Type::kCounter,
      [](const Sample& sample, const Emit& emit) {
        if (!sample.xds || sample.xds->lookups == 0) return;
        const Xds& xds = *sample.xds;
        const uint64_t ended = xds.lookups - std::min<uint64_t>(xds.lookups, xds.lookups_waiting);
        emit({"answered"}, static_cast<double>(ended - xds.lookup_timeouts - xds.lookups_refused));
        emit({"timeout"}, static_cast<double>(xds.lookup_timeouts));
        emit({"refused"}, static_cast<double>(xds.lookups_refused));
      });
  add_xds("zt_xds_lookups_waiting", "Lookups that wait for the control plane now.", Type::kGauge,
          [](const Xds& xds) { return xds.lookups_waiting; });

  add({"zt_record_layer_info", "What the record layer computes with.", "", {"aead"}}, Type::kGauge,
      [aead = std::move(aead)](const Sample&, const Emit& emit) { emit({aead}, 1); });
  add({"zt_memory_budget_bytes", "Bytes that buffers and windows of all connections may take.", "bytes", {}}, Type::kGauge,
      [](const Sample& sample, const Emit& emit) { emit({}, static_cast<double>(sample.memory_limit)); });
  add({"zt_memory_promised_bytes", "Bytes that peers may send beyond the window that each begins with.", "bytes", {}},
      Type::kGauge, [](const Sample& sample, const Emit& emit) { emit({}, static_cast<double>(sample.memory_promised)); });
  const auto add_pod = [&](const char* name, const char* help, const char* unit, auto value) {
    add({name, help, unit, {"namespace", "pod"}}, Type::kGauge, [value](const Sample& sample, const Emit& emit) {
      for (const PodUse& pod : sample.pods) emit({pod.ns, pod.name}, static_cast<double>(value(pod)));
    });
  };
  add_pod("zt_pod_connections", "Connections of a pod that are open or on their way to be, both directions.", "",
          [](const PodUse& pod) { return pod.connections; });
  add_pod("zt_pod_tunnels", "Tunnels that peers have to a pod.", "", [](const PodUse& pod) { return pod.tunnels; });
  add_pod("zt_pod_memory_bytes", "Bytes held for a pod and its peers, of zt_memory_held_bytes.", "bytes",
          [](const PodUse& pod) { return pod.memory; });
  add_one("zt_memory_cuts", "Streams, handshakes and tunnels that were ended because the memory budget was used up.",
          Type::kCounter, [](const Sample& sample) { return sample.memory_cuts; });
  add({"zt_handover_longest_stop_seconds",
       "Longest time for which connections that were given to the next process stood still.",
       "seconds",
       {}},
      Type::kGauge, [](const Sample& sample, const Emit& emit) { emit({}, sample.handover_stop); });
  add({"zt_worker_longest_turn_seconds",
       "Longest time in the last minute for which a worker did not look for new events.",
       "seconds",
       {"worker"}},
      Type::kGauge, [](const Sample& sample, const Emit& emit) {
        for (size_t i = 0; i < sample.longest_turns.size(); ++i) emit({std::to_string(i)}, sample.longest_turns[i]);
      });
}

void RuntimeMetrics::publish(RuntimeSample sample) {
  metrics_.active_proxies.get().set(static_cast<int64_t>(sample.active_proxies));
  metrics_.pending_proxies.get().set(static_cast<int64_t>(sample.pending_proxies));
  metrics_.proxies_started.get().advance_to(sample.proxies_started);
  metrics_.proxies_stopped.get().advance_to(sample.proxies_stopped);
  if (sample.xds) publish_xds(*sample.xds);
  auto next = std::make_shared<const RuntimeSample>(std::move(sample));
  const std::lock_guard lock(latest_->mutex);
  latest_->sample = std::move(next);
}

// The families that the peer has too; as there, a series begins with its first event.
void RuntimeMetrics::publish_xds(const workload_api::XdsStats& xds) {
  using workload_api::ResourceType;
  for (size_t type = 0; type < xds.messages.size(); ++type) {
    if (xds.messages[type] == 0) continue;
    const auto url = type < workload_api::kResourceTypes ? workload_api::type_url(static_cast<ResourceType>(type)) : "other";
    metrics_.xds_messages.get({url}).advance_to(xds.messages[type]);
    metrics_.xds_message_bytes.get({url}).advance_to(xds.message_bytes[type]);
  }
  for (size_t end = 0; end < workload_api::kStreamEnds; ++end) {
    if (xds.terminations[end] == 0) continue;
    const auto reason = workload_api::stream_end_name(static_cast<workload_api::StreamEnd>(end));
    metrics_.xds_connection_terminations.get({reason}).advance_to(xds.terminations[end]);
  }
}

}  // namespace zt::ztunnel
