// Bytes as a DNS query of a client, and as an upstream's answer to it: what is answered, forwarded, kept and told again.
#include <cstdlib>

#include "workload_api/store/store.h"
#include "workload_api/yaml/yaml_source.h"
#include "ztunnel/dns/cache.h"
#include "ztunnel/dns/message.h"
#include "ztunnel/dns/resolve.h"

using namespace zt;
using namespace zt::ztunnel::dns;

namespace {

workload_api::SnapshotPtr mesh() {
  auto batch = workload_api::parse_local_config(R"(
workloads:
- {uid: c//Pod/shop/db-0, name: db-0, namespace: shop, serviceAccount: db, workloadIps: [10.0.0.10, "fd00::10"], services: {"shop/db.shop.svc.cluster.local": {"5432": 6432}}}
services:
- {name: web, namespace: shop, hostname: web.shop.svc.cluster.local, vips: [/10.96.0.1, "/fd00:96::1"], ports: {"80": 8080}}
- {name: db, namespace: shop, hostname: db.shop.svc.cluster.local, vips: [], ports: {"5432": 6432}}
- {name: wild, namespace: shop, hostname: "*.wild.example", vips: [/240.240.0.2], ports: {"443": 443}}
)",
                                                "fuzz.yaml");
  workload_api::Store store({});
  store.apply(std::move(*batch));
  return store.snapshot();
}

void require(bool holds) {
  if (!holds) std::abort();
}

void check_answer(const Query& query, const Bytes& out, size_t limit) {
  require(out.size() >= kHeaderBytes && out.size() <= limit && read16(out, 0) == query.id());
  ns_msg parsed;
  require(ns_initparse(out.data(), static_cast<int>(out.size()), &parsed) == 0);
}

}  // namespace

// The first two bytes say how long the query is; the rest is the answer.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto snapshot = mesh();
  static const NameRules names = NameRules::of_pod("shop", "cluster.local");
  if (size < 2) return 0;
  const View all(data, size);
  const View rest = all.subspan(2);
  const View message = rest.first(std::min<size_t>(read16(all, 0), rest.size()));
  const View answer = rest.subspan(message.size());
  const Query query(message);
  Bytes out;
  switch (query.kind()) {
    case Query::Kind::kIgnore: return 0;
    case Query::Kind::kRefuse:
      write_error(query, query.refusal(), out);
      require(out.size() >= kHeaderBytes && read16(out, 0) == query.id());
      return 0;
    case Query::Kind::kForward: (void)answers(answer, message, query.id()); return 0;
    case Query::Kind::kQuestion: break;
  }
  write_error(query, Rcode::kServFail, out);
  check_answer(query, out, kMaxMessageBytes);
  auto resolution = resolve(*snapshot, {.names = names, .network = "", .preferred_ns = {}}, query);
  if (resolution.by != Resolution::By::kUpstream) {
    const size_t limit = query.udp_limit();
    write_answer(query, std::move(resolution.found), size, limit, out);
    check_answer(query, out, limit);
  }
  if (!answers(answer, message, query.id())) return 0;
  (void)says_nothing(answer);
  MemoryLimit limit(1 << 16);
  MemoryAccount memory(limit);
  CacheAccount account(1 << 16);
  PodCache cache(account, memory);
  const auto key = exchange_key({*IpAddress::parse("10.96.0.10"), 53}, query);
  cache.put(key, answer, {});
  if (cache.find(key, query, {}, out)) require(out.size() == answer.size());
  return 0;
}
