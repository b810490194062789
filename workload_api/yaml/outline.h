#pragma once
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "workload_api/model/str.h"

namespace zt::workload_api {

enum class LocalList : uint8_t { kWorkloads, kServices, kPolicies };
inline constexpr std::array<std::string_view, 3> kLocalListKeys{"workloads", "services", "policies"};

// Where the lists of a local file, and the items in them, were found, in the order of the file. Lines are from 1.
struct Outline {
  struct List {
    LocalList list;
    uint32_t key_line;
    bool key_at_margin;                // it begins its line
    std::vector<uint32_t> item_lines;  // where the item's value begins, which may be behind its dash
  };
  std::vector<List> lists;
  std::vector<Str> names;  // of all items
};

}  // namespace zt::workload_api
