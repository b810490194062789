// Replays what was recorded between the real istiod, the real ztunnel and a client that follows its rules:
// every response applies, and what we would send is what was sent.
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/message_differencer.h>

#include <deque>
#include <set>

#include "tests/workload_api/xds/support.h"

namespace zt::workload_api::test {
namespace {

using google::protobuf::ListValue;
using google::protobuf::Struct;
using google::protobuf::Value;

std::string golden(const std::string& path) { return read_file(std::string(ZT_GOLDEN_DIR "/xds/") + path); }

template <class Json>
Json json(const std::string& text) {
  Json out;
  const auto status = google::protobuf::util::JsonStringToMessage(text, &out);
  if (!status.ok()) FAIL("not JSON: " << status.message().as_string());
  return out;
}

discovery::DeltaDiscoveryRequest request_of(const std::string& bytes) {
  discovery::DeltaDiscoveryRequest request;
  REQUIRE(request.ParseFromString(bytes));
  return request;
}

// The recorded request as we send it. Two differences are wanted: a NACK carries a code, and our decoder does
// not say which byte of an undecodable resource it did not like.
discovery::DeltaDiscoveryRequest expected_of(const std::string& bytes) {
  auto request = request_of(bytes);
  if (request.has_error_detail()) {
    CHECK(request.error_detail().code() == 0);
    request.mutable_error_detail()->set_code(3);
    std::string& message = *request.mutable_error_detail()->mutable_message();
    const std::string_view detail = ": invalid varint";
    if (message.ends_with(detail)) message.resize(message.size() - detail.size());
  }
  return request;
}

// Who the recording's client was: the node of its first request.
NodeDescription node_of(const discovery::DeltaDiscoveryRequest& first) {
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : first.node().metadata().fields()) metadata[key] = value.string_value();
  return must(NodeDescription::make(first.node().id(), metadata, {}));
}

struct Replay {
  explicit Replay(std::string folder, DeltaSession::Options options = {})
      : session(store, options), folder_(std::move(folder)), index_(json<ListValue>(golden(folder_ + "/index.json"))) {}

  // Requests for which this is false are read over: they are those of a client that misbehaves on purpose.
  std::function<bool(const Struct&)> ours = [](const Struct&) { return true; };
  size_t responses = 0, compared = 0, rejected = 0;
  std::vector<std::pair<std::string, LookupAnswer>> answers;

  void run() {
    for (const Value& line : index_.values()) {
      const auto& fields = line.struct_value().fields();
      if (!fields.contains("file")) {
        const std::string step = fields.at("step").string_value();
        if (step.starts_with("END")) session.end_stream();
        continue;
      }
      const std::string file = folder_ + "/" + fields.at("file").string_value();
      const std::string bytes = golden(file + ".binpb");
      INFO(file);
      if (fields.at("dir").string_value() == "resp")
        respond(bytes);
      else if (ours(line.struct_value()))
        compare(bytes);
    }
    CHECK(sent_.empty());
  }

  Store store{{}};
  DeltaSession session;

 private:
  void respond(const std::string& bytes) {
    ++responses;
    DeltaResponse response = must(decode_response(bytes));
    CHECK(response.bytes == bytes.size());
    rejected += response.rejected.size();
    sent_.push_back(session.handle(std::move(response)));
  }

  void compare(const std::string& bytes) {
    const auto expected = expected_of(bytes);
    if (expected.has_node() && sent_.empty()) {
      node_ = node_of(expected);
      for (DeltaRequest& request : session.start_stream())
        if (request.type_url == kAddressTypeUrl || request.type_url == kAuthorizationTypeUrl) sent_.push_back(std::move(request));
    }
    if (sent_.empty() && expected.resource_names_subscribe_size() == 1) {
      const std::string key = expected.resource_names_subscribe(0);
      auto request =
          session.look_up(key, "pod", Clock::now(), [this, key](LookupAnswer answer) { answers.emplace_back(key, answer); });
      REQUIRE(request);
      sent_.push_back(std::move(*request));
    }
    REQUIRE_FALSE(sent_.empty());
    const auto actual = request_of(encode_request(sent_.front(), node_));
    sent_.pop_front();
    std::string difference;
    google::protobuf::util::MessageDifferencer differencer;
    differencer.ReportDifferencesToString(&difference);
    const bool equal = differencer.Compare(expected, actual);
    CHECK(difference == "");
    CHECK(equal);
    ++compared;
  }

