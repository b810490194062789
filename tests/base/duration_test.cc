#include "base/duration.h"

#include <array>
#include <catch2/catch.hpp>
#include <random>
#include <regex>
#include <string>
#include <tuple>
#include <vector>

using namespace zt;
using namespace std::chrono_literals;

TEST_CASE("durations: units, blanks, sums and products as in the crate duration-str") {
  using Row = std::tuple<const char*, std::chrono::nanoseconds>;
  const auto [text, value] = GENERATE(table<const char*, std::chrono::nanoseconds>({
      Row{"10s", 10s},
      Row{"5m", 5min},
      Row{"1h30m", 90min},
      Row{"250ms", 250ms},
      Row{"0", 0s},
      Row{"     0    ", 0s},
      Row{"30", 30s},
      Row{"2min", 2min},
      Row{"30S", 30s},
      Row{"0s", 0s},
      Row{"1m*10", 10min},
      Row{"1hr", 1h},
      Row{"1Hour", 1h},
      Row{"3MINUTES", 3min},
      Row{"1day", 24h},
      Row{"1 d", 24h},
      Row{"1w", 168h},
      Row{"2weeks", 336h},
      Row{"1mon", 720h},
      Row{"1y", 8760h},
      Row{"1m31", 91s},
      Row{"1m+31", 91s},
      Row{"1m*60*20", 20h},
      Row{"      1m      +  60 +             24 ", 144s},
      Row{"1m*10ms", 600ms},
      Row{"1m * 1ns", 60ns},
      Row{"1m * 1 m", 1h},
      Row{"3 m + 1 s + 29 ms +17µs", 181s + 29ms + 17us},
      Row{"42µS", 42us},
      Row{"3m1s29ms17us", 181s + 29ms + 17us},
      Row{"  3m 31s 0ns ", 211s},
      Row{"1 d2 h3 min 4s", 93784s},
      Row{"007s", 7s},
      Row{"1ns*1ns*1000000000s", 1ns},  // the crate multiplies the second with the third first
      Row{"1ns*1ns", 0ns},              // rounded down
      Row{"580y", std::chrono::nanoseconds::max()},
      Row{"580y*1", std::chrono::nanoseconds::max()},
  }));
  INFO(text);
  const auto parsed = parse_duration(text);
  REQUIRE(parsed);
  CHECK(*parsed == value);
}

TEST_CASE("durations that the crate refuses are refused with what is expected") {
  using Row = std::tuple<const char*, const char*>;
  const std::string such = "expected a duration such as 10s, 5m or 1h30m";
  const auto [text, reason] = GENERATE(table<const char*, const char*>({
      Row{"", "such"},        Row{" ", "such"},        Row{"s", "such"},        Row{"10x", "such"},
      Row{"-1s", "such"},     Row{"1.5s", "such"},     Row{"1m+", "such"},      Row{"+1m", "such"},
      Row{"1m++1", "such"},   Row{"0m+3-5", "such"},   Row{"0mxyz", "such"},    Row{"5 5", "such"},
      Row{"3ms-2ms", "such"}, Row{"1m 5 5", "such"},   Row{"1µ", "such"},       Row{"1e3", "such"},
      Row{"0x10", "such"},    Row{"10s,", "such"},     Row{"1\xc2s", "such"},   Row{"1s\v", "such"},
      Row{"1m*2+3", "both"},  Row{"1m*2s 3s", "both"}, Row{"1m 3s*2", "both"},  Row{"99999999999999999999s", "584"},
      Row{"585y", "584"},     Row{"580y*2", "584"},    Row{"580y+580y", "584"}, Row{"0s*580y*580y", "584"},
  }));
  INFO(text);
  const auto parsed = parse_duration(text);
  REQUIRE_FALSE(parsed);
  const std::string_view kind = reason;
  CHECK(parsed.error().text == (kind == "such"   ? such
                                : kind == "both" ? "expected a sum such as 1h+30m or a product such as 1m*10, not both"
                                                 : "longer than 584 years"));
}

namespace {

// The same language by other means.
bool is_duration(const std::string& text) {
  static const std::string unit =
      "(ns|nsec|nanoseconds?|us|usec|usecond|\u00b5s|\u00b5sec|\u00b5second|microseconds?|ms|msec|milliseconds?|s|sec|seconds?|"
      "m|min|minutes?|h|hr|hours?|d|days?|w|weeks?|mon|months?|y|years?)";
  static const std::string blanks = "[ \\t]*";
  static const std::string term = blanks + "[0-9]+" + blanks + "(" + unit + "(?![a-z])" + blanks + "|(?=[+*]|$))";
  static const std::regex sum(term + "(\\+?" + term + ")*", std::regex::icase);
  static const std::regex product(term + "(\\*" + term + ")*", std::regex::icase);
  return std::regex_match(text, sum) || std::regex_match(text, product);
}

}  // namespace

TEST_CASE("whatever is put together from the pieces of durations is accepted exactly if it is one") {
  static constexpr std::array kPieces{"1",  "20", "300", "s", "m", "MIN", "h", "day", "\u00b5s",
                                      "ms", " ",  "\t",  "+", "*", "x",   "-", "."};
  std::mt19937 random(20);
  size_t accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string text;
    const size_t pieces = random() % 9;
    for (size_t i = 0; i < pieces; ++i) text += kPieces[random() % kPieces.size()];
    const auto parsed = parse_duration(text);
    if (!parsed && parsed.error().text == "longer than 584 years") continue;
    INFO('"' << text << '"');
    REQUIRE(parsed.has_value() == is_duration(text));
    if (parsed) REQUIRE(*parsed >= 0ns);
    accepted += parsed.has_value() ? 1 : 0;
  }
  CHECK(accepted > 500);
}

TEST_CASE("any bytes are either a duration or refused with a reason") {
  std::mt19937 random(21);
  for (int round = 0; round < 20'000; ++round) {
    std::string text(random() % 12, '\0');
    for (char& c : text) c = static_cast<char>(random());
    if (const auto parsed = parse_duration(text); !parsed) REQUIRE_FALSE(parsed.error().text.empty());
  }
  CHECK_FALSE(parse_duration(std::string(100'000, '9')));
  CHECK(parse_duration(std::string(100'000, '0')));
}
