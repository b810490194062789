#include "ztunnel/proxy/connection_handover.h"

#include "mesh/reason.h"

namespace zt::ztunnel {

using workload_api::Service;
using workload_api::ServicePtr;
using workload_api::Workload;
using workload_api::WorkloadPtr;

namespace {

handover::Party party_of(const Workload& workload) {
  return {.uid = workload.uid.str(),
          .name = workload.name.str(),
          .ns = workload.ns.str(),
          .cluster = workload.cluster_id.str(),
          .identity = workload.identity.str(),
          .workload_name = workload.workload_name.str(),
          .canonical_name = workload.canonical_name.str(),
          .canonical_revision = workload.canonical_revision.str(),
          .region = std::string(workload.locality.region()),
          .zone = std::string(workload.locality.zone())};
}

bool says_the_same(const Workload& known, const handover::Party& party) {
  return known.name == party.name && known.ns == party.ns && known.cluster_id == party.cluster &&
         known.identity == party.identity && known.workload_name == party.workload_name &&
         known.canonical_name == party.canonical_name && known.canonical_revision == party.canonical_revision &&
         known.locality.region() == party.region && known.locality.zone() == party.zone;
}

// The one that is known here, if it has the same names: most do. Else one like it, with the names under which it was counted.
WorkloadPtr workload_of(const std::optional<handover::Party>& party, const workload_api::Snapshot& snapshot) {
  if (!party) return nullptr;
  const Workload* known = snapshot.workload(party->uid);
  if (known != nullptr && says_the_same(*known, *party)) return WorkloadPtr(known);
  auto made = known != nullptr ? workload_api::make_ref<Workload>(*known) : workload_api::make_ref<Workload>();
  made->uid = party->uid;
  made->name = party->name;
  made->ns = party->ns;
  made->cluster_id = party->cluster;
  made->identity = party->identity;
  made->workload_name = party->workload_name;
  made->canonical_name = party->canonical_name;
  made->canonical_revision = party->canonical_revision;
  made->locality = {party->region, party->zone, {}};
  if (const auto id = identity::SpiffeId::parse(party->identity)) {
    made->trust_domain = id->trust_domain;
    made->service_account = id->service_account;
  }
  return made;
}

ServicePtr service_of(const std::optional<handover::ServiceName>& name) {
  if (!name) return nullptr;
  auto made = workload_api::make_ref<Service>();
  made->ns = name->ns;
  made->name = name->name;
  made->hostname = name->hostname;
  return made;
}

}  // namespace

handover::ConnectionState state_of(const ConnectionInfo& info, const RelayBytes& bytes, const RelayBytes& counted) {
  handover::ConnectionState state;
  state.inbound = info.direction == Direction::kInbound;
  state.source = info.source;
  state.destination = info.destination;
  state.upstream = info.upstream;
  state.hbone_address = info.hbone_address;
  if (info.requested_host) state.requested_host = *info.requested_host;
  state.mutual_tls = info.mutual_tls;
  if (info.source_workload) state.source_party = party_of(*info.source_workload);
  if (info.destination_workload) state.destination_party = party_of(*info.destination_workload);
  if (info.service) {
    state.service = handover::ServiceName{
        .ns = info.service->ns.str(), .name = info.service->name.str(), .hostname = info.service->hostname.str()};
  }
  if (info.peer) state.peer = info.peer->text;
  if (info.baggage) state.baggage = *info.baggage;
  state.age = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - info.begun);
  state.client_to_server = bytes.client_to_server;
  state.server_to_client = bytes.server_to_client;
  state.counted_client_to_server = counted.client_to_server;
  state.counted_server_to_client = counted.server_to_client;
  return state;
}

Result<ConnectionInfo> info_of(const handover::ConnectionState& state, const workload_api::Snapshot& snapshot) {
  ConnectionInfo info;
  info.direction = state.inbound ? Direction::kInbound : Direction::kOutbound;
  info.source = state.source;
  info.destination = state.destination;
  info.upstream = state.upstream;
  info.hbone_address = state.hbone_address;
  if (!state.requested_host.empty()) info.requested_host = std::make_unique<const std::string>(state.requested_host);
  info.mutual_tls = state.mutual_tls;
  info.source_workload = workload_of(state.source_party, snapshot);
  info.destination_workload = workload_of(state.destination_party, snapshot);
  info.service = service_of(state.service);
  if (state.peer) {
    ZT_ASSIGN(const auto id, identity::SpiffeId::parse(*state.peer));
    info.peer = std::make_shared<const ProvenPeer>(id);
  }
  if (state.baggage) info.baggage = std::make_unique<hbone::Baggage>(*state.baggage);
  info.begun = Clock::now() - state.age;
  // What labels_of() needs of them.
  if (!state.inbound && !info.source_workload) return fail(Reason::kInvalidInput, "a connection of nobody's");
  if (state.inbound && !info.destination_workload) return fail(Reason::kInvalidInput, "a connection to nobody");
  return info;
}

}  // namespace zt::ztunnel
