#include "ctl/command_line.h"

#include <fmt/format.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/json_writer.h"

namespace zt::ctl {
namespace {

const std::string kGolden = ZT_GOLDEN_DIR "/ztunnel/config_dump-with-connections.json";

ztunnel::CommandResult run(std::vector<const char*> words) {
  CommandLine line;
  words.insert(words.begin(), "ztunnelctl");
  return line.run(static_cast<int>(words.size()), words.data());
}

ztunnel::CommandResult of_golden(std::vector<const char*> words) {
  words.insert(words.end(), {"--dump", kGolden.c_str()});
  return run(std::move(words));
}

json::array rows(std::vector<const char*> words) {
  words.insert(words.end(), {"-o", "json"});
  const auto result = of_golden(std::move(words));
  REQUIRE(result.exit_code == 0);
  return json::parse(result.out).as_array();
}

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

bool has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

TEST_CASE("each list is a table for people and JSON for programs, over a dump of istio ztunnel too") {
  for (const char* list : {"pods", "workloads", "services", "policies", "certificates", "connections"}) {
    INFO(list);
    const auto table = of_golden({list});
    REQUIRE(table.exit_code == 0);
    const auto lines = lines_of(table.out);
    const auto objects = rows({list});
    REQUIRE(objects.size() > 3);
    CHECK(lines.size() == objects.size() + 1);
    // Columns begin where their titles do.
    for (const auto& line : lines) CHECK(line.find("  ") != std::string::npos);
  }
}

TEST_CASE("filters take what people name: a namespace, a node, a pod") {
  for (const auto& row : rows({"workloads", "-n", "pay", "--node", "node-b"})) {
    CHECK(row.at("namespace").as_string() == "pay");
    CHECK(row.at("node").as_string() == "node-b");
  }
  CHECK(rows({"workloads", "-n", "pay", "--node", "node-b"}).size() == 4);
  CHECK(rows({"pods", "--pod", "client-0"}).size() == 1);
  CHECK(rows({"pods", "--pod", "shop/client-0"}).size() == 1);
  CHECK(rows({"pods", "--pod", "pay/client-0"}).empty());
  CHECK(rows({"pods", "--node", "node-b"}).empty());
  CHECK(rows({"connections", "--pod", "client-0", "--direction", "outbound"}).size() == 3);
  CHECK(rows({"connections", "--pod", "client-0", "--direction", "inbound"}).empty());
  CHECK(rows({"certificates", "-n", "pay"}).size() < rows({"certificates"}).size());
  for (const auto& row : rows({"services", "--pod", "shop/client-0"})) FAIL(json::serialize(row));
  CHECK(has(of_golden({"pods", "--pod", "nobody"}).out, "no pod of this node"));
}

TEST_CASE("a table says what people look for") {
  const auto cart = of_golden({"connections", "-n", "shop"}).out;
  CHECK(has(cart, "shop/cart-7c9d6b5f4-aaaaa"));
  CHECK(has(cart, "shop/client-0:46734"));  // the peer by its name
  const auto policies = of_golden({"policies"}).out;
  CHECK(has(policies, "namespaces=evil-*"));
  const auto services = of_golden({"services", "-n", "shop"}).out;
  CHECK(has(services, "1/2"));  // db-all: one endpoint is not healthy
  const auto pods = of_golden({"pods", "--pod", "shop/client-0"}).out;
  CHECK(has(pods, "10.240.1.20,fd00:240:1::20"));
  CHECK(has(pods, "Up"));
}

TEST_CASE("certificates say how long they last, and their chain if asked") {
  const auto leafs = rows({"certificates"});
  const auto all = rows({"certificates", "--chain"});
  CHECK(all.size() == 2 * leafs.size());
  CHECK(leafs.front().at("daysLeft").is_number());
  CHECK(leafs.front().at("kind").as_string() == "leaf");
  const auto dump = read_dump({.admin = {}, .file = kGolden});
  REQUIRE(dump);
  // 2026-11-24T02:52:05Z is when they end.
  const auto until = parse_time("2026-11-24T02:52:05Z");
  REQUIRE(until);
  CHECK(has(table_of(certificates(*dump, {}, *until - 86400 * 30, false)), "30d"));
  CHECK(has(table_of(certificates(*dump, {}, *until - 3600, false)), "1h0m"));
  CHECK(has(table_of(certificates(*dump, {}, *until + 1, false)), "EXPIRED"));
}

TEST_CASE("connections of ours say age, bytes and the policy that lets them in, and are sorted as asked") {
  const std::string text = R"({
    "config": {"localNode": "n1"},
    "workloads": [
      {"name": "web", "namespace": "shop", "serviceAccount": "web", "uid": "c//Pod/shop/web", "workloadIps": ["10.0.0.2"], "protocol": "HBONE",
       "status": "Healthy", "trustDomain": "cluster.local", "capacity": 1, "clusterId": "c", "networkMode": "Standard"},
      {"name": "client", "namespace": "shop", "serviceAccount": "client", "uid": "c//Pod/shop/client", "workloadIps": ["10.0.0.1"],
       "protocol": "HBONE", "status": "Healthy", "capacity": 1, "clusterId": "c", "networkMode": "Standard"}],
    "services": [],
    "policies": [{"name": "only-client", "namespace": "shop", "scope": "Namespace", "action": "Allow", "dryRun": false,
       "rules": [[[{"serviceAccounts": [{"namespace": "shop", "serviceAccount": "client"}]}]]]}],
    "workloadState": {"u": {"state": "Up", "info": {"name": "web", "namespace": "shop", "serviceAccount": "web"}, "connections": {"outbound": [],
      "inbound": [
       {"src": "10.0.0.1:1000", "originalDst": null, "actualDst": "10.0.0.2:8080", "protocol": "HBONE",
        "zt": {"ageMillis": 65000, "bytesSent": 2048, "bytesReceived": 10, "peer": "spiffe://cluster.local/ns/shop/sa/client"}},
       {"src": "10.0.0.9:1000", "originalDst": null, "actualDst": "10.0.0.2:8080", "protocol": "TCP",
        "zt": {"ageMillis": 100, "bytesSent": 5000000, "bytesReceived": 10}}]}}}})";
  const auto dump = parse_dump(text, "test");
  REQUIRE(dump);
  const Listing listing = connections(*dump, {.filter = {}, .direction = {}, .sort = "bytes"});
  REQUIRE(listing.rows.size() == 2);
  CHECK(text_in(listing.rows[1], "policy") == "shop/only-client");
  CHECK(text_in(listing.rows[0], "policy").starts_with("DENIED NOW: "));
  const std::string table = table_of(listing);
  CHECK(has(table, "1m5s"));
  CHECK(has(table, "2.0 KiB"));
  CHECK(has(table, "4.8 MiB"));
  CHECK(text_in(connections(*dump, {.filter = {}, .direction = {}, .sort = "age"}).rows[0], "identity") ==
        "spiffe://cluster.local/ns/shop/sa/client");
}