  std::string folder_;
  ListValue index_;
  NodeDescription node_;
  std::deque<DeltaRequest> sent_;
};

std::string note_of(const Struct& line) {
  const auto found = line.fields().find("note");
  return found == line.fields().end() ? "" : found->second.string_value();
}

}  // namespace

TEST_CASE(
    "Our requests are those of the real ztunnel, field by field, over good, malformed and no resources and "
    "five streams") {
  Replay replay("real-ztunnel-requests");
  replay.run();
  CHECK(replay.responses == 10);
  CHECK(replay.compared == 20);
  CHECK(replay.session.ready());

  SECTION("and we keep what it keeps") {
    const auto dump = json<Struct>(golden("real-ztunnel-requests/config_dump-after-bad-resources.json"));
    std::set<std::string> workloads, services, policies, expected_workloads, expected_services, expected_policies;
    const auto text = [](const Value& value, const std::string& key) {
      const auto found = value.struct_value().fields().find(key);
      return found == value.struct_value().fields().end() ? "" : found->second.string_value();
    };
    for (const Value& value : dump.fields().at("workloads").list_value().values()) expected_workloads.insert(text(value, "uid"));
    for (const Value& value : dump.fields().at("services").list_value().values())
      expected_services.insert(text(value, "namespace") + "/" + text(value, "hostname"));
    for (const Value& value : dump.fields().at("policies").list_value().values())
      expected_policies.insert(text(value, "namespace") + "/" + text(value, "name"));
    const SnapshotPtr snapshot = replay.store.snapshot();
    snapshot->for_each_workload([&](const Workload& workload) { workloads.insert(workload.uid.str()); });
    snapshot->for_each_service([&](const ServiceEntry& entry) { services.insert(entry.service().key.str()); });
    snapshot->for_each_policy([&](const Policy& policy) { policies.insert(policy.spec->key.str()); });
    CHECK(workloads == expected_workloads);
    CHECK(services == expected_services);
    CHECK(policies == expected_policies);
  }
}

TEST_CASE("Everything that the real istiod sent applies, and is acknowledged as recorded") {
  const auto [folder, responses] = GENERATE(table<std::string, size_t>({
      {"wildcard", 2},
      {"incremental", 0},
      {"network-gateway", 0},
      {"multi-network", 0},
      {"multi-cluster", 0},
  }));
  INFO(folder);
  Replay replay(folder);
  replay.run();
  CHECK(replay.rejected == 0);
  if (responses != 0) CHECK(replay.responses == responses);
  CHECK(replay.compared == replay.responses + 2);
  CHECK(replay.session.ready());
  CHECK(replay.store.snapshot()->workload_count() > 30);
  CHECK(replay.store.snapshot()->policy_count() > 10);
}

TEST_CASE("A reconnect that is answered with nothing, or with changes only, makes us ready") {
  const std::string folder = GENERATE("reconnect-unchanged", "reconnect-changed");
  INFO(folder);
  Replay replay(folder);
  replay.ours = [](const Struct& line) { return note_of(line) == "ack"; };  // the first requests report earlier state
  replay.run();
  CHECK(replay.rejected == 0);
  CHECK(replay.compared == 2);
  CHECK(replay.session.ready());
}

