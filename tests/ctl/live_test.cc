#include "ctl/live.h"

#include <catch2/catch.hpp>

#include <fmt/format.h>

namespace zt::ctl {
namespace {

// An answer of /connections with one pod, web, of 10.0.0.2.
std::string answer(std::string_view inbound, std::string_view ended) {
  return fmt::format(
      R"({{"ended": [{}], "workloadState": {{"u": {{"state": "Up", "info": {{"name": "web", "namespace": "shop", "serviceAccount": "web"}},
    "connections": {{"inbound": [{}], "outbound": []}}}}}}}})",
      ended, inbound);
}

std::string open_line(int port, uint64_t received) {
  return fmt::format(R"({{"src": "10.0.0.1:{}", "originalDst": null, "actualDst": "10.0.0.2:8080", "protocol": "HBONE",
    "zt": {{"ageMillis": 5, "bytesSent": 0, "bytesReceived": {}, "peer": "spiffe://cluster.local/ns/shop/sa/client"}}}})",
                     port, received);
}

std::string end_line(int number, int port, uint64_t received, std::string_view error = {}) {
  return fmt::format(
      R"({{"worker": 0, "number": {}, "atMillis": {}, "direction": "inbound", "src": "10.0.0.1:{}", "actualDst": "10.0.0.2:15008",
    "protocol": "HBONE", "pod": "shop/web", "reason": "{}", "bytesSent": 0, "bytesReceived": {}, "durationMillis": 7{}}})",
      number, 1000 + number, port, error.empty() ? "ok" : "policy_denied", received,
      error.empty() ? "" : fmt::format(R"(, "error": "{}")", error));
}

Look look_of(const std::string& text) {
  auto parsed = parse_look(text);
  REQUIRE(parsed);
  return std::move(*parsed);
}

Names names() {
  auto dump = parse_dump(R"({"services": [], "workloads": [{"name": "client", "namespace": "shop", "workloadIps": ["10.0.0.1"]},
    {"name": "web", "namespace": "shop", "workloadIps": ["10.0.0.2"]}]})",
                         "test");
  REQUIRE(dump);
  return Names(*dump);
}

TEST_CASE("rates are of what moved between two looks, of connections that ended meanwhile too") {
  const Look before = look_of(answer(open_line(1, 1000) + "," + open_line(2, 500), ""));
  // 1 goes on, 2 ended after 200 more, 3 came and went, 4 is new.
  const Look after =
      look_of(answer(open_line(1, 3000) + "," + open_line(4, 10), end_line(1, 2, 700) + "," + end_line(2, 3, 90, "denied")));
  const Listing listing = rates(before, after, 2.0, {});
  REQUIRE(listing.rows.size() == 1);
  const json::object& row = listing.rows[0];
  CHECK(row.at("open").to_number<int>() == 2);
  CHECK(row.at("receivedPerSecond").to_number<double>() == (2000 + 200 + 90 + 10) / 2.0);
  CHECK(row.at("openedPerSecond").to_number<double>() == 2 / 2.0);
  CHECK(row.at("failedPerSecond").to_number<double>() == 1 / 2.0);
  CHECK(rates(before, after, 2.0, {.ns = "pay", .node = {}, .pod = {}}).rows.empty());
}

TEST_CASE("a tap shows what opened and what ended, each once, with the reason of a failure") {
  const Look before = look_of(answer(open_line(1, 0), end_line(1, 9, 0)));
  const Look after = look_of(answer(
      open_line(2, 0), end_line(1, 9, 0) + "," + end_line(2, 1, 30) + "," + end_line(3, 3, 0, "explicitly denied by: shop/no")));
  const std::string text = tap_text(before, after, {}, names(), false);
  CHECK(text.find("shop/client:9 ") == std::string::npos);
  CHECK(text.find("end     inbound  shop/client:1 → shop/web:15008") != std::string::npos);
  CHECK(text.find("30 B received") != std::string::npos);
  CHECK(text.find("FAILED  inbound  shop/client:3") != std::string::npos);
  CHECK(text.find("explicitly denied by: shop/no") != std::string::npos);
  CHECK(text.find("open    inbound  shop/client:2 → shop/web:8080") != std::string::npos);
  CHECK(tap_text(after, after, {}, names(), false).empty());
  CHECK(tap_text(before, after, {.ns = {}, .node = {}, .pod = "other"}, names(), false).empty());
}