TEST_CASE("status warns of what is not as it should be") {
  const auto good = of_golden({"status"});
  REQUIRE(good.exit_code == 0);
  CHECK(has(good.out, "5 up of 5"));
  CHECK(has(good.out, "ran out at 2026-11-24T02:52:05Z"));
  const auto object = of_golden({"status", "-o", "json"});
  CHECK(json::parse(object.out).at("pods").at("all").as_int64() == 5);
  CHECK(has(of_golden({"pods"}).out, "Up"));
}

TEST_CASE("what cannot be answered says why and what to do") {
  const auto nobody = run({"status", "--admin", "127.0.0.1:1"});
  CHECK(nobody.exit_code == 1);
  CHECK(has(nobody.errors, "nothing listens there"));
  CHECK(has(nobody.errors, "port-forward"));
  CHECK(run({"pods", "--admin", "here"}).exit_code == 1);
  CHECK(has(run({"pods", "--dump", "/nowhere"}).errors, "/nowhere"));
  CHECK(has(run({"pods", "--dump", "/etc/hostname"}).errors, "is no config_dump"));
  CHECK(has(run({"pods", "--dump", ZT_GOLDEN_DIR "/xds/auth-errors.json"}).errors, "no config_dump of a ztunnel"));
  CHECK(run({"nonsense"}).exit_code == 2);
  CHECK(run({}).exit_code == 2);
  CHECK(run({"pods", "-o", "xml"}).exit_code == 2);
  CHECK(run({"connections", "--sort", "colour"}).exit_code == 2);
  CHECK(run({"pods", "--dump", "x", "--admin", "y:1"}).exit_code == 2);
  CHECK(has(of_golden({"log"}).errors, "a dump has no log levels"));
  CHECK(has(run({"log", "access=debug&x"}).errors, "is not LEVEL"));
}

