#include "ztunnel/admin/http_negotiate.h"

#include <zlib.h>

#include <algorithm>
#include <optional>

#include "base/text.h"

namespace zt::ztunnel {
namespace {

// Takes what stands before the next `separator` off `text`.
std::string_view take_until(std::string_view& text, char separator) {
  const auto end = std::min(text.find(separator), text.size());
  const auto part = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return trim(part);
}

// "q=0", "q=0.000": refused. Anything else, also what we cannot read, is not.
bool forbids(std::string_view parameters) {
  while (!parameters.empty()) {
    const auto parameter = take_until(parameters, ';');
    if (parameter.starts_with("q=0") || parameter.starts_with("Q=0")) {
      return parameter.find_first_not_of("0.", 2) == std::string_view::npos;
    }
  }
  return false;
}

// Whether the header has an entry for `value`, and if so whether it allows it.
std::optional<bool> entry_for(std::string_view header, std::string_view value) {
  while (!header.empty()) {
    auto entry = take_until(header, ',');
    const auto name = take_until(entry, ';');
    if (equals_ignoring_case(name, value)) return !forbids(entry);
  }
  return std::nullopt;
}

std::string percent_decode(std::string_view text) {
  const auto digit = [](char c) -> int {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && digit(text[i + 1]) >= 0 && digit(text[i + 2]) >= 0) {
      out += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
      i += 2;
    } else {
      out += text[i] == '+' ? ' ' : text[i];
    }
  }
  return out;
}

}  // namespace

bool header_names(std::string_view header, std::string_view value) { return entry_for(header, value).value_or(false); }

bool header_allows(std::string_view header, std::string_view value) {
  if (const auto own = entry_for(header, value)) return *own;
  return entry_for(header, "*").value_or(false);
}

std::string gzip(std::string_view data) {
  constexpr int kGzipWindow = 15 + 16;  // 32 KiB window, gzip framing
  z_stream stream{};
  deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, kGzipWindow, 8, Z_DEFAULT_STRATEGY);
  std::string out;
  out.resize(deflateBound(&stream, data.size()));
  size_t written = 0;
  // zlib counts in 32 bits.
  constexpr size_t kPiece = 1u << 30;
  int state = Z_OK;
  while (state == Z_OK) {
    const size_t in = std::min(data.size(), kPiece);
    const size_t room = std::min(out.size() - written, kPiece);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
    stream.avail_in = static_cast<uInt>(in);
    stream.next_out = reinterpret_cast<Bytef*>(out.data() + written);
    stream.avail_out = static_cast<uInt>(room);
    state = deflate(&stream, in == data.size() ? Z_FINISH : Z_NO_FLUSH);
    data.remove_prefix(in - stream.avail_in);
    written += room - stream.avail_out;
  }
  deflateEnd(&stream);
  out.resize(written);
  return out;
}

QueryValue query_value(std::string_view query, std::string_view name) {
  while (!query.empty()) {
    auto pair = take_until(query, '&');
    const auto equals = std::min(pair.find('='), pair.size());
    if (pair.substr(0, equals) == name) {
      return {true, percent_decode(pair.substr(std::min(equals + 1, pair.size())))};
    }
  }
  return {};
}

}  // namespace zt::ztunnel
