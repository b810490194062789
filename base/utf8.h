#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace zt {

// Length of the valid UTF-8 sequence at the start of `text`, 0 if there is none (RFC 3629: no surrogates, no
// overlong forms).
[[nodiscard]] constexpr size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0}; };
  const auto continues = [&](size_t i) { return (byte(i) & 0xc0u) == 0x80u; };
  const uint8_t first = byte(0);
  if (text.empty()) return 0;
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return continues(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    if (!continues(1) || !continues(2)) return 0;
    if (first == 0xe0 && byte(1) < 0xa0) return 0;
    if (first == 0xed && byte(1) > 0x9f) return 0;
    return 3;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    if (!continues(1) || !continues(2) || !continues(3)) return 0;
    if (first == 0xf0 && byte(1) < 0x90) return 0;
    if (first == 0xf4 && byte(1) > 0x8f) return 0;
    return 4;
  }
  return 0;
}

// The text with `replacement` for each byte that is no part of a valid sequence; of whole characters, what `most` bytes hold.
[[nodiscard]] inline std::string valid_utf8(std::string_view text, std::string_view replacement, size_t most = SIZE_MAX) {
  std::string out;
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    const std::string_view next = length == 0 ? replacement : text.substr(0, length);
    if (next.size() > most - out.size()) break;
    out += next;
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return out;
}

}  // namespace zt
