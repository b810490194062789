#include <fmt/format.h>

#include "base/json_writer.h"
#include "base/utf8.h"

namespace zt {
namespace {

class Validator {
 public:
  explicit Validator(std::string_view text) : text_(text) {}

  Result<> run() {
    if (value(0) && (skip_blanks(), at_ == text_.size())) return {};
    return fail(Fault::kInvalidInput, fmt::format("not valid JSON at byte {}", at_));
  }

 private:
  [[nodiscard]] char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(char c) {
    if (peek() != c || at_ >= text_.size()) return false;
    ++at_;
    return true;
  }
  bool take(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }
  void skip_blanks() {
    while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') ++at_;
  }
  bool digits() {
    const size_t before = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    return at_ > before;
  }

  bool value(size_t depth) {
    if (depth > kMaxJsonDepth) return false;
    skip_blanks();
    switch (peek()) {
      case '{': return members(depth);
      case '[': return elements(depth);
      case '"': return string();
      case 't': return take("true");
      case 'f': return take("false");
      case 'n': return take("null");
      default: return number();
    }
  }
  bool members(size_t depth) {
    take('{');
    skip_blanks();
    if (take('}')) return true;
    do {
      skip_blanks();
      if (!string()) return false;
      skip_blanks();
      if (!take(':') || !value(depth + 1)) return false;
      skip_blanks();
    } while (take(','));
    return take('}');
  }
  bool elements(size_t depth) {
    take('[');
    skip_blanks();
    if (take(']')) return true;
    do {
      if (!value(depth + 1)) return false;
      skip_blanks();
    } while (take(','));
    return take(']');
  }
  bool string() {
    if (!take('"')) return false;
    while (at_ < text_.size() && static_cast<uint8_t>(text_[at_]) >= 0x20) {
      if (take('"')) return true;
      if (take('\\')) {
        if (!escape()) return false;
        continue;
      }
      const size_t length = utf8_length(text_.substr(at_));
      if (length == 0) return false;
      at_ += length;
    }
    return false;
  }
  bool escape() {
    if (take('u')) {
      for (int i = 0; i < 4; ++i) {
        const char c = peek();
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'))) return false;
        ++at_;
      }
      return true;
    }
    if (at_ >= text_.size() || std::string_view("\"\\/bfnrt").find(peek()) == std::string_view::npos) return false;
    ++at_;
    return true;
  }
  bool number() {
    take('-');
    if (!take('0') && !digits()) return false;
    if (take('.') && !digits()) return false;
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      return digits();
    }
    return true;
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

Result<> validate_json(std::string_view text) { return Validator(text).run(); }

}  // namespace zt
