// Decisions a CPU second: route() from captured connection to endpoint, on states that grow. What it costs must not grow with them.
#include <fmt/format.h>
#include <time.h>

#include <cstdint>
#include <string>
#include <vector>

#include "workload_api/store/store.h"
#include "ztunnel/decide/route.h"

namespace {

using namespace zt;
using namespace zt::workload_api;

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

constexpr uint32_t kEndpointBase = 0x15000000u;

// One service with so many endpoints, of which every other has twice the capacity if `weighted`, over ten zones if `ranked`; and
// so many services that are address blocks.
struct Case {
  const char* name;
  size_t endpoints;
  bool weighted = false, ranked = false;
  size_t blocks = 0;
};

SnapshotPtr state_of(const Case& wanted) {
  Store store({});
  Batch batch;
  auto service = make_ref<Service>();
  service->name = "web";
  service->ns = "shop";
  service->hostname = "web.shop.svc.cluster.local";
  service->vips = {{.network = {}, .ip = *IpAddress::parse("10.96.0.1")}};
  service->ports = {{80, 8080}};
  if (wanted.ranked)
    service->load_balancing =
        LoadBalancing{.routing_preference = {RoutingScope::kNetwork, RoutingScope::kRegion, RoutingScope::kZone},
                      .mode = LoadBalancingMode::kFailover};
  batch.services.push_back(std::move(service));
  for (size_t i = 0; i < wanted.blocks; ++i) {
    auto block = make_ref<Service>();
    block->name = fmt::format("block-{}", i);
    block->ns = "shop";
    block->hostname = fmt::format("block-{}.example.com", i);
    block->cidr_vips = {{.network = {}, .cidr = {IpAddress::v4(0x64000000u + static_cast<uint32_t>(i << 8)), 24}}};
    block->load_balancing = LoadBalancing{.routing_preference = {}, .mode = LoadBalancingMode::kPassthrough};
    batch.services.push_back(std::move(block));
  }
  for (size_t i = 0; i <= wanted.endpoints; ++i) {
    auto workload = make_ref<Workload>();
    workload->ns = store.text("shop");
    workload->name = fmt::format("web-{}", i);
    workload->uid = fmt::format("Kubernetes//Pod/shop/web-{}", i);
    workload->trust_domain = store.text("cluster.local");
    workload->service_account = store.text("web");
    workload->protocol = TunnelProtocol::kHbone;
    workload->addresses = {IpAddress::v4(kEndpointBase + static_cast<uint32_t>(i))};
    workload->locality = {"region-1", fmt::format("zone-{}", i % 10), {}};
    if (wanted.weighted) workload->capacity = 1 + static_cast<uint32_t>(i % 2);
    if (i > 0) workload->services.push_back({store.text("shop/web.shop.svc.cluster.local"), {}});  // the first is the client
    batch.workloads.push_back(std::move(workload));
  }
  store.apply(std::move(batch));
  return store.snapshot();
}

double decisions_a_second(const Snapshot& snapshot, const std::vector<SocketAddress>& destinations) {
  static constexpr uint16_t kIllegal[] = {15001, 15006, 15008};
  ztunnel::RoundRobin turns(7);
  const ztunnel::NumberFor number = std::ref(turns);
  const Workload& source = *snapshot.workload("Kubernetes//Pod/shop/web-0");
  size_t made = 0, denied = 0;
  const double begin = cpu_seconds();
  double now = begin;
  while (now - begin < 1.0) {
    for (int i = 0; i < 1000; ++i, ++made) {
      const auto way = ztunnel::route(snapshot, {.source = source,
                                                 .client_ip = source.addresses.front(),
                                                 .destination = destinations[made % destinations.size()],
                                                 .network = {},
                                                 .illegal_ports = kIllegal,
                                                 .number = number});
      denied += std::holds_alternative<ztunnel::Deny>(way);
    }
    now = cpu_seconds();
  }
  if (denied > 0) fmt::print(stderr, "bench route: {} of {} were refused\n", denied, made);
  return static_cast<double>(made) / (now - begin);
}

}  // namespace

int main(int argc, char**) {
  if (argc > 1) {
    fmt::print("./dev bench route\nDecisions a CPU second, by endpoints of the service and by address blocks.\n");
    return 0;
  }
  const Case cases[] = {
      {"10 endpoints", 10},
      {"1,000 endpoints", 1'000},
      {"10,000 endpoints", 10'000},
      {"100,000 endpoints", 100'000},
      {"10 endpoints of two capacities", 10, true},
      {"10,000 endpoints of two capacities", 10'000, true},
      {"10 endpoints, closest zone", 10, true, true},
      {"10,000 endpoints, closest zone", 10'000, true, true},
  };
  for (const Case& each : cases) {
    const auto snapshot = state_of(each);
    fmt::print("{:<40} {:>12.0f} decisions a CPU second\n", each.name,
               decisions_a_second(*snapshot, {*SocketAddress::parse("10.96.0.1:80")}));
  }
  for (const size_t blocks : {size_t{10}, size_t{10'000}}) {
    const auto snapshot = state_of({"", 10, false, false, blocks});
    std::vector<SocketAddress> destinations;
    for (size_t i = 0; i < 997; ++i)
      destinations.push_back({IpAddress::v4(0x64000000u + static_cast<uint32_t>(((i * blocks / 997) << 8) + 7)), 443});
    fmt::print("{:<40} {:>12.0f} decisions a CPU second\n", fmt::format("{} address blocks", blocks),
               decisions_a_second(*snapshot, destinations));
  }
  return 0;
}
