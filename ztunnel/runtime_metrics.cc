#include "ztunnel/runtime_metrics.h"

#include <chrono>

namespace zt::ztunnel {
namespace {

using Type = ComputedFamily::Type;
using Emit = ComputedFamily::Emit;

}  // namespace

RuntimeMetrics::RuntimeMetrics(Metrics& metrics, std::string aead, uint64_t memory_budget)
    : metrics_(metrics) {
  const auto add = [&](FamilyInfo info, Type type, auto collect) {
    metrics_.add(std::make_unique<ComputedFamily>(std::move(info), type,
                                                  [latest = latest_, collect](const Emit& emit) {
                                                    const auto sample = latest->get();
                                                    collect(*sample, emit);
                                                  }));
  };
  const auto add_one = [&](const char* name, const char* help, Type type, auto value) {
    add({name, help, "", {}}, type, [value](const RuntimeSample& sample, const Emit& emit) {
      emit({}, static_cast<double>(value(sample)));
    });
  };
  using Sample = RuntimeSample;
  add_one("zt_agent_connected", "Whether the node agent is connected.", Type::kGauge,
          [](const Sample& sample) { return sample.agent_connected ? 1 : 0; });
  add_one("zt_workloads", "Workloads known.", Type::kGauge,
          [](const Sample& sample) { return sample.workloads; });
  add_one("zt_services", "Services known.", Type::kGauge,
          [](const Sample& sample) { return sample.services; });
  add_one("zt_policies", "Authorization policies known.", Type::kGauge,
          [](const Sample& sample) { return sample.policies; });
  add({"zt_worker_connections", "Connections that live on a worker.", "", {"worker"}}, Type::kGauge,
      [](const Sample& sample, const Emit& emit) {
        for (size_t i = 0; i < sample.worker_connections.size(); ++i)
          emit({std::to_string(i)}, sample.worker_connections[i]);
      });
  add({"zt_certificate_fetches", "Certificates asked for, by how that ended.", "", {"result"}},
      Type::kCounter, [](const Sample& sample, const Emit& emit) {
        const auto& certificates = sample.certificates;
        emit({"ok"}, static_cast<double>(certificates.fetch_successes));
        emit({"failed"}, static_cast<double>(certificates.fetch_failures - certificates.fetch_timeouts));
        emit({"timeout"}, static_cast<double>(certificates.fetch_timeouts));
      });
  add_one("zt_certificate_waits", "Connections that had to wait for a certificate.", Type::kCounter,
          [](const Sample& sample) { return sample.certificates.waits; });
  add_one("zt_certificate_wait_timeouts", "Connections that waited in vain for a certificate.",
          Type::kCounter, [](const Sample& sample) { return sample.certificates.wait_timeouts; });
  add_one("zt_certificates_expired", "Certificates that ran out with no successor.", Type::kCounter,
          [](const Sample& sample) { return sample.certificates.expirations; });
  add_one("zt_trust_root_changes", "Changes of the trusted roots.", Type::kCounter,
          [](const Sample& sample) { return sample.certificates.root_changes; });
  add_one("zt_identities", "Identities of this node's workloads.", Type::kGauge,
          [](const Sample& sample) { return sample.certificates.identities; });
  add({"zt_certificate_expiration_timestamp_seconds",
       "When the certificate of an identity runs out.",
       "seconds",
       {"identity"}},
      Type::kGauge, [](const Sample& sample, const Emit& emit) {
        for (const auto& [identity, not_after] : sample.certificates.expiries) {
          emit({identity},
               static_cast<double>(
                   std::chrono::floor<std::chrono::seconds>(not_after).time_since_epoch().count()));
        }
      });
  add({"zt_record_layer_info", "What the record layer computes with.", "", {"aead"}}, Type::kGauge,
      [aead = std::move(aead)](const Sample&, const Emit& emit) { emit({aead}, 1); });
  add({"zt_memory_budget_bytes", "Bytes that buffers and windows of all connections may take.", "bytes", {}},
      Type::kGauge,
      [memory_budget](const Sample&, const Emit& emit) { emit({}, static_cast<double>(memory_budget)); });
}

void RuntimeMetrics::publish(RuntimeSample sample) {
  metrics_.active_proxies.get().set(static_cast<int64_t>(sample.active_proxies));
  metrics_.pending_proxies.get().set(static_cast<int64_t>(sample.pending_proxies));
  metrics_.proxies_started.get().advance_to(sample.proxies_started);
  metrics_.proxies_stopped.get().advance_to(sample.proxies_stopped);
  auto next = std::make_shared<const RuntimeSample>(std::move(sample));
  const std::lock_guard lock(latest_->mutex);
  latest_->sample = std::move(next);
}

}  // namespace zt::ztunnel
