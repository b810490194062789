#include "kubernetes/objects.h"

#include <catch2/catch.hpp>

#include "tests/kubernetes/cluster_fixture.h"

using namespace zt;
using namespace zt::kubernetes;
using namespace zt::testing;
using Catch::Contains;

namespace {

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> out;
  for (size_t at = 0; at < text.size();) {
    const auto end = std::min(text.find('\n', at), text.size());
    if (end > at) out.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

}  // namespace

TEST_CASE("A list of a real API server is read") {
  const auto page = parse_list(golden_body("02-list-pods-of-node"));
  REQUIRE(page);
  CHECK(page->version == "10295");
  CHECK(page->next.empty());
  CHECK(page->bad.empty());
  REQUIRE(page->items.size() > 10);
  const Object& agent = page->items.front();
  CHECK(agent.name == "istio-cni-node-a");
  CHECK(agent.key() == "istio-system/istio-cni-node-a");
  CHECK(agent.uid == "a4a71abc-bd3c-4550-a0b6-fa4f502f41e5");
  CHECK(agent.version == "549");
  CHECK(agent.labels.at("istio.io/dataplane-mode") == "none");
  CHECK(agent.node == "node-a");
  CHECK(agent.service_account == "istio-cni");
  CHECK(agent.phase == "Running");
  CHECK(agent.ips == std::vector<std::string>{"10.240.1.3"});
  CHECK_FALSE(agent.deleting);
  for (const auto& pod : page->items) CHECK(pod.node == "node-a");
  CHECK(std::ranges::count_if(page->items, [](const Object& pod) { return pod.host_network; }) > 0);
  const auto first = parse_list(golden_body("03-list-pods-page-1")), second = parse_list(golden_body("04-list-pods-page-2"));
  REQUIRE((first && second));
  CHECK(first->items.size() == 2);
  CHECK_FALSE(first->next.empty());
  CHECK(second->version == "10295");
  const auto namespaces = parse_list(golden_body("01-list-namespaces"));
  REQUIRE(namespaces);
  CHECK(namespaces->items.front().key() == "default");
}

TEST_CASE("The watch events of a real API server are read") {
  std::vector<WatchEvent> events;
  for (const auto& line : lines(golden_body("06-watch-pods"))) {
    const auto event = parse_event(line);
    INFO(line);
    REQUIRE(event);
    CHECK_FALSE(event->bad);
    events.push_back(*event);
  }
  REQUIRE(events.size() > 5);
  CHECK(events[0].type == WatchEvent::Type::kPut);
  CHECK(events[0].object.key() == "watchlab/one");
  CHECK(std::ranges::count_if(events, [](const auto& event) { return event.type == WatchEvent::Type::kDeleted; }) >= 1);
  CHECK(std::ranges::count_if(events, [](const auto& event) { return event.object.deleting; }) >= 1);
  const auto labels = lines(golden_body("07-watch-namespaces-label"));
  CHECK(parse_event(labels[0])->object.labels.at("istio.io/dataplane-mode") == "ambient");
  CHECK_FALSE(parse_event(labels[1])->object.labels.contains("istio.io/dataplane-mode"));
  CHECK(parse_event(labels[2])->type == WatchEvent::Type::kBookmark);
  CHECK(parse_event(labels[2])->object.version == "10308");
  const auto old = parse_event(lines(golden_body("18-watch-too-old"))[0]);
  CHECK(old->type == WatchEvent::Type::kError);
  CHECK(old->status.code == 410);
  CHECK(old->status.reason == "Expired");
}

TEST_CASE("Refusals of a real API server are read, and what is no Status is its own message") {
  CHECK(parse_status(golden_body("10-bad-token")).reason == "Unauthorized");
  CHECK(parse_status(golden_body("15-patch-wrong-uid")).code == 422);
  CHECK_THAT(parse_status(golden_body("14-patch-conflict")).message, Contains("the object has been modified"));
  CHECK(parse_status("<html>\nbad gateway").message == "<html> bad gateway");
  CHECK(parse_status("").message.empty());
  CHECK(parse_status("{\"code\": \"x\", \"message\": 5}").code == 0);
  CHECK(parse_status("{\"message\": \"" + std::string(5000, 'x') + "\"}").message.size() <= 300);
}

TEST_CASE("Bad JSON is refused and says what is wrong") {
  const auto [text, wanted] = GENERATE(table<std::string, std::string>(
      {{"", "not valid JSON"},
       {"{", "not valid JSON"},
       {"[]", "not a JSON object"},
       {"null", "not a JSON object"},
       {"{} {}", "not valid JSON"},
       {std::string(100, '['), "not valid JSON"},
       {"{\"metadata\":" + std::string(100, '[') + std::string(100, ']') + "}", "not valid JSON"},
       {"{\"a\":\"\xff\"}", "not valid JSON"},
       {"{}", "metadata.resourceVersion is missing"},
       {"{\"metadata\": 5}", "metadata is no object"},
       {"{\"metadata\": {\"resourceVersion\": 5}}", "resourceVersion is no string"},
       {"{\"metadata\": {\"resourceVersion\": \"5\"}, \"items\": {}}", "items is no list"},
       {"{\"metadata\": {\"resourceVersion\": \"5\"}, \"items\": [5]}", "items is no list of objects"}}));
  CAPTURE(text);
  const auto list = parse_list(text);
  REQUIRE_FALSE(list);
  CHECK_THAT(list.error().text, Contains(wanted));
  CHECK_FALSE(parse_event(text));
}

TEST_CASE("A bad object costs itself and says what is wrong with it") {
  const auto [object, wanted] = GENERATE(table<std::string, std::string>(
      {{"{}", "metadata.name is missing"},
       {R"({"metadata": {"name": "p"}})", "metadata.uid is missing"},
       {R"({"metadata": {"name": "../x", "uid": "u"}})", "metadata.name '../x' is not one"},
       {R"({"metadata": {"name": "p", "uid": "a/b"}})", "metadata.uid 'a/b' is not one"},
       {R"({"metadata": {"name": "p", "uid": "u", "namespace": "a b"}})", "metadata.namespace 'a b'"},
       {R"({"metadata": {"name": "p", "uid": "u", "labels": []}})", "labels is no object"},
       {R"({"metadata": {"name": "p", "uid": "u", "labels": {"a": 1}}})", "labels.a is no string"},
       {R"({"metadata": {"name": "p", "uid": "u"}, "spec": {"hostNetwork": "yes"}})", "hostNetwork is no boolean"},
       {R"({"metadata": {"name": "p", "uid": "u"}, "status": {"podIPs": "1"}})", "podIPs is no list"},
       {R"({"metadata": {"name": "p", "uid": "u"}, "status": {"podIPs": [1]}})", "podIPs is no list of objects"}}));
  CAPTURE(object);
  const std::string good =
      R"({"metadata": {"name": "good", "uid": "g", "resourceVersion": "7"}, "status": {"podIP": "10.0.0.1"}})";
  const auto page = parse_list(R"({"metadata": {"resourceVersion": "5"}, "items": [)" + object + "," + good + "]}");
  REQUIRE(page);
  REQUIRE(page->bad.size() == 1);
  CHECK_THAT(page->bad[0].text, Contains(wanted));
  REQUIRE(page->items.size() == 1);
  CHECK(page->items[0].ips == std::vector<std::string>{"10.0.0.1"});
  const auto alone = parse_object(object);
  REQUIRE_FALSE(alone);
  CHECK_THAT(alone.error().text, Contains(wanted));
  const auto event = parse_event(R"({"type": "ADDED", "object": )" + object + "}");
  REQUIRE(event);
  REQUIRE(event->bad);
  CHECK_THAT(event->bad->text, Contains(wanted));
}

TEST_CASE("Every prefix and every flipped byte of a real answer is refused or read, and nothing else") {
  const std::string text = golden_body("03-list-pods-page-1");
  for (size_t size = 0; size < text.size() - 2; size += 7) CHECK_FALSE(parse_list(text.substr(0, size)));
  for (size_t at = 0; at < text.size(); at += 3) {
    std::string broken = text;
    broken[at] = static_cast<char>(broken[at] ^ 0x15);
    (void)parse_list(broken);
    (void)parse_event(broken);
    (void)parse_status(broken);
  }
}

TEST_CASE("A patch names one annotation and whose it is") {
  CHECK(annotation_patch("u-1", "ambient.istio.io/redirection", "enabled") ==
        R"({"metadata":{"uid":"u-1","annotations":{"ambient.istio.io/redirection":"enabled"}}})");
  CHECK(annotation_patch("u-1", "k", std::nullopt) == R"({"metadata":{"uid":"u-1","annotations":{"k":null}}})");
  CHECK(query_escaped("spec.nodeName=node-a") == "spec.nodeName%3Dnode-a");
  CHECK(query_escaped("a&b c%") == "a%26b%20c%25");
}
