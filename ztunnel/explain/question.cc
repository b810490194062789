// Whom a question is about.
#include <fmt/format.h>

#include <array>

#include "base/host_port.h"
#include "mesh/reason.h"
#include "ztunnel/explain/explain.h"

namespace zt::ztunnel {

using workload_api::ServiceEntry;
using workload_api::Snapshot;
using workload_api::Workload;
using workload_api::WorkloadPtr;

namespace {

// By "namespace/pod".
const Workload* find_pod(const Snapshot& snapshot, std::string_view text) {
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos || text.find('/', slash + 1) != std::string_view::npos) return nullptr;
  const std::string_view ns = text.substr(0, slash), name = text.substr(slash + 1);
  const Workload* found = nullptr;
  snapshot.for_each_workload([&](const Workload& workload) {
    if (workload.ns != ns || workload.name != name) return;
    // Of several the one that is on the network as a pod is.
    if (found == nullptr || (found->addresses.empty() && !workload.addresses.empty())) found = &workload;
  });
  return found;
}

const ServiceEntry* find_service(const Snapshot& snapshot, std::string_view host, std::string_view ns, std::string_view domain) {
  // As a pod's resolv.conf has it.
  const std::array<std::string, 4> names{std::string(host), fmt::format("{}.{}.svc.{}", host, ns, domain),
                                         fmt::format("{}.svc.{}", host, domain), fmt::format("{}.{}", host, domain)};
  for (const std::string& name : names)
    if (const ServiceEntry* entry = snapshot.service_by_hostname(name, ns)) return entry;
  return nullptr;
}

Result<Question> to_host(const KnownState& state, Question question, std::string_view host, uint16_t port,
                         std::string_view domain) {
  const Snapshot& snapshot = *state.snapshot;
  const ServiceEntry* entry = find_service(snapshot, host, question.source->ns.view(), domain);
  if (entry == nullptr)
    return fail(Reason::kNotFound,
                fmt::format("no service that {} may see is called \"{}\": ask with an address, or namespace/pod",
                            question.source->uid.view(), host));
  const auto& service = entry->service();
  const bool v6 = !question.source->addresses.empty() && question.source->addresses.front().is_v6();
  const workload_api::NetworkAddress* chosen = nullptr;
  for (const auto& vip : service.vips) {
    if (vip.network != state.network) continue;
    if (chosen == nullptr || (vip.ip.is_v6() == v6 && chosen->ip.is_v6() != v6)) chosen = &vip;
  }
  if (chosen != nullptr) {
    question.destination = {chosen->ip, port};
    question.found = fmt::format("service {}", service.key.view());
    return question;
  }
  for (const auto& endpoint : entry->endpoints()) {
    if (endpoint.workload->addresses.empty()) continue;
    question.destination = {endpoint.workload->addresses.front(), port};
    question.found = fmt::format("headless service {}: {} of {} endpoints, each is dialled by its own address",
                                 service.key.view(), "the first", entry->endpoints().size());
    return question;
  }
  return fail(Reason::kNotFound, fmt::format("service {} has neither a virtual address in our network nor an endpoint with one",
                                             service.key.view()));
}

}  // namespace

Result<Question> make_question(const KnownState& state, std::string_view source, std::string_view destination,
                               std::string_view domain) {
  const Snapshot& snapshot = *state.snapshot;
  Question question;
  question.asked = destination;
  const Workload* from = snapshot.workload(source);
  if (from == nullptr) from = find_pod(snapshot, source);
  if (from == nullptr)
    if (const auto ip = IpAddress::parse(source)) from = snapshot.workload(state.network, *ip);
  if (from == nullptr)
    return fail(Reason::kNotFound,
                fmt::format("no workload is \"{}\" (namespace/pod, a uid, or an address) in {}", source, state.origin));
  question.source = WorkloadPtr(from);

  if (const auto address = SocketAddress::parse(destination)) {
    question.destination = *address;
    return question;
  }
  const auto at = split_host_port(destination);
  if (!at)
    return fail(Reason::kInvalidInput, fmt::format("\"{}\" is not address:port, host:port or namespace/pod:port", destination));
  if (at->host.find('/') == std::string_view::npos) return to_host(state, std::move(question), at->host, at->port, domain);
  const Workload* to = find_pod(snapshot, at->host);
  if (to == nullptr) return fail(Reason::kNotFound, fmt::format("no workload is \"{}\" in {}", at->host, state.origin));
  if (to->addresses.empty()) return fail(Reason::kNotFound, fmt::format("workload {} has no address", to->uid.view()));
  question.destination = {to->addresses.front(), at->port};
  question.found = fmt::format("workload {}", to->uid.view());
  return question;
}

}  // namespace zt::ztunnel
