#pragma once
#include <boost/json.hpp>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

// What a command lists: objects, which are the answer for programs, and columns, by which people see them. Any thread.
namespace zt::ctl {

namespace json = boost::json;

struct Column {
  std::string title;
  std::string member;  // of a row
  // Its text in the table; by default the value itself, lists with commas.
  std::function<std::string(const json::value&)> show = {};
  bool right = false;  // numbers
};

struct Listing {
  std::vector<Column> columns;
  std::vector<json::object> rows;
  std::string none;  // said instead of an empty table
};

// Columns as wide as their widest text, two spaces between; a missing member is "-". Control characters, which come from whoever named
// the thing, are shown as "?".
[[nodiscard]] std::string table_of(const Listing& listing);
// Texts come from other proxies and from control planes: what a terminal would obey is shown as "?".
[[nodiscard]] std::string printable(std::string text);
[[nodiscard]] std::string json_of(const Listing& listing);
// Indented by two.
[[nodiscard]] std::string pretty(const json::value& value);

// Stable. A member that is missing comes last.
void sort_by(Listing& listing, std::string_view member, bool descending);

// "1.5 GiB"; "3d4h", "2h5m", "12s", "0.3s".
[[nodiscard]] std::string bytes_text(uint64_t bytes);
[[nodiscard]] std::string span_text(int64_t milliseconds);

}  // namespace zt::ctl
