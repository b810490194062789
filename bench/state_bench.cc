// What the state of a large mesh costs: memory per workload, time to apply it, time to publish one change to
// it, and time of the lookups that a connection makes. Prints one row per size; takes the sizes as arguments
// (default 1000 … 1000000).
#include <malloc.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "workload_api/store.h"

using namespace zt;
using namespace zt::workload_api;

namespace {

using Seconds = std::chrono::duration<double>;

// Processor time of this thread: what it costs, whatever else the machine is doing.
struct Clock {
  using duration = std::chrono::nanoseconds;
  static duration now() {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
  }
};

size_t resident_bytes() {
  malloc_trim(0);
  std::ifstream statm("/proc/self/statm");
  size_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

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
  [[nodiscard]] static IpAddress vip(size_t service) {
    return IpAddress::v4(0x0a600000u + static_cast<uint32_t>(service));
  }
  [[nodiscard]] static IpAddress ip(size_t workload) {
    return IpAddress::v4(0x14000000u + static_cast<uint32_t>(workload));
  }

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
      service->load_balancing = LoadBalancing{
          .routing_preference = {RoutingScope::kNetwork, RoutingScope::kRegion, RoutingScope::kZone},
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
    workload->locality = {text("region-1"), text(fmt::format("zone-{}", node % 3)), {}};
    workload->type = WorkloadType::kPod;
    workload->protocol = TunnelProtocol::kHbone;
    workload->addresses = {ip(i)};
    workload->services.push_back(
        {text(fmt::format("{}/{}", workload->ns.view(), hostname(of))), {{80, 8080}, {9090, 9090}}});
    if (i % 5 == 0) workload->authorization_policies = {text("istio-system/istio_converted_static_strict")};
    return workload;
  }
};

double milliseconds(Clock::duration duration) { return Seconds(duration).count() * 1e3; }

void measure(size_t count, size_t message) {
  const Mesh mesh{count};
  const size_t before = resident_bytes();
  Clock::duration building{}, applying{};
  Store store({.node_name = "node-7"});
  SnapshotPtr held = store.snapshot();
  {
    auto at = Clock::now();
    Batch batch;
    for (size_t i = 0; i < mesh.services; ++i) batch.services.push_back(mesh.service(i));
    building += Clock::now() - at;
    at = Clock::now();
    store.apply(std::move(batch));
    applying += Clock::now() - at;
  }
  for (size_t first = 0; first < count; first += message) {
    auto at = Clock::now();
    Batch batch;
    for (size_t i = first; i < std::min(count, first + message); ++i)
      batch.workloads.push_back(mesh.workload(store, i));
    building += Clock::now() - at;
    at = Clock::now();
    store.apply(std::move(batch));
    applying += Clock::now() - at;
  }
  held = store.snapshot();
  const size_t resident = resident_bytes() - before;

  // One workload changes; every publication leaves an older snapshot that somebody still holds.
  std::vector<double> single;
  for (uint32_t i = 1; i <= 1000; ++i) {
    Batch batch;
    batch.workloads.push_back(mesh.workload(store, (i * 7919u) % count, i));
    const auto at = Clock::now();
    store.apply(std::move(batch));
    single.push_back(milliseconds(Clock::now() - at) * 1e3);
    held = store.snapshot();
  }
  std::ranges::sort(single);

  // What a connection asks: own workload by address, service by VIP, an endpoint.
  const SnapshotPtr snapshot = store.snapshot();
  const Workload* source = snapshot->workload("", Mesh::ip(1));
  constexpr size_t kLookups = 1'000'000;
  size_t found = 0;
  const auto at = Clock::now();
  for (size_t i = 0; i < kLookups; ++i) {
    const ServiceEntry* entry =
        snapshot->service_by_vip("", Mesh::vip((i * 7919) % mesh.services), source->ns.view());
    found += static_cast<bool>(entry->choose(*source, 80, ResolutionMode::kStandard, i));
  }
  const double lookup = Seconds(Clock::now() - at).count() / kLookups * 1e9;
  if (found != kLookups) std::abort();

  std::printf("%9zu %9zu %9zu %8.0f %7.2f %7.2f %9.0f %9.0f %9.0f %9.0f\n", count, mesh.services, message,
              static_cast<double>(resident) / 1e6, Seconds(building).count(), Seconds(applying).count(),
              static_cast<double>(resident) / static_cast<double>(count), single[single.size() / 2],
              single[single.size() * 99 / 100], lookup);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  std::printf("%9s %9s %9s %8s %7s %7s %9s %9s %9s %9s\n", "workloads", "services", "message", "MB", "make s",
              "apply s", "B/workld", "change us", "p99 us", "lookup ns");
  std::vector<size_t> sizes;
  for (int i = 1; i < argc; ++i) sizes.push_back(std::strtoull(argv[i], nullptr, 10));
  if (sizes.empty()) sizes = {1'000, 10'000, 100'000, 1'000'000};
  // At once, as a control plane sends it to a proxy that connects; and for the largest also in parts, each of
  // which touches many services again.
  for (const size_t size : sizes) measure(size, size);
  measure(sizes.back(), std::max<size_t>(1, sizes.back() / 10));
}
