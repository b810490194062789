#pragma once
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "workload_api/store/store.h"

namespace zt::bench {

using namespace zt::workload_api;

// A mesh as istiod describes one: per 15 workloads one service with a VIP, pods of ~30 kinds per namespace,
// 110 pods a node.
struct Mesh {
  size_t workloads;
  size_t services = std::max<size_t>(1, workloads / 15);

  [[nodiscard]] std::string ns(size_t service) const { return fmt::format("team-{}", service / 30); }
  [[nodiscard]] std::string app(size_t service) const { return fmt::format("app-{}", service); }
  [[nodiscard]] std::string hostname(size_t service) const {
    return fmt::format("{}.{}.svc.cluster.local", app(service), ns(service));
  }
  [[nodiscard]] static IpAddress vip(size_t service) { return IpAddress::v4(0x0a600000u + static_cast<uint32_t>(service)); }
  [[nodiscard]] static IpAddress ip(size_t workload) { return IpAddress::v4(0x14000000u + static_cast<uint32_t>(workload)); }

  [[nodiscard]] Ref<Service> service(size_t i) const {
    auto service = make_ref<Service>();
    service->name = app(i);
    service->ns = ns(i);
    service->hostname = hostname(i);
    service->vips = {{.network = {}, .ip = vip(i)}};
    service->ports = {{80, 8080}, {9090, 9090}};
    service->canonical = true;
    service->ip_families = IpFamilies::kIpv4Only;
    if (i % 4 == 0)
      service->load_balancing =
          LoadBalancing{.routing_preference = {RoutingScope::kNetwork, RoutingScope::kRegion, RoutingScope::kZone},
                        .mode = LoadBalancingMode::kFailover};
    return service;
  }

  [[nodiscard]] Ref<Workload> workload(Store& store, size_t i, uint32_t revision = 0) const {
    const size_t of = i % services, node = i / 110;
    const auto text = [&](std::string_view content) { return store.text(content); };
    auto workload = make_ref<Workload>();
    workload->ns = text(ns(of));
    workload->name = fmt::format("{}-{:08x}-{:05x}", app(of), of * 2654435761u, i & 0xfffff);
    workload->uid = fmt::format("Kubernetes//Pod/{}/{}", workload->ns.view(), workload->name.view());
    workload->trust_domain = text("cluster.local");
    workload->service_account = text(app(of));
    workload->node = text(fmt::format("node-{}", node));
    workload->canonical_name = text(app(of));
    workload->canonical_revision = text(revision == 0 ? "latest" : fmt::format("v{}", revision));
    workload->workload_name = text(app(of));
    workload->cluster_id = text("Kubernetes");
    workload->locality = {"region-1", fmt::format("zone-{}", node % 3), {}};
    workload->type = WorkloadType::kPod;
    workload->protocol = TunnelProtocol::kHbone;
    workload->addresses = {ip(i)};
    workload->services.push_back({text(fmt::format("{}/{}", workload->ns.view(), hostname(of))), {{80, 8080}, {9090, 9090}}});
    if (i % 5 == 0) workload->authorization_policies = {"istio-system/istio_converted_static_strict"};
    return workload;
  }
};

}  // namespace zt::bench