TEST_CASE("what somebody named with control characters does not reach the terminal") {
  Listing listing{.columns = {{"NAME", "name"}}, .rows = {{{"name", "a\x1b[31mb"}}}, .none = {}};
  CHECK(table_of(listing) == "NAME\na?[31mb\n");
}

TEST_CASE("explain is asked over the same sources") {
  const auto text = of_golden({"explain", "shop/client-0", "10.96.1.4:8080"});
  CHECK(text.exit_code == 0);
  CHECK(has(text.out, "cart"));
  CHECK(validate_json(of_golden({"explain", "shop/client-0", "10.96.1.4:8080", "-o", "json"}).out));
}

TEST_CASE("the manual and the completion of shells know every command and option") {
  CommandLine line;
  const auto manual = run({"man"}).out;
  const auto bash = run({"completion", "bash"}).out;
  const auto fish = run({"completion", "fish"}).out;
  for (const CLI::App* command : line.app().get_subcommands([](const CLI::App*) { return true; })) {
    const std::string& name = command->get_name();
    INFO(name);
    CHECK(has(manual, ".SS " + name));
    CHECK(has(bash, name));
    CHECK(has(fish, "-a " + name));
    for (const CLI::Option* option : command->get_options()) {
      if (option->get_lnames().empty() || option->get_lnames().front() == "help") continue;
      CHECK(has(bash, "--" + option->get_lnames().front()));
      CHECK(has(fish, "-l " + option->get_lnames().front()));
    }
  }
  const auto script = std::filesystem::temp_directory_path() / fmt::format("ztunnelctl-completion-test-{}.bash", ::getpid());
  std::ofstream(script)
      << bash
      << "COMP_WORDS=(ztunnelctl connections --sort a); COMP_CWORD=3; _ztunnelctl; [ \"${COMPREPLY[*]}\" = age ] || exit 1\n"
         "COMP_WORDS=(ztunnelctl certificates --ch); COMP_CWORD=2; _ztunnelctl; [ \"${COMPREPLY[*]}\" = --chain ] || exit 2\n"
         "COMP_WORDS=(ztunnelctl cert); COMP_CWORD=1; _ztunnelctl; [ \"${COMPREPLY[*]}\" = certificates ] || exit 3\n";
  CHECK(std::system(("bash " + script.string()).c_str()) == 0);
  std::filesystem::remove(script);
}

TEST_CASE("a dump is saved for its owner only, and read again") {
  const auto file = std::filesystem::temp_directory_path() / fmt::format("ztunnelctl-dump-test-{}.json", ::getpid());
  CHECK(of_golden({"dump", "--to", file.c_str()}).exit_code == 0);
  CHECK((std::filesystem::status(file).permissions() & std::filesystem::perms::others_all) == std::filesystem::perms::none);
  CHECK(run({"pods", "-d", file.c_str(), "-o", "json"}).out == of_golden({"pods", "-o", "json"}).out);
  std::filesystem::remove(file);
}

}  // namespace
}  // namespace zt::ctl
