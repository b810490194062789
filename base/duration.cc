#include "base/duration.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>

#include "base/text.h"

namespace zt {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kDay = 86'400 * kSecond;
constexpr std::string_view kExpected = "expected a duration such as 10s, 5m or 1h30m";

struct Unit {
  uint64_t nanoseconds;
  std::array<std::string_view, 8> names;
};
constexpr std::array<Unit, 10> kUnits{{
    {1, {"ns", "nsec", "nanosecond", "nanoseconds"}},
    {1'000, {"us", "usec", "usecond", "µs", "µsec", "µsecond", "microsecond", "microseconds"}},
    {1'000'000, {"ms", "msec", "millisecond", "milliseconds"}},
    {kSecond, {"s", "sec", "second", "seconds"}},
    {60 * kSecond, {"m", "min", "minute", "minutes"}},
    {3600 * kSecond, {"h", "hr", "hour", "hours"}},
    {kDay, {"d", "day", "days"}},
    {7 * kDay, {"w", "week", "weeks"}},
    {30 * kDay, {"mon", "month", "months"}},
    {365 * kDay, {"y", "year", "years"}},
}};

std::optional<uint64_t> length_of(std::string_view unit) {
  for (const Unit& known : kUnits) {
    for (const std::string_view name : known.names)
      if (!name.empty() && equals_ignoring_case(unit, name)) return known.nanoseconds;
  }
  return std::nullopt;
}

std::unexpected<Error> refuse(std::string_view reason) { return fail(Fault::kInvalidInput, std::string(reason)); }
std::unexpected<Error> too_long() { return refuse("longer than 584 years"); }

class Parser {
 public:
  explicit Parser(std::string_view text) : rest_(text) {}

  Result<std::chrono::nanoseconds> run() {
    ZT_ASSIGN(const uint64_t first, term());
    std::optional<uint64_t> others;  // the crate takes these together first, and rounds products down at each step
    char chosen = '\0';
    while (!rest_.empty()) {
      char sign = '+';  // also where a number simply follows
      if (rest_.front() == '+' || rest_.front() == '*') {
        sign = rest_.front();
        rest_.remove_prefix(1);
      }
      ZT_ASSIGN(const uint64_t next, term());
      if (chosen != '\0' && sign != chosen) return refuse("expected a sum such as 1h+30m or a product such as 1m*10, not both");
      chosen = sign;
      ZT_ASSIGN(others, combine(sign, others.value_or(sign == '+' ? 0 : kSecond), next));
    }
    ZT_ASSIGN(const uint64_t total, others ? combine(chosen, first, *others) : Result<uint64_t>(first));
    return std::chrono::nanoseconds(std::min<uint64_t>(total, std::numeric_limits<int64_t>::max()));
  }

 private:
  void skip_blanks() { rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t\r\n"), rest_.size())); }

  static Result<uint64_t> combine(char sign, uint64_t a, uint64_t b) {
    return bounded(sign == '+' ? Wide{a} + b : Wide{a} * b / kSecond);
  }
  static Result<uint64_t> bounded(Wide nanoseconds) {
    if (nanoseconds > std::numeric_limits<uint64_t>::max()) return too_long();
    return static_cast<uint64_t>(nanoseconds);
  }

  // A number with its unit, and the blanks around them.
  Result<uint64_t> term() {
    skip_blanks();
    uint64_t number = 0;
    const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), number);
    if (error == std::errc::result_out_of_range) return too_long();
    if (error != std::errc{}) return refuse(kExpected);
    rest_.remove_prefix(static_cast<size_t>(end - rest_.data()));
    skip_blanks();

    constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ\u00b5";
    const std::string_view unit = rest_.substr(0, rest_.find_first_not_of(kLetters));
    rest_.remove_prefix(unit.size());
    skip_blanks();
    const bool ends = rest_.empty() || rest_.front() == '+' || rest_.front() == '*';
    if (unit.empty() && !ends) return refuse(kExpected);
    const auto length = unit.empty() ? kSecond : length_of(unit);
    if (!length) return refuse(kExpected);
    return bounded(Wide{number} * *length);
  }

  std::string_view rest_;
};

}  // namespace

Result<std::chrono::nanoseconds> parse_duration(std::string_view text) { return Parser(text).run(); }

}  // namespace zt
