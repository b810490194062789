#include "ztunnel/admin/config_dump.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <future>
#include <sstream>
#include <thread>

#include "base/json_writer.h"
#include "mesh/reason.h"
#include "workload_api/yaml/yaml_source.h"

using namespace zt;
using namespace zt::ztunnel;

namespace {

std::string read_golden(const std::string& name) {
  std::ifstream file(std::string(ZT_GOLDEN_DIR "/ztunnel/") + name);
  REQUIRE(file);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The text of a top-level member of a dump, without its comma.
std::string member(const std::string& dump, const std::string& name) {
  const auto begin = dump.find("\n  \"" + name + "\": ");
  REQUIRE(begin != std::string::npos);
  const auto end = std::min(dump.find("\n  \"", begin + 1), dump.rfind("\n}"));
  auto text = dump.substr(begin + 1, end - begin - 1);
  if (text.ends_with(',')) text.pop_back();
  return text;
}

// The peer lists a workload's services in an order of chance; ours is sorted.
std::string with_sorted_services(const std::string& text) {
  std::istringstream lines(text);
  std::vector<std::string> out;
  for (std::string line; std::getline(lines, line);) {
    out.push_back(line);
    if (line != "      \"services\": [") continue;
    std::vector<std::string> names;
    while (std::getline(lines, line) && line != "      ],") names.push_back(line.substr(0, line.rfind('"') + 1));
    std::ranges::sort(names);
    for (const auto& name : names) out.push_back(name + (&name == &names.back() ? "" : ","));
    out.push_back(line);
  }
  std::string sorted;
  for (const auto& line : out) sorted += (sorted.empty() ? "" : "\n") + line;
  return sorted;
}

std::string all_of(std::move_only_function<bool(std::string&)> more, int* pieces = nullptr) {
  std::string text;
  for (;;) {
    if (pieces != nullptr) ++*pieces;
    if (!more(text)) return text;
  }
}

DumpInputs inputs(const workload_api::SnapshotPtr& snapshot) {
  DumpInputs dump;
  dump.snapshot = snapshot;
  dump.config = std::make_shared<Config>();
  dump.version = {"1", "abc", "C++", "release", "Clean", "1.32-alpha", "openssl"};
  return dump;
}

}  // namespace

TEST_CASE("workloads, services and policies that the peer dumped are dumped the same, byte for byte") {
  // The peer's own dump, turned into a local file: endpoints moved from services to workloads.
  auto local = workload_api::load_local_config(ZT_GOLDEN_DIR "/ztunnel/config_dump-as-local.yaml");
  INFO((local ? "" : local.error().text));
  REQUIRE(local);
  workload_api::Store store({});
  const auto rejected = store.replace_local(std::move(*local));
  INFO((rejected.empty() ? "" : rejected.front().why));
  REQUIRE(rejected.empty());
  const auto dump = all_of(config_dump(inputs(store.snapshot())));
  CHECK(validate_json(dump));
  const auto golden = read_golden("config_dump.json");
  for (const char* name : {"policies", "services", "stagedServices", "staticConfig", "workloads"}) {
    INFO(name);
    CHECK(member(dump, name) == with_sorted_services(member(golden, name)));
  }
}

TEST_CASE("a dump of many workloads comes in pieces, sorted") {
  workload_api::Store store({});
  workload_api::Batch batch;
  for (int i = 0; i < 2000; ++i) {
    workload_api::Ref<workload_api::Workload> workload(new workload_api::Workload);
    workload->uid = "c//Pod/shop/w-" + std::to_string(i);
    workload->name = "w-" + std::to_string(i);
    workload->ns = "shop";
    workload->addresses = {IpAddress::v4(0x0a000000u + static_cast<uint32_t>(i))};
    batch.workloads.push_back(std::move(workload));
  }
  REQUIRE(store.apply(std::move(batch)).empty());
  int pieces = 0;
  const auto dump = all_of(config_dump(inputs(store.snapshot())), &pieces);
  CHECK(pieces > 5);
  CHECK(validate_json(dump));
  std::vector<std::string> uids;
  std::istringstream lines(dump);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("      \"uid\": ")) uids.push_back(line);
  }
  CHECK(uids.size() == 2000);
  CHECK(std::ranges::is_sorted(uids));
}

TEST_CASE("a dump is prepared on a thread of its own, whoever asks goes on at once") {
  workload_api::Store store({});
  BackgroundThread thread("dump");
  std::promise<void> asked;
  std::promise<std::thread::id> prepared;
  thread.post([&] { asked.get_future().wait(); });
  answer_config_dump(thread, inputs(store.snapshot()), [&](HttpResponse response) {
    prepared.set_value(response.more ? std::this_thread::get_id() : std::thread::id());
  });
  asked.set_value();  // only now can the thread begin
  const auto by = prepared.get_future().get();
  CHECK(by != std::thread::id());
  CHECK(by != std::this_thread::get_id());
}

