#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace zt {

// Appends `text` to `out` with JSON's escapes, without the quotes. Bytes that are not UTF-8 become U+FFFD.
void append_json_escaped(std::string& out, std::string_view text);

// Writes JSON as it goes, indented by two, so that a dump of a million workloads needs no tree. Boost.JSON, which reads JSON for
// us (json_check.cc) and holds the configuration's tree, writes from a tree only, and in one line. The caller keeps the order of calls right (a key before every value of an object); debug builds assert it.
class JsonWriter {
 public:
  explicit JsonWriter(std::string& out) : out_(out) {}

  void begin_object();
  void end_object();
  void begin_array();
  void end_array();
  void key(std::string_view name);
  void string(std::string_view text);
  void number(int64_t value);
  void unsigned_number(uint64_t value);
  void boolean(bool value);
  void null();
  void raw(std::string_view json);  // a complete value, already in JSON

  // key and value in one.
  void member(std::string_view name, std::string_view text) { key(name), string(text); }
  void member(std::string_view name, const char* text) { key(name), string(text); }
  void member(std::string_view name, const std::string& text) { key(name), string(text); }
  void member(std::string_view name, bool value) { key(name), boolean(value); }
  void member(std::string_view name, int64_t value) { key(name), number(value); }
  void member(std::string_view name, uint64_t value) { key(name), unsigned_number(value); }
  void member(std::string_view name, uint32_t value) { key(name), unsigned_number(value); }
  void member(std::string_view name, int value) { key(name), number(value); }

 private:
  void before_value();
  void open(char bracket);
  void close(char bracket);
  void new_line();

  std::string& out_;
  std::vector<bool> has_members_;  // of each open bracket
  bool after_key_ = false;
};

// Is `text` one JSON value (RFC 8259) and nothing else? The error says where it ends to be one. Nesting is
// limited.
inline constexpr size_t kMaxJsonDepth = 64;
Result<> validate_json(std::string_view text);

}  // namespace zt