TEST_CASE("What istiod pushes after a NACK and without an ACK applies") {
  Replay replay("nack");
  replay.ours = [](const Struct&) { return false; };
  for (const auto& line : {"003-resp-address", "004-resp-authorization", "007-resp-address", "008-resp-address"}) {
    DeltaResponse response = must(decode_response(golden(std::string("nack/") + line + ".binpb")));
    CHECK(response.rejected.empty());
    CHECK_FALSE(replay.session.handle(std::move(response)).error);
  }
  const Workload* client = replay.store.snapshot()->workload("Kubernetes//Pod/shop/client-0");
  REQUIRE(client != nullptr);
  CHECK(client->status == WorkloadStatus::kHealthy);
}

TEST_CASE("A type that we do not know is acknowledged and changes nothing") {
  Replay replay("unknown-type");
  size_t requests = 0;
  replay.ours = [&](const Struct&) { return ++requests != 1; };  // we never ask for such a type
  replay.run();
  CHECK(replay.compared == 5);
  CHECK(replay.session.ready());
}

TEST_CASE("On demand we ask as recorded, and every answer of istiod releases who waits for it") {
  Replay replay("on-demand", {.on_demand = true});
  // Not ours: two keys in one request, asking again, and unsubscribing.
  const std::set<double> foreign{40, 43, 52};
  replay.ours = [&](const Struct& line) { return !foreign.contains(line.fields().at("n").number_value()); };
  replay.run();
  CHECK(replay.rejected == 0);
  const std::vector<std::pair<std::string, LookupAnswer>> expected{
      {"/10.240.1.11", LookupAnswer::kAnswered},     // by the alias of a workload
      {"/fd00:240:1::11", LookupAnswer::kAnswered},  // by another alias of the same one
      {"/10.96.1.2", LookupAnswer::kAnswered},       // a service's address
      {"shop/web.shop.svc.cluster.local", LookupAnswer::kAnswered},
      {"Kubernetes//Pod/shop/db-0", LookupAnswer::kAnswered},
      {"/192.0.2.250", LookupAnswer::kAnswered},  // by a removal: there is no such thing
      {"shop/none.shop.svc.cluster.local", LookupAnswer::kAnswered},
      {"/10.99.3.4", LookupAnswer::kAnswered},
      {"shop/*.wild.example", LookupAnswer::kAnswered},
      {"shop/a.wild.example", LookupAnswer::kAnswered},
      {"/172.20.0.11", LookupAnswer::kAnswered},
  };
  CHECK(replay.answers == expected);

  SECTION("a key asked for again is answered without a request, for istiod would not answer it") {
    bool answered = false;
    CHECK_FALSE(replay.session.look_up("/10.240.1.11", "pod", Clock::now(), [&](LookupAnswer) { answered = true; }));
    CHECK(answered);
  }
}

TEST_CASE("A push of thousands of resources in one message decodes, in whatever pieces it lies in memory") {
  const std::string path = std::string(ZT_GOLDEN_DIR "/xds/scale/resp-address.binpb.gz");
  std::string bytes;
  FILE* gzip = ::popen(("gzip -dc '" + path + "'").c_str(), "r");
  REQUIRE(gzip != nullptr);
  for (char buffer[65536]; const size_t count = ::fread(buffer, 1, sizeof buffer, gzip);) bytes.append(buffer, count);
  REQUIRE(::pclose(gzip) == 0);

  const DeltaResponse whole = must(decode_response(bytes));
  CHECK(whole.resources > 2200);
  CHECK(whole.rejected.empty());
  const size_t size = GENERATE(1, 7, 4096);
  std::vector<std::string_view> pieces{{}};  // and an empty one
  for (size_t at = 0; at < bytes.size(); at += size) pieces.push_back(std::string_view(bytes).substr(at, size));
  const DeltaResponse parts = must(decode_response(pieces));
  CHECK(parts.resources == whole.resources);
  CHECK(parts.nonce == whole.nonce);
  REQUIRE(parts.batch.workloads.size() == whole.batch.workloads.size());
  for (size_t i = 0; i < parts.batch.workloads.size(); ++i)
    REQUIRE(parts.batch.workloads[i]->uid == whole.batch.workloads[i]->uid);
}

}  // namespace zt::workload_api::test
