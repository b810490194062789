#include "ztunnel/proxy/connection_handover.h"

#include <catch2/catch.hpp>

#include "mesh/reason.h"
#include "tests/handover/units.h"
#include "workload_api/store/store.h"

using namespace zt;
using namespace zt::ztunnel;

namespace {

std::string bytes_of(const handover::ConnectionState& state) {
  handover::PairUnit unit;
  unit.connection = state;
  const auto bytes = handover::encode(unit);
  return {bytes.begin(), bytes.end()};
}

handover::ConnectionState through(const handover::ConnectionState& state, const workload_api::Snapshot& snapshot) {
  auto info = info_of(state, snapshot);
  REQUIRE(info);
  auto back = state_of(*info, {state.client_to_server, state.server_to_client},
                       {state.counted_client_to_server, state.counted_server_to_client});
  CHECK(back.age >= state.age);
  CHECK(back.age < state.age + std::chrono::seconds(10));
  back.age = state.age;
  return back;
}

}  // namespace

TEST_CASE("what is known of a connection is the same in the next process, though it knows none of its workloads") {
  const auto state = handover::testing::some_connection();
  const workload_api::Snapshot nothing;
  CHECK(bytes_of(through(state, nothing)) == bytes_of(state));
  // And in the one after that.
  CHECK(bytes_of(through(through(state, nothing), nothing)) == bytes_of(state));
}

TEST_CASE("a connection is counted under the names that it was opened with") {
  auto state = handover::testing::some_connection();
  auto known = workload_api::make_ref<workload_api::Workload>();
  known->uid = state.source_party->uid;
  known->name = state.source_party->name;
  known->ns = state.source_party->ns;
  known->canonical_revision = "v2";
  known->protocol = workload_api::TunnelProtocol::kHbone;
  workload_api::Store store{{.node_name = std::nullopt}};
  workload_api::Batch batch;
  batch.workloads.push_back(known);
  store.apply(std::move(batch));
  const auto info = info_of(state, *store.snapshot());
  REQUIRE(info);
  CHECK(info->source_workload->canonical_revision == "v1");
  // What is not a name is as it is known now.
  CHECK(info->source_workload->protocol == workload_api::TunnelProtocol::kHbone);
}

TEST_CASE("a connection of nobody's, or of a peer whose name is none, is refused") {
  const workload_api::Snapshot nothing;
  auto state = handover::testing::some_connection();
  SECTION("to nobody") { state.destination_party.reset(); }
  SECTION("of nobody's") {
    state.inbound = false;
    state.source_party.reset();
  }
  SECTION("a name that is none") { state.peer = "spiffe://x"; }
  CHECK_FALSE(info_of(state, nothing));
}