TEST_CASE("what others say cannot command the terminal of whoever watches") {
  const Look before = look_of(answer("", ""));
  const Look after = look_of(answer("", end_line(1, 1, 0, "\\u001b[2Jgone\\u009b1m")));
  const std::string text = tap_text(before, after, {}, names(), false);
  CHECK(text.find("?[2Jgone?1m") != std::string::npos);
}

TEST_CASE("ends that were pushed out unseen are counted, and a proxy that was started anew is not taken for one that lost some") {
  const Look before = look_of(answer("", end_line(5, 1, 0)));
  CHECK(new_ends(before, look_of(answer("", end_line(9, 2, 0)))).unseen == 3);
  const Look anew = look_of(answer("", end_line(1, 2, 0)));
  CHECK(new_ends(before, anew).unseen == 0);
  CHECK(new_ends(before, anew).ends.size() == 1);
}

TEST_CASE("what ended lately is listed with the latest first, and if asked only what failed") {
  const Look now = look_of(answer("", end_line(1, 1, 0) + "," + end_line(2, 2, 0, "denied")));
  REQUIRE(recent(now, {}, names(), false).rows.size() == 2);
  CHECK(text_in(recent(now, {}, names(), false).rows[0], "why") == "denied");
  CHECK(recent(now, {}, names(), true).rows.size() == 1);
  CHECK(recent(now, {.ns = "pay", .node = {}, .pod = {}}, names(), false).rows.empty());
}

TEST_CASE("connections of one tunnel, which have one source, are told apart") {
  const auto line = [](int id, uint64_t received) {
    return fmt::format(R"({{"src": "10.0.0.1:1", "originalDst": null, "actualDst": "10.0.0.2:8080", "protocol": "HBONE",
      "zt": {{"ageMillis": 5, "id": {}, "bytesSent": 0, "bytesReceived": {}}}}})",
                       id, received);
  };
  const Look before = look_of(answer(line(1, 10) + "," + line(2, 20), ""));
  const Look after = look_of(answer(line(1, 11) + "," + line(2, 22) + "," + line(3, 4), ""));
  CHECK(before.open.size() == 2);
  const json::object row = rates(before, after, 1.0, {}).rows.at(0);
  CHECK(row.at("open").to_number<int>() == 3);
  CHECK(row.at("openedPerSecond").to_number<double>() == 1);
  CHECK(row.at("receivedPerSecond").to_number<double>() == 1 + 2 + 4);
}

TEST_CASE("what failed is followed by what to do, with the command that explains it") {
  const Look now =
      look_of(answer("", end_line(1, 1, 0) + "," + end_line(2, 2, 0, "connection closed due to policy rejection: none allowed")));
  const std::string text = advice(recent(now, {}, names(), true));
  CHECK(text.find("ztunnelctl explain shop/client shop/web:15008") != std::string::npos);
  CHECK(advice(recent(look_of(answer("", end_line(1, 1, 0))), {}, names(), false)).empty());
}

TEST_CASE("what is no answer of connections is refused, and odd members are passed over") {
  CHECK_FALSE(parse_look("{"));
  CHECK_FALSE(parse_look("[]"));
  CHECK_FALSE(parse_look(R"({"workloadState": {}})"));
  CHECK(parse_look(
      R"({"ended": [1, {}, null], "workloadState": {"a": 1, "b": {"info": 2}, "c": {"info": {}, "connections": {"inbound": [3, {}]}}}})"));
  CHECK(parse_look(R"({"ended": 1, "workloadState": []})"));
}

}  // namespace
}  // namespace zt::ctl
