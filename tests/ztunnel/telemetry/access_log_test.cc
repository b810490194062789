#include "ztunnel/telemetry/access_log.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#include "tests/support/logged.h"

using namespace zt;
using namespace zt::ztunnel;
using testing::logged;

namespace {

// The recorded log lines of a file of traffic cases: the strings that start like a line of the log.
std::vector<std::string> recorded_lines(const std::string& name, const std::string& start) {
  std::ifstream file(std::string(ZT_GOLDEN_DIR "/ztunnel/") + name);
  REQUIRE(file);
  std::vector<std::string> lines;
  for (std::string text; std::getline(file, text);) {
    const auto begin = text.find_first_not_of(' ');
    if (begin == std::string::npos || !text.substr(begin).starts_with('"' + start)) continue;
    std::string line;
    for (size_t i = begin + 1; i < text.rfind('"'); ++i) {
      if (text[i] != '\\') {
        line += text[i];
      } else {
        ++i;
        line += text[i] == 't' ? '\t' : text[i];
      }
    }
    lines.push_back(line);
  }
  return lines;
}

using Values = std::map<std::string, std::string>;

// k=v and k="v" between blanks, after the message.
Values plain_values(const std::string& line) {
  Values values;
  size_t at = line.rfind('\t') + 1;
  while (at < line.size()) {
    const auto equals = line.find('=', at);
    const bool quoted = line[equals + 1] == '"';
    const auto begin = equals + (quoted ? 2 : 1);
    const auto end = std::min(line.find(quoted ? '"' : ' ', begin), line.size());
    values[line.substr(at, equals - at)] = line.substr(begin, end - begin);
    at = end + (quoted ? 2 : 1);
  }
  return values;
}

Values json_values(const std::string& line) {
  Values values;
  for (size_t at = 1; at < line.size() && line[at] == '"';) {
    const auto key_end = line.find('"', at + 1);
    const bool quoted = line[key_end + 2] == '"';
    const auto begin = key_end + (quoted ? 3 : 2);
    const auto end = quoted ? line.find('"', begin) : line.find_first_of(",}", begin);
    values[line.substr(at + 1, key_end - at - 1)] = line.substr(begin, end - begin);
    at = end + (quoted ? 2 : 1);
  }
  return values;
}

void log_again(const std::string& message, Values values) {
  if (message == "connection failed") {
    log_connection_denied(values["src.addr"], values["dst.addr"], values["direction"], values["error"]);
    return;
  }
  const AccessEntry entry{values["src.addr"],       values["src.workload"],
                          values["src.namespace"],  values["src.identity"],
                          values["src.cluster"],    values["dst.addr"],
                          values["dst.hbone_addr"], values["dst.service"],
                          values["dst.workload"],   values["dst.namespace"],
                          values["dst.identity"],   values["dst.cluster"],
                          values["direction"],      {}};
  if (message == "connection opened") {
    log_connection_opened(entry);
    return;
  }
  REQUIRE(message == "connection complete");
  AccessResult result;
  result.bytes_sent = std::stoull(values["bytes_sent"]);
  result.bytes_received = std::stoull(values["bytes_recv"]);
  result.duration = std::chrono::milliseconds(std::stoll(values["duration"]));  // "12ms"
  result.error = values["error"];
  log_connection_complete(entry, result);
}

std::string without_time(const std::string& line) {
  const auto at = line.find("202");
  return line.substr(0, at) + line.substr(at + 27);
}

}  // namespace

TEST_CASE("every recorded plain line comes out as the peer wrote it") {
  std::vector<std::string> expected;
  for (const auto& line : recorded_lines("traffic-cases.plain-log.json", "2026-")) {
    if (line.find("\taccess\t") != std::string::npos) expected.push_back(line);
  }
  REQUIRE(expected.size() > 30);
  const auto text = logged(log::Format::kPlain, [&] {
    for (const auto& line : expected) {
      const auto message = line.substr(line.find("\taccess\t") + 8);
      log_again(message.substr(0, message.find('\t')), plain_values(line));
    }
  });
  std::istringstream got(text);
  for (const auto& line : expected) {
    std::string mine;
    REQUIRE(std::getline(got, mine));
    CHECK(without_time(mine) == without_time(line));
  }
}

TEST_CASE("every recorded JSON line comes out as the peer wrote it") {
  std::vector<std::string> expected;
  for (const auto& line : recorded_lines("traffic-cases.json-log.json", "{")) {
    if (line.find("\"scope\":\"access\"") != std::string::npos) expected.push_back(line);
  }
  REQUIRE(expected.size() > 60);
  REQUIRE(log::append_filter("access=debug"));
  const auto text = logged(log::Format::kJson, [&] {
    for (const auto& line : expected) {
      const auto values = json_values(line);
      log_again(values.at("message"), values);
    }
  });
  log::reset_filter();
  std::istringstream got(text);
  for (const auto& line : expected) {
    std::string mine;
    REQUIRE(std::getline(got, mine));
    CHECK(without_time(mine) == without_time(line));
  }
}

TEST_CASE("what comes from outside cannot forge a line") {
  const auto text = logged(log::Format::kPlain, [] {
    log_connection_denied("10.0.0.1:1", "10.0.0.2:2", "inbound", "no valid authority pseudo header: \"a\nb\"");
  });
  CHECK_THAT(text, Catch::EndsWith("\twarn\taccess\tconnection failed\tsrc.addr=10.0.0.1:1 dst.addr=10.0.0.2:2 "
                                   "direction=\"inbound\" error=\"no valid authority pseudo header: \\\"a\\nb\\\"\"\n"));
}

TEST_CASE("lines that the filter refuses are not written") {
  const auto text = logged(log::Format::kPlain, [] {
    log_connection_opened({});
    (void)log::append_filter("access=off");
    log_connection_complete({}, {});
    log_connection_denied("a", "b", "inbound", "e");
  });
  log::reset_filter();
  CHECK(text.empty());
}
