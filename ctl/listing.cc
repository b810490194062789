#include "ctl/listing.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/json_writer.h"

namespace zt::ctl {

namespace {

std::string plain(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null: return "-";
    case json::kind::bool_: return value.get_bool() ? "yes" : "no";
    case json::kind::string: return value.get_string().empty() ? "-" : std::string(value.get_string());
    case json::kind::array: {
      std::string out;
      for (const auto& each : value.get_array()) out += (out.empty() ? "" : ",") + plain(each);
      return out.empty() ? "-" : out;
    }
    default: return json::serialize(value);
  }
}

std::string cell(const Column& column, const json::object& row) {
  const json::value* value = row.if_contains(column.member);
  if (value == nullptr || value->is_null()) return "-";
  return printable(column.show ? column.show(*value) : plain(*value));
}

// Letters and not bytes: a name may be UTF-8.
size_t width(std::string_view text) {
  return static_cast<size_t>(std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

void write(JsonWriter& json, const json::value& value) {
  switch (value.kind()) {
    case json::kind::null: return json.null();
    case json::kind::bool_: return json.boolean(value.get_bool());
    case json::kind::int64: return json.number(value.get_int64());
    case json::kind::uint64: return json.unsigned_number(value.get_uint64());
    case json::kind::double_: return json.raw(fmt::format("{:.6g}", value.get_double()));
    case json::kind::string: return json.string(value.get_string());
    case json::kind::array:
      json.begin_array();
      for (const auto& each : value.get_array()) write(json, each);
      return json.end_array();
    case json::kind::object:
      json.begin_object();
      for (const auto& [key, each] : value.get_object()) {
        json.key(key);
        write(json, each);
      }
      return json.end_object();
  }
}

double number_of(const json::value& value) {
  return value.is_int64()    ? static_cast<double>(value.get_int64())
         : value.is_uint64() ? static_cast<double>(value.get_uint64())
                             : value.get_double();
}

bool less(const json::value& a, const json::value& b) {
  if (a.is_number() && b.is_number()) return number_of(a) < number_of(b);
  return plain(a) < plain(b);
}

}  // namespace

std::string printable(std::string text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x20 || c == 0x7f) text[i] = '?';
    // The second set of control characters, in UTF-8.
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0u;
    if (c == 0xc2 && next >= 0x80 && next < 0xa0) text.replace(i, 2, "?");
  }
  return text;
}

std::string table_of(const Listing& listing) {
  if (listing.rows.empty()) return listing.none + "\n";
  std::vector<std::vector<std::string>> lines(1);
  for (const Column& column : listing.columns) lines[0].push_back(column.title);
  for (const json::object& row : listing.rows) {
    auto& line = lines.emplace_back();
    for (const Column& column : listing.columns) line.push_back(cell(column, row));
  }
  std::vector<size_t> widths(listing.columns.size());
  for (const auto& line : lines)
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], width(line[i]));
  std::string out;
  for (const auto& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) {
      const std::string space(widths[i] - width(line[i]), ' ');
      if (i > 0) out += "  ";
      if (listing.columns[i].right) out += space;
      out += line[i];
      if (!listing.columns[i].right && i + 1 < line.size()) out += space;
    }
    out += '\n';
  }
  return out;
}

std::string pretty(const json::value& value) {
  std::string out;
  JsonWriter writer(out);
  write(writer, value);
  return out + "\n";
}

std::string json_of(const Listing& listing) {
  json::array rows;
  for (const json::object& row : listing.rows) rows.push_back(row);
  return pretty(rows);
}

void sort_by(Listing& listing, std::string_view member, bool descending) {
  std::vector<size_t> order(listing.rows.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, [&](size_t a, size_t b) {
    const json::value* left = listing.rows[a].if_contains(member);
    const json::value* right = listing.rows[b].if_contains(member);
    if (left != nullptr && right != nullptr) {
      if (descending ? less(*right, *left) : less(*left, *right)) return true;
      if (descending ? less(*left, *right) : less(*right, *left)) return false;
    } else if (left != right) {
      return left != nullptr;
    }
    return a < b;
  });
  std::vector<json::object> sorted;
  sorted.reserve(order.size());
  for (const size_t i : order) sorted.push_back(std::move(listing.rows[i]));
  listing.rows = std::move(sorted);
}

std::string bytes_text(uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes);
  for (const char* unit : {"KiB", "MiB", "GiB", "TiB"}) {
    value /= 1024;
    if (value < 1023.95 || unit[0] == 'T') return fmt::format("{:.1f} {}", value, unit);
  }
  return {};
}

std::string span_text(int64_t milliseconds) {
  if (milliseconds < 0) return "-" + span_text(-milliseconds);
  if (milliseconds < 10'000) return fmt::format("{:.1f}s", static_cast<double>(milliseconds) / 1000);
  const int64_t seconds = milliseconds / 1000;
  if (seconds < 60) return fmt::format("{}s", seconds);
  if (seconds < 3600) return fmt::format("{}m{}s", seconds / 60, seconds % 60);
  if (seconds < 86400) return fmt::format("{}h{}m", seconds / 3600, seconds % 3600 / 60);
  return fmt::format("{}d{}h", seconds / 86400, seconds % 86400 / 3600);
}

}  // namespace zt::ctl