TEST_CASE("the members come in the peer's order, workloadState in shared mode only") {
  const auto names = [](const std::string& dump) {
    std::vector<std::string> found;
    std::istringstream lines(dump);
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("  \"")) found.push_back(line.substr(3, line.find('"', 3) - 3));
    }
    return found;
  };
  const workload_api::Store store({});
  auto shared = inputs(store.snapshot());
  shared.workload_state.emplace();
  CHECK(names(all_of(config_dump(std::move(shared)))) == names(read_golden("config_dump.json")));
  const auto dedicated = names(all_of(config_dump(inputs(store.snapshot()))));
  CHECK(std::ranges::find(dedicated, "workloadState") == dedicated.end());
}

TEST_CASE("pods and their connections are dumped as the peer dumps them") {
  const auto address = [](const char* text) { return *SocketAddress::parse(text); };
  std::map<std::string, PodStatus> pods;
  pods["29db7ee7-7d32-470b-bdb0-5c53de600c4f"] = {
      "Up",
      {"cart-7c9d6b5f4-aaaaa", "shop", "cart"},
      PodConnections{
          {{address("10.240.1.30:60540"), "", address("10.240.1.12:9000"), "TCP"},
           {address("10.240.1.20:46734"), "cart-samenode.shop.svc.cluster.local", address("10.240.1.12:8080"), "HBONE"}},
          {}}};
  pods["315bf9e5-de7f-419e-812a-f761e913ca04"] = {
      "Up",
      {"client-0", "shop", "client"},
      PodConnections{{},
                     {{address("10.240.1.20:56134"), "10.240.1.30:8080", address("10.240.1.30:8080"), "TCP"},
                      {address("10.240.1.20:41384"), "10.96.1.4:8080", address("10.240.1.12:15008"), "HBONE"},
                      {address("10.240.1.20:53834"), "10.240.1.11:8080", address("10.240.1.11:15008"), "HBONE"}}}};
  pods["9-pending"] = {"Pending", {"db-0", "shop", "db"}, std::nullopt};
  const workload_api::Store store({});
  auto dump = inputs(store.snapshot());
  dump.workload_state = std::move(pods);
  const auto text = member(all_of(config_dump(std::move(dump))), "workloadState");
  const auto golden = member(read_golden("config_dump-with-connections.json"), "workloadState");
  const auto expected = golden.substr(0, golden.find("    \"3e3c12ea"));
  CHECK(text.starts_with(expected));
  CHECK(text.substr(expected.size()) ==
        "    \"9-pending\": {\n      \"info\": {\n        \"name\": \"db-0\",\n        \"namespace\": "
        "\"shop\",\n"
        "        \"serviceAccount\": \"db\"\n      },\n      \"state\": \"Pending\"\n    }\n  }");
}

TEST_CASE("age, bytes and proven identity of a connection are told under a name of our own") {
  PodStatus status{"Up", {"web", "shop", "web"}, PodConnections{}};
  status.connections->inbound.push_back(
      {*SocketAddress::parse("10.0.0.1:1000"), "", *SocketAddress::parse("10.0.0.2:8080"), "HBONE",
       ConnectionLine::Own{3, std::chrono::milliseconds(1500), 7, 5, "spiffe://td/ns/shop/sa/client", false}});
  std::string out;
  JsonWriter json(out);
  write_pod_status(json, status);
  CHECK(validate_json(out));
  CHECK(out.find("\"zt\": {\n          \"ageMillis\": 1500,\n          \"bytesReceived\": 5,\n          \"bytesSent\": 7,\n      "
                 "    \"id\": 3,\n          "
                 "\"peer\": \"spiffe://td/ns/shop/sa/client\"\n        }") != std::string::npos);
}

TEST_CASE("what ended is told with its reason, beside what is open") {
  EndedConnection refused;
  refused.number = 3;
  refused.source = *SocketAddress::parse("10.0.0.1:1000");
  refused.destination = *SocketAddress::parse("10.0.0.2:15008");
  refused.reason = Reason::kPolicyDenied;
  refused.text = "explicitly denied by: shop/\"no\"";
  refused.bytes = {.client_to_server = 10, .server_to_client = 20};
  std::map<std::string, PodStatus> pods{{"u", {"Pending", {"web", "shop", "web"}, std::nullopt}}};
  const auto response = connections_response({.pods = std::move(pods), .ended = {{.worker = 1, .ended = refused}}});
  CHECK(response.content_type == "application/json");
  CHECK(validate_json(response.body));
  for (const char* said :
       {"\"error\": \"explicitly denied by: shop/\\\"no\\\"\"", "\"number\": 3", "\"worker\": 1", "\"direction\": \"inbound\"",
        "\"bytesReceived\": 10", "\"reason\": \"policy_denied\"", "\"state\": \"Pending\""}) {
    INFO(response.body);
    CHECK(response.body.find(said) != std::string::npos);
  }
}

TEST_CASE("an identity without a certificate says why") {
  std::string out;
  JsonWriter json(out);
  write_certificate(json, {"spiffe://cluster.local/ns/shop/sa/db", "Unavailable: the CA said no", {}});
  CHECK(out ==
        "{\n  \"certChain\": [],\n  \"identity\": \"spiffe://cluster.local/ns/shop/sa/db\",\n  "
        "\"rootCerts\": [],\n"
        "  \"state\": \"Unavailable: the CA said no\"\n}");
}
