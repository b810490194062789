#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/address.h"
#include "workload_api/store/snapshot.h"
#include "ztunnel/dns/message.h"
#include "ztunnel/dns/names.h"

// What the mesh knows about a question (contract §9.2–9.4): pure functions of a snapshot, a client and a question. No I/O, no
// clock. Any thread.
namespace zt::ztunnel::dns {

inline constexpr uint32_t kTtl = 30;  // of everything that the mesh says

// Who asks.
struct Client {
  const NameRules& names;
  std::string_view network;
  std::optional<std::string_view> preferred_ns;  // PREFERED_SERVICE_NAMESPACE
  bool ipv6 = true;                              // IPV6_ENABLED
};

struct ServiceRecord {
  std::string target;
  uint16_t port = 0;
};

// What the mesh says. All lists may be empty: the name exists, and has nothing of that type.
struct Found {
  workload_api::ServicePtr service;
  // Not empty: the name asked for is an alias of this one, which the records belong to.
  std::string canonical;
  std::vector<IpAddress> addresses;     // A, AAAA
  std::vector<std::string> names;       // PTR
  std::vector<ServiceRecord> services;  // SRV
  bool type_supported = true;           // false: the service has no addresses of that family at all, for the log
};

struct Resolution {
  enum class By : uint8_t {
    kMesh,              // the answer is `found`
    kUpstream,          // the mesh says nothing about this question
    kUpstreamThenMesh,  // the cluster's DNS knows more about it; `found` is what to say where it knows nothing
  };
  By by = By::kUpstream;
  Found found{};
};

// A and AAAA as the peer answers them. Beyond the peer: names of a headless service's pods ("db-0.db", "10-1-2-3.db"), PTR of
// service addresses and of such pods, and SRV of a service as a whole or by port number: the workload API has no names of ports,
// so the cluster's DNS is asked first.
[[nodiscard]] Resolution resolve(const workload_api::Snapshot& snapshot, const Client& client, const Query& query);

// The addresses of a name, for us who go there ourselves instead of answering a query: IPv4 first. Nothing: the mesh does not know
// the name, which is a host name in lower case.
[[nodiscard]] std::optional<std::vector<IpAddress>> mesh_addresses(const workload_api::Snapshot& snapshot, const Client& client,
                                                                   std::string_view name);

// `order` decides in which order addresses come: any number, each time another.
void write_answer(const Query& query, Found found, uint64_t order, size_t limit, Bytes& out);

}  // namespace zt::ztunnel::dns
