#include "ztunnel/dns/pod_dns.h"

#include <algorithm>
#include <cctype>
#include <random>
#include <utility>

#include "base/log.h"

namespace zt::ztunnel::dns {

namespace {

log::Scope kLog("dns");

NameRules rules_for(const WorkerShare& share, const PodName& pod) {
  NameRules rules = NameRules::of_pod(pod.ns, share.settings.cluster_domain);
  if (share.search) rules.search = *share.search;
  return rules;
}

std::string_view protocol(Transport transport) { return transport == Transport::kUdp ? "udp" : "tcp"; }

}  // namespace

PodDns::PodDns(WorkerShare& share, PodName pod)
    : share_(share),
      pod_(std::move(pod)),
      names_(rules_for(share, pod_)),
      names_of_(share.edits),
      order_(std::random_device{}()),
      cached_(share.metrics.dns_forwarded.get({"cached"})),
      shared_(share.metrics.dns_forwarded.get({"shared"})),
      asked_(share.metrics.dns_forwarded.get({"asked"})) {}

// Not waited for, as the peer does before it answers SERVFAIL: its namespace is known from the agent, and all that an answer needs
// beside it is the network.
void PodDns::look_up_workload() {
  const auto& snapshot = *share_.snapshot();
  if (generation_ == snapshot.generation()) return;
  generation_ = snapshot.generation();
  const auto* found = snapshot.local_workload(pod_);
  const bool same_labels = workload_ && found != nullptr && workload_->canonical_name == found->canonical_name &&
                           workload_->canonical_revision == found->canonical_revision;
  if (!same_labels) series_.clear();
  workload_ = workload_api::WorkloadPtr(found);
}

void PodDns::look_at_search() {
  if (std::exchange(names_of_, share_.edits) != share_.edits) names_ = rules_for(share_, pod_);
}

Plan PodDns::plan(const Query& query, Transport transport, Bytes& out) {
  using Step = Plan::Step;
  look_up_workload();
  look_at_search();
  switch (query.kind()) {
    case Query::Kind::kIgnore: note_dropped("not a query"); return {Step::kDrop};
    case Query::Kind::kRefuse:
      note_dropped("malformed");
      write_error(query, query.refusal(), out);
      return {Step::kAnswer};
    case Query::Kind::kForward: return {Step::kForward};
    case Query::Kind::kQuestion: break;
  }
  const size_t limit = transport == Transport::kUdp ? query.udp_limit() : kMaxMessageBytes;
  once(share_.metrics.dns_requests, series(query, transport).requests, query, transport).add();
  const auto& snapshot = *share_.snapshot();
  const auto& settings = share_.settings;
  const Client client{.names = names_,
                      .network = workload_ ? workload_->network.view() : std::string_view(settings.network),
                      .preferred_ns = settings.preferred_ns,
                      .ipv6 = settings.ipv6};
  auto resolution = resolve(snapshot, client, query);
  switch (resolution.by) {
    case Resolution::By::kUpstream: return {Step::kForward};
    case Resolution::By::kUpstreamThenMesh: return {Step::kForward, std::move(resolution.found)};
    case Resolution::By::kMesh: break;
  }
  const Found& found = resolution.found;
  if (kLog.enabled(log::Level::kDebug)) {
    const size_t endpoints = found.addresses.size() + found.names.size();
    log(query,
        !found.type_supported ? "service does not support this record type"
        : endpoints == 0      ? "no records"
                              : "success",
        endpoints);
  }
  write_answer(query, std::move(resolution.found), ++order_, limit, out);
  return {Step::kAnswer};
}

void PodDns::note_upstream(const Query& query, Transport transport) {
  if (query.kind() != Query::Kind::kQuestion) return;
  once(share_.metrics.dns_upstream_requests, series(query, transport).upstream_requests, query, transport).add();
}

void PodDns::finish(const Query& query, Transport transport, std::optional<Found> fallback, Forwarder::Outcome outcome,
                    View response, Clock::duration took, Bytes& out) {
  const bool answered = outcome == Forwarder::Outcome::kAnswered;
  if (query.kind() == Query::Kind::kQuestion) {
    look_up_workload();
    Series& counted = series(query, transport);
    once(share_.metrics.dns_upstream_duration, counted.upstream_duration, query, transport)
        .observe(std::chrono::duration<double>(took).count());
    // As the peer counts: for it, that there is no such name is a failure too.
    const bool failed = !answered || (read16(response, 2) & flag::kRcode) != 0 || says_nothing(response);
    if (failed) once(share_.metrics.dns_upstream_failures, counted.upstream_failures, query, transport).add();
  }
  if (outcome == Forwarder::Outcome::kBusy) note_limit("dns_queries_per_pod");
  if (fallback && (!answered || says_nothing(response))) {
    log(query, "success", fallback->services.size());
    write_answer(query, std::move(*fallback), ++order_, transport == Transport::kUdp ? query.udp_limit() : kMaxMessageBytes, out);
    return;
  }
  if (answered) {
    log(query, "forwarded", read16(response, 6));
    out.assign(response.begin(), response.end());
    adapt(out, query);
    return;
  }
  switch (outcome) {
    case Forwarder::Outcome::kTimedOut: log(query, "forwarding failed (timed out)", 0); break;
    case Forwarder::Outcome::kBusy: log(query, "forwarding failed (too many queries under way)", 0); break;
    default: log(query, "forwarding failed (no name server can be reached)", 0);
  }
  write_error(query, Rcode::kServFail, out);
}

std::vector<SocketAddress> PodDns::upstreams(const std::optional<SocketAddress>& original) const {
  const auto& nodes = share_.upstreams;
  if (!original) return nodes;
  std::vector<SocketAddress> list{*original};
  if (std::ranges::find(nodes, *original) != nodes.end()) {
    std::ranges::copy_if(nodes, std::back_inserter(list), [&](const auto& each) { return each != *original; });
  }
  return list;
}

PodDns::Series& PodDns::series(const Query& query, Transport transport) { return series_[{type_name(query.type()), transport}]; }

template <class Family, class One>
One& PodDns::once(Family& family, One*& cached, const Query& query, Transport transport) {
  if (cached == nullptr) {
    cached = &family.get({type_name(query.type()), protocol(transport), workload_ ? workload_->canonical_name.view() : "",
                          workload_ ? workload_->canonical_revision.view() : ""});
  }
  return *cached;
}

void PodDns::log(const Query& query, std::string_view result, size_t endpoints) {
  if (!kLog.enabled(log::Level::kDebug) || query.kind() != Query::Kind::kQuestion) return;
  std::string type(type_name(query.type()));
  std::ranges::transform(type, type.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  const std::string domain = query.name() == "." ? "." : std::string(query.name()) + ".";
  ZT_LOG(kLog, kDebug, "", Field::string("src.workload", workload_ ? workload_->name.view() : std::string_view("unknown")),
         Field::string("src.namespace", pod_.ns), Field::string("query", type), Field::string("domain", domain),
         Field::string("result", result), Field::count("endpoints", static_cast<int64_t>(endpoints)));
}

}  // namespace zt::ztunnel::dns
