#include "base/log_format.h"

#include <fmt/format.h>

#include <ctime>
#include <iterator>

#include "base/utf8.h"

namespace zt::log {
namespace {

constexpr std::string_view kEllipsis = "\u2026";
constexpr std::string_view kReplacement = "\ufffd";
constexpr std::string_view kCutMember = ",\"cut\":\"\u2026\"";
// What closing a cut line may still need: ellipsis, quote, the member above, brace.
constexpr size_t kReserve = 32;

// How control characters and quotes of a text are written.
enum class Escape : uint8_t {
  kMessage,  // plain message: newlines and tabs stay (multi-line texts), other control characters do not
  kBare,     // plain unquoted value
  kQuoted,   // plain quoted value, as Rust's debug form: \" \\ \n \r \t \0, \u{1b}
  kJson,     // RFC 8259
};

// Appends to a line as long as there is room; from the first text that does not fit, only what closes the
// line is added.
class Line {
 public:
  explicit Line(std::string& out) : out_(out), end_(out.size() + kMaxLineBytes - kReserve) {}

  [[nodiscard]] bool cut() const { return cut_; }
  // Punctuation and names of our own: never cut, so that the line stays well-formed.
  void raw(std::string_view text) { out_ += text; }
  void raw(char c) { out_ += c; }
  [[nodiscard]] bool has_room(size_t bytes) const { return !cut_ && out_.size() + bytes <= end_; }
  [[nodiscard]] bool fits(size_t bytes) {
    if (cut_ || has_room(bytes)) return !cut_;
    cut_ = true;
    out_ += kEllipsis;
    return false;
  }

  void text(std::string_view text, Escape escape) {
    while (!text.empty() && !cut_) {
      const size_t run = plain_run(text, escape);
      if (run > 0) {
        append_run(text.substr(0, run));
        text.remove_prefix(run);
        continue;
      }
      const auto c = static_cast<uint8_t>(text.front());
      if (c < 0x80) {
        if (fits(kEscapeBytes)) append_escaped(c, escape);
        text.remove_prefix(1);
        continue;
      }
      const size_t length = utf8_length(text);
      if (fits(4)) raw(length == 0 ? kReplacement : text.substr(0, length));
      text.remove_prefix(length == 0 ? 1 : length);
    }
  }

 private:
  static constexpr size_t kEscapeBytes = 8;

  static bool needs_escape(uint8_t c, Escape escape) {
    if (c >= 0x80) return true;
    if (c < 0x20 || c == 0x7f) {
      if (escape == Escape::kMessage) return c != '\n' && c != '\t';
      return escape != Escape::kJson || c != 0x7f;
    }
    return (c == '"' || c == '\\') && (escape == Escape::kQuoted || escape == Escape::kJson);
  }
  static size_t plain_run(std::string_view text, Escape escape) {
    size_t run = 0;
    while (run < text.size() && !needs_escape(static_cast<uint8_t>(text[run]), escape)) ++run;
    return run;
  }
  void append_run(std::string_view text) {
    if (out_.size() + text.size() <= end_) {
      raw(text);
      return;
    }
    raw(text.substr(0, end_ > out_.size() ? end_ - out_.size() : 0));
    cut_ = true;
    raw(kEllipsis);
  }
  void append_escaped(uint8_t c, Escape escape) {
    switch (c) {
      case '"': return raw("\\\"");
      case '\\': return raw("\\\\");
      case '\n': return raw("\\n");
      case '\r': return raw("\\r");
      case '\t': return raw("\\t");
      default: break;
    }
    if (escape == Escape::kJson) {
      if (c == '\b') return raw("\\b");
      if (c == '\f') return raw("\\f");
      fmt::format_to(std::back_inserter(out_), "\\u{:04x}", c);
    } else if (c == 0) {
      raw("\\0");
    } else {
      fmt::format_to(std::back_inserter(out_), "\\u{{{:x}}}", c);
    }
  }

  std::string& out_;
  size_t end_;
  bool cut_ = false;
};

// "2026-08-20T10:00:00.000000Z"; the part up to the second is formatted once a second and thread.
void append_time(std::string& out, LineTime time) {
  struct Cache {
    int64_t seconds = INT64_MIN;
    char text[32];
    size_t length = 0;
  };
  static thread_local Cache cache;
  if (cache.seconds != time.seconds) {
    const auto seconds = static_cast<time_t>(time.seconds);
    tm parts{};
    gmtime_r(&seconds, &parts);
    cache.length = strftime(cache.text, sizeof cache.text, "%Y-%m-%dT%H:%M:%S", &parts);
    cache.seconds = time.seconds;
  }
  out.append(cache.text, cache.length);
  fmt::format_to(std::back_inserter(out), ".{:06}Z", time.microseconds);
}

void plain_field(Line& line, const Field& field) {
  line.raw(field.key);
  line.raw('=');
  switch (field.kind) {
    case Field::Kind::kString:
      line.raw('"');
      line.text(field.text, Escape::kQuoted);
      line.raw('"');
      break;
    case Field::Kind::kBare: line.text(field.text, Escape::kBare); break;
    case Field::Kind::kNumber: line.raw(fmt::format_int(field.number).c_str()); break;
    case Field::Kind::kFlag: line.raw(field.number != 0 ? "true" : "false"); break;
  }
}

void json_string(Line& line, std::string_view text) {
  line.raw('"');
  line.text(text, Escape::kJson);
  line.raw('"');
}

void json_field(Line& line, const Field& field) {
  line.raw(",\"");
  line.raw(field.key);
  line.raw("\":");
  switch (field.kind) {
    case Field::Kind::kString:
    case Field::Kind::kBare: json_string(line, field.text); break;
    case Field::Kind::kNumber: line.raw(fmt::format_int(field.number).c_str()); break;
    case Field::Kind::kFlag: line.raw(field.number != 0 ? "true" : "false"); break;
  }
}

// Room that a field needs whatever its text: key, punctuation, a number.
size_t fixed_bytes(const Field& field) { return field.key.size() + 32; }

}  // namespace

LineTime LineTime::now() {
  timespec spec{};
  clock_gettime(CLOCK_REALTIME, &spec);
  return {spec.tv_sec, static_cast<uint32_t>(spec.tv_nsec / 1000)};
}

void format_line(std::string& out, Format format, LineTime time, Level level, std::string_view target, std::string_view message,
                 std::span<const Field> fields) {
  Line line(out);
  if (format == Format::kPlain) {
    append_time(out, time);
    line.raw('\t');
    line.raw(level_name(level));
    line.raw('\t');
    line.raw(target);
    line.raw('\t');
    line.text(message, Escape::kMessage);
    if (!line.cut()) line.raw('\t');
    bool first = true;
    for (const auto& field : fields) {
      if (!line.fits(fixed_bytes(field))) break;
      if (!first) line.raw(' ');
      first = false;
      plain_field(line, field);
    }
  } else {
    line.raw("{\"level\":\"");
    line.raw(level_name(level));
    line.raw("\",\"time\":\"");
    append_time(out, time);
    line.raw("\",\"scope\":\"");
    if (target != "access" && target != "ztunnel") line.raw("ztunnel::");
    line.raw(target);
    line.raw("\",\"message\":");
    json_string(line, message);
    for (const auto& field : fields) {
      // A cut between fields is marked by a member, since text outside of a string would not be JSON.
      if (!line.has_room(fixed_bytes(field))) {
        if (!line.cut()) line.raw(kCutMember);
        break;
      }
      json_field(line, field);
    }
    line.raw('}');
  }
  out += '\n';
}

}  // namespace zt::log
