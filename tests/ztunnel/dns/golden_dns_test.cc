// The 47 queries that were put to the real ztunnel under the real istiod, and its answers, byte for byte.
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <fstream>
#include <iterator>
#include <map>
#include <set>

#include "tests/ztunnel/dns/support.h"
#include "workload_api/xds/delta_response.h"

namespace zt::ztunnel::dns::test {
namespace {

std::string read_golden(const std::string& path) {
  std::ifstream in(ZT_GOLDEN_DIR "/" + path, std::ios::binary);
  if (!in) FAIL("cannot read " << path);
  return {std::istreambuf_iterator<char>(in), {}};
}

// What istiod had sent when the queries were asked.
workload_api::SnapshotPtr recorded_mesh() {
  workload_api::Store store({});
  for (const std::string file : {"003-resp-address", "005-resp-authorization"}) {
    auto response = workload_api::decode_response(read_golden("xds/wildcard/" + file + ".binpb"));
    if (!response) FAIL(response.error().text);
    store.apply(std::move(response->batch));
  }
  return store.snapshot();
}

struct Outcome {
  std::string by;  // "mesh", "refused", "ignored", "upstream", …
  Bytes answer;
};

Outcome outcome_of(const workload_api::Snapshot& snapshot, View message) {
  const NameRules names = NameRules::of_pod("shop", "cluster.local");
  const Query query(message);
  Outcome outcome;
  switch (query.kind()) {
    case Query::Kind::kIgnore: outcome.by = "ignored"; return outcome;
    case Query::Kind::kForward: outcome.by = "upstream"; return outcome;
    case Query::Kind::kRefuse:
      outcome.by = "refused";
      write_error(query, query.refusal(), outcome.answer);
      return outcome;
    case Query::Kind::kQuestion: break;
  }
  auto resolution = resolve(snapshot, {.names = names, .network = "", .preferred_ns = {}, .ipv6 = true}, query);
  switch (resolution.by) {
    case Resolution::By::kUpstream: outcome.by = "upstream"; return outcome;
    case Resolution::By::kUpstreamThenMesh: outcome.by = "upstream, then mesh"; break;
    case Resolution::By::kMesh: outcome.by = "mesh"; break;
  }
  write_answer(query, std::move(resolution.found), 1, kMaxMessageBytes, outcome.answer);
  return outcome;
}

TEST_CASE("The recorded queries get the recorded answers, byte for byte") {
  google::protobuf::ListValue cases;
  REQUIRE(google::protobuf::util::JsonStringToMessage(read_golden("dns/cases.json"), &cases).ok());
  const auto snapshot = recorded_mesh();
  std::map<std::string, size_t> counts;
  std::set<std::string> forwarded;
  for (const auto& value : cases.values()) {
    const auto& fields = value.struct_value().fields();
    const std::string name = fields.at("case").string_value();
    INFO(name);
    const Bytes message = unhex(fields.at("query_hex").string_value());
    const auto recorded = fields.find("answer_hex");
    const std::string expected = recorded == fields.end() ? "" : recorded->second.string_value();
    const Outcome outcome = outcome_of(*snapshot, message);
    ++counts[outcome.by];
    if (name == "udp db-0.db.shop.svc.cluster.local. type 1") {
      // The peer asks the upstream, which in the recording was not the cluster's DNS. We know this pod.
      CHECK(expected.substr(4, 4) == "8103");
      CHECK(describe(outcome.answer) == "NOERROR aa db-0.db.shop.svc.cluster.local 10.240.2.13");
      continue;
    }
    if (outcome.by == "mesh" || outcome.by == "refused" || outcome.by == "ignored") {
      CHECK(hex(outcome.answer) == expected);
      continue;
    }
    forwarded.insert(name.substr(4));
    // The peer refuses UPDATE, which breaks who relies on it. Ours is the upstream's to answer.
    if (name == "udp opcode NOTIFY/other") continue;
    // What the upstream said then: without AA, and an answer to this very question.
    const Bytes answer = unhex(expected);
    CHECK((read16(answer, 2) & flag::kAuthoritative) == 0);
    CHECK(answers(answer, message, read16(message, 0)));
  }
  CHECK(cases.values_size() == 47);
  CHECK(counts["mesh"] == 29);
  CHECK(counts["refused"] == 3);
  CHECK(counts["ignored"] == 1);
  CHECK(counts["upstream, then mesh"] == 1);
  CHECK(counts["upstream"] == 13);
  CHECK(forwarded == std::set<std::string>{"a.wild.example. type 1", "ext.shop.svc.cluster.local. type 1",
                                           "none.example.com. type 1", "nosuch.shop.svc.cluster.local. type 1",
                                           "opcode NOTIFY/other", "own.private.example. type 1",
                                           "web.shop.svc.cluster.local. type 16", "web.shop.svc.cluster.local. type 255",
                                           "web.shop.svc.cluster.local. type 33", "www.example.com. type 1",
                                           "www.example.com. type 1 edns 1232", "www.example.com. type 28"});
}

}  // namespace
}  // namespace zt::ztunnel::dns::test
