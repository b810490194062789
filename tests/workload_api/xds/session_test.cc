// The session without a network: what is retained, what is answered, and when the data plane may start.
#include <google/protobuf/struct.pb.h>

#include "tests/workload_api/xds/support.h"

namespace zt::workload_api::test {
namespace {

struct Fixture {
  explicit Fixture(DeltaSession::Options options = {}) : session(store, options) { requests = session.start_stream(); }
  Store store{{}};
  DeltaSession session;
  std::vector<DeltaRequest> requests;

  DeltaRequest give(const Push& push) { return session.handle(push.decoded()); }
  std::map<std::string, std::string> retained(ResourceType type = ResourceType::kAddress) {
    session.end_stream();
    std::map<std::string, std::string> out;
    const std::vector<DeltaRequest> first = session.start_stream();
    for (const auto& [name, version] : first[static_cast<size_t>(type)].initial_versions) out[name.str()] = version.str();
    return out;
  }
};
using Names = std::map<std::string, std::string>;

}  // namespace

TEST_CASE("A stream begins with Address, then Authorization, with the node and nothing subscribed") {
  Fixture f;
  REQUIRE(f.requests.size() == 2);
  DeltaRequest expected;
  expected.first = true;
  expected.type_url = kAddressTypeUrl;
  CHECK(f.requests[0] == expected);
  expected.type_url = kAuthorizationTypeUrl;
  CHECK(f.requests[1] == expected);
}

TEST_CASE("On demand, addresses are subscribed and unsubscribed at once and policies are not") {
  Fixture f({.on_demand = true});
  REQUIRE(f.requests.size() == 2);
  CHECK(f.requests[0].subscribe == std::vector<std::string>{"*"});
  CHECK(f.requests[0].unsubscribe == std::vector<std::string>{"*"});
  CHECK(f.requests[1].subscribe.empty());
}

TEST_CASE("The caches are warm after the first ACKed response of each type, a NACK does not count") {
  Fixture f;
  CHECK_FALSE(f.session.ready());
  f.give(policies());
  CHECK_FALSE(f.session.ready());

  SECTION("an empty response counts") {
    f.give(addresses());
    CHECK(f.session.ready());
  }
  SECTION("a response with a malformed resource does not, the one after it does") {
    f.give(addresses().add_bytes("bad", "\xff"));
    CHECK_FALSE(f.session.ready());
    f.session.end_stream();
    CHECK_FALSE(f.session.ready());
    (void)f.session.start_stream();
    f.give(addresses());
    CHECK(f.session.ready());
  }
}

TEST_CASE("On demand, only policies are waited for") {
  Fixture f({.on_demand = true});
  f.give(addresses());
  CHECK_FALSE(f.session.ready());
  f.give(policies());
  CHECK(f.session.ready());
}

TEST_CASE("Of 10 000 resources one is malformed: it is named in the NACK and all others are applied") {
  Fixture f;
  Push push = addresses("big");
  for (int i = 0; i < 10'000; ++i) {
    const std::string uid = "c//Pod/shop/p" + std::to_string(i);
    const char ip[] = {10, 0, static_cast<char>(i >> 8), static_cast<char>(i)};
    push.add(uid, pod(uid, i == 4321 ? "abc" : std::string(ip, sizeof ip)));
  }
  const DeltaRequest answer = f.give(push);
  CHECK(answer.nonce == "big");
  CHECK(answer.error == "c//Pod/shop/p4321: failed to parse address, had 3 bytes");
  CHECK(f.store.snapshot()->workload_count() == 9'999);
  CHECK(f.retained().size() == 9'999);
  XdsStats stats;
  f.session.add_to(stats);
  CHECK(stats.nacks == 1);
  CHECK(stats.rejected_resources == 1);
  CHECK(stats.resources == 10'000);
}

TEST_CASE("A NACK of many resources has a limit and says how many it leaves out") {
  Fixture f;
  Push push = addresses();
  for (int i = 0; i < 1000; ++i) push.add("bad-" + std::to_string(i) + std::string(100, 'x'), istio::workload::Address());
  const std::string error = *f.give(push).error;
  CHECK(error.size() < kMaxNackBytes + 100);
  CHECK(error.find(" more") != std::string::npos);
}

TEST_CASE("After a reconnect we report what we hold, with versions, and nothing that was refused or removed") {
  Fixture f;
  f.give(addresses().add("a", pod("a"), "v1").add("b", pod("b"), "v1").add("shop/s.example", service("s.example"), "v9"));
  f.give(addresses().add("b", pod("b"), "v2").add("c", pod("c", "abc"), "v1").remove("a").remove("never"));
  f.give(policies().add("shop/p", policy("p"), ""));
  CHECK(f.retained() == Names{{"b", "v2"}, {"shop/s.example", "v9"}});
  CHECK(f.retained(ResourceType::kAuthorization) == Names{{"shop/p", ""}});

  SECTION("a refused change leaves the older state, which is what we report") {
    f.give(addresses().add("b", pod("b", "abc"), "v3"));
    CHECK(f.retained().at("b") == "v2");
    CHECK(f.store.snapshot()->workload("b") != nullptr);
  }
  SECTION("once mended it is reported") {
    f.give(addresses().add("c", pod("c"), "v2"));
    CHECK(f.retained().at("c") == "v2");
  }
  SECTION("added and removed in one response, it is gone") {
    f.give(addresses().add("d", pod("d")).remove("d"));
    CHECK_FALSE(f.retained().contains("d"));
    CHECK(f.store.snapshot()->workload("d") == nullptr);
  }
}

TEST_CASE("State stays through an outage, and the next stream removes what went away meanwhile") {
  Fixture f;
  f.give(addresses().add("a", pod("a")).add("b", pod("b")));
  f.session.end_stream();
  CHECK(f.store.snapshot()->workload_count() == 2);
  (void)f.session.start_stream();
  f.give(addresses().remove("a"));
  CHECK(f.store.snapshot()->workload("a") == nullptr);
  CHECK(f.store.snapshot()->workload("b") != nullptr);
}

TEST_CASE("One response is one publication") {
  Fixture f;
  size_t publications = 0;
  const auto subscription = f.store.subscribe([&](const SnapshotPtr&, const Changes&) { ++publications; });
  f.give(addresses().add("a", pod("a")).add("b", pod("b")).add("shop/s.example", service("s.example")).remove("b"));
  CHECK(publications == 1);
}

TEST_CASE("A message whose framing is broken is refused as a whole") {
  const std::string good = addresses().add("a", pod("a")).add("b", pod("b")).bytes();
  for (const std::string& bytes : {std::string("garbage that is no protobuf"), good.substr(0, good.size() - 1),
                                   good.substr(0, 20), std::string("\x0a\xff\xff\xff\xff\x0f", 6)}) {
    const auto response = decode_response(bytes);
    REQUIRE_FALSE(response);
    CHECK(response.error().text.starts_with("the control plane's message"));
  }
}

TEST_CASE("A resource entry that is itself damaged is refused by its place and harms no other") {
  std::string bytes = addresses().add("a", pod("a")).bytes();
  bytes += std::string("\x12\x02\xff\xff", 4);  // another entry of two bytes
  const DeltaResponse response = must(decode_response(bytes));
  CHECK(response.accepted.size() == 1);
  REQUIRE(response.rejected.size() == 1);
  CHECK(response.rejected[0].name == "(resource 2 of the message)");
}

TEST_CASE("A message above the limit is refused before it is looked at") {
  const std::string megabyte(1u << 20, '\0');
  const std::vector<std::string_view> pieces(201, megabyte);
  const auto response = decode_response(pieces);
  REQUIRE_FALSE(response);
  CHECK(response.error().text == "the control plane's message is larger than 209715200 bytes");
}

TEST_CASE("A message of more entries than any mesh has is refused before they take their memory") {
  const auto entry = GENERATE(as<std::string>{}, "a resource", "a removal", "an alias");
  discovery::DeltaDiscoveryResponse one;
  if (entry == "a resource") one.add_resources();
  if (entry == "a removal") one.add_removed_resources();
  std::string message;
  if (entry == "an alias") {
    auto& resource = *one.add_resources();
    for (int i = 0; i < 1000; ++i) resource.add_aliases();
  }
  const std::string bytes = one.SerializeAsString();
  for (size_t entries = 0; entries <= kMaxResponseEntries; entries += entry == "an alias" ? 1001 : 1) message += bytes;
  one.Clear();
  one.set_type_url(std::string(kAddressTypeUrl));
  const auto response = decode_response(message + one.SerializeAsString());
  REQUIRE_FALSE(response);
  CHECK(response.error().text == "the control plane's message has more than 4000000 entries");
}

TEST_CASE("A resource that is too long is refused by its place and harms no other") {
  Fixture f;
  discovery::DeltaDiscoveryResponse message;
  message.set_type_url(std::string(kAddressTypeUrl));
  message.add_resources()->set_name(std::string(kMaxResourceBytes, 'x'));
  auto& good = *message.add_resources();
  good.set_name("a");
  good.mutable_resource()->set_value(pod("a").SerializeAsString());
  CHECK(f.session.handle(must(decode_response(message.SerializeAsString()))).error ==
        "(resource 1 of the message): is larger than 16777216 bytes");
  CHECK(f.store.snapshot()->workload_count() == 1);
}

TEST_CASE("An Any of another type is decoded as what the response is about, as the peer does") {
  Fixture f;
  discovery::DeltaDiscoveryResponse message;
  message.set_type_url(std::string(kAddressTypeUrl));
  auto& resource = *message.add_resources();
  resource.set_name("a");
  resource.mutable_resource()->set_type_url("type.googleapis.com/something.Else");
  SECTION("its bytes fit") {
    resource.mutable_resource()->set_value(pod("a").SerializeAsString());
    CHECK_FALSE(f.session.handle(must(decode_response(message.SerializeAsString()))).error);
  }
  SECTION("its bytes are another message") {
    resource.mutable_resource()->set_value(policy("p").SerializeAsString());
    CHECK(f.session.handle(must(decode_response(message.SerializeAsString()))).error ==
          "a: decode: failed to decode Protobuf message");
  }
  CHECK(f.session.handle(addresses().decoded()).error == std::nullopt);
}

TEST_CASE("Node metadata: JSON values overlay texts, and what is no JSON is an error that names it") {
  const auto node =
      must(NodeDescription::make("ztunnel~1.1.1.1~z.ns~ns.svc.cluster.local", {{"NAME", "z"}, {"A", "text"}},
                                 {{"A", R"({"k": [1, true, null, "s"]})"}, {"N", "3.5"}, {"B", "false"}, {"NULL", "null"}}));
  DeltaRequest first;
  first.first = true;
  discovery::DeltaDiscoveryRequest request;
  REQUIRE(request.ParseFromString(encode_request(first, node)));
  const auto& fields = request.node().metadata().fields();
  CHECK(request.node().id() == "ztunnel~1.1.1.1~z.ns~ns.svc.cluster.local");
  CHECK(fields.at("NAME").string_value() == "z");
  CHECK(fields.at("A").struct_value().fields().at("k").list_value().values_size() == 4);
  CHECK(fields.at("N").number_value() == 3.5);
  CHECK(fields.at("B").has_bool_value());
  CHECK(fields.at("NULL").has_null_value());

  for (const std::string& bad : {std::string("{"), std::string(""), std::string("{\"a\":}")}) {
    const auto refused = NodeDescription::make("id", {}, {{"KEY", bad}});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().text.starts_with("node metadata KEY is not JSON"));
  }
}

}  // namespace zt::workload_api::test
