#pragma once
#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

// Structured logging that never blocks a worker: a line is formatted by the caller, handed to a bounded ring
// and written by one writer thread with writev. A full ring drops the line and counts it; the count is logged
// when there is room again. Forms (contract §10.4): plain  `<RFC3339 µs
// Z>\t<level>\t<target>\t<message>\t<k=v …>`, or LOG_FORMAT=json
// `{"level","time","scope","message",<fields>}`. Any thread.
namespace zt::log {

// Most lines and bytes that wait for the writer at one time, and the longest line (the rest is cut, marked by
// an ellipsis).
inline constexpr size_t kRingLines = 10'000;
inline constexpr size_t kRingBytes = 16u << 20;
inline constexpr size_t kMaxLineBytes = 32u << 10;

enum class Level : uint8_t { kOff, kError, kWarn, kInfo, kDebug, kTrace };
[[nodiscard]] std::string_view level_name(Level level);  // "off", "error", …

// A log target ("access", "proxy", "xds", …). Define one per concern at namespace scope; the filter sets its
// level. Filters and the JSON scope also know a target by its full name, "ztunnel::" + target, except for the
// targets "access" and "ztunnel", which have no prefix.
class Scope {
 public:
  explicit Scope(const char* target);  // registers itself; objects must have static lifetime
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
  [[nodiscard]] bool enabled(Level level) const { return level <= level_.load(std::memory_order_relaxed); }
  [[nodiscard]] const char* target() const { return target_; }

 private:
  friend class Registry;
  const char* target_;
  std::atomic<Level> level_{Level::kInfo};
  Scope* next_ = nullptr;
};

// key=value of a line. Strings are quoted in plain form; `bare` strings (addresses), numbers and flags are
// not. Text from outside belongs in a string field: control characters cannot forge a line there.
struct Field {
  enum class Kind : uint8_t { kString, kBare, kNumber, kFlag };
  std::string_view key;
  std::string_view text;
  int64_t number = 0;
  Kind kind = Kind::kString;

  static Field string(std::string_view key, std::string_view text) { return {key, text, 0, Kind::kString}; }
  static Field bare(std::string_view key, std::string_view text) { return {key, text, 0, Kind::kBare}; }
  static Field count(std::string_view key, int64_t number) { return {key, {}, number, Kind::kNumber}; }
  static Field flag(std::string_view key, bool value) { return {key, {}, value ? 1 : 0, Kind::kFlag}; }
};

enum class Format : uint8_t { kPlain, kJson };

// Starts the writer thread on file descriptor `fd` (not owned). Until then lines go to stderr directly
// (tests, early errors). A second start without a stop in between is ignored.
void start(int fd, Format format);
// Writes what is queued (2 s at most) and stops the writer; called at exit, idempotent. Later lines go to stderr.
void stop();

// Filter (contract §10.5, §10.6): comma list of `level`, `target=level` or istioctl's `target:level`; later
// clauses win. set_filter replaces all; append_filter adds to the current one, and a level alone also takes back what was added
// before: it is meant for everything. An unknown level or malformed clause is an error that names it, and then nothing changes.
// Until set_filter is called: info.
Result<> set_filter(std::string_view spec);
Result<> append_filter(std::string_view spec);
[[nodiscard]] std::string current_filter();  // e.g. "access=debug,info"
void reset_filter();                         // back to what set_filter was given last

void write(const Scope& scope, Level level, std::string_view message, std::initializer_list<Field> fields = {});
void write_fields(const Scope& scope, Level level, std::string_view message, std::span<const Field> fields);
[[nodiscard]] uint64_t dropped_lines();

}  // namespace zt::log

// ZT_LOG(scope, kInfo, "message", Field::string("k", v), …): arguments are evaluated only when enabled.
#define ZT_LOG(scope, level, message, ...)                                          \
  do {                                                                              \
    if ((scope).enabled(::zt::log::Level::level)) {                                 \
      using ::zt::log::Field;                                                       \
      ::zt::log::write((scope), ::zt::log::Level::level, (message), {__VA_ARGS__}); \
    }                                                                               \
  } while (0)
