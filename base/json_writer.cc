#include "base/json_writer.h"

#include <fmt/format.h>

#include <cassert>
#include <iterator>

#include "base/utf8.h"

namespace zt {
namespace {

constexpr size_t kIndent = 2;

}  // namespace

void append_json_escaped(std::string& out, std::string_view text) {
  while (!text.empty()) {
    size_t run = 0;
    while (run < text.size() && static_cast<uint8_t>(text[run]) >= 0x20 && static_cast<uint8_t>(text[run]) < 0x80 &&
           text[run] != '"' && text[run] != '\\') {
      ++run;
    }
    out.append(text.substr(0, run));
    text.remove_prefix(run);
    if (text.empty()) return;
    const auto c = static_cast<uint8_t>(text.front());
    size_t used = 1;
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      case '\b': out += "\\b"; break;
      case '\f': out += "\\f"; break;
      default:
        if (c < 0x20) {
          fmt::format_to(std::back_inserter(out), "\\u{:04x}", c);
        } else if (const size_t length = utf8_length(text); length > 0) {
          out.append(text.substr(0, length));
          used = length;
        } else {
          out += "\ufffd";
        }
    }
    text.remove_prefix(used);
  }
}

void JsonWriter::new_line() {
  out_ += '\n';
  out_.append(kIndent * has_members_.size(), ' ');
}

void JsonWriter::before_value() {
  if (after_key_) {
    after_key_ = false;
    return;
  }
  if (has_members_.empty()) return;
  if (has_members_.back()) out_ += ',';
  has_members_.back() = true;
  new_line();
}

void JsonWriter::open(char bracket) {
  before_value();
  out_ += bracket;
  has_members_.push_back(false);
}

void JsonWriter::close(char bracket) {
  assert(!has_members_.empty() && !after_key_);
  const bool any = has_members_.back();
  has_members_.pop_back();
  if (any) new_line();
  out_ += bracket;
}

void JsonWriter::begin_object() { open('{'); }
void JsonWriter::end_object() { close('}'); }
void JsonWriter::begin_array() { open('['); }
void JsonWriter::end_array() { close(']'); }

void JsonWriter::key(std::string_view name) {
  assert(!has_members_.empty() && !after_key_);
  before_value();
  out_ += '"';
  append_json_escaped(out_, name);
  out_ += "\": ";
  after_key_ = true;
}

void JsonWriter::string(std::string_view text) {
  before_value();
  out_ += '"';
  append_json_escaped(out_, text);
  out_ += '"';
}

void JsonWriter::number(int64_t value) { raw(fmt::format_int(value).c_str()); }
void JsonWriter::unsigned_number(uint64_t value) { raw(fmt::format_int(value).c_str()); }
void JsonWriter::boolean(bool value) { raw(value ? "true" : "false"); }
void JsonWriter::null() { raw("null"); }

void JsonWriter::raw(std::string_view json) {
  before_value();
  out_ += json;
}

}  // namespace zt
