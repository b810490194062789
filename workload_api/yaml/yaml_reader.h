#pragma once
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/address.h"
#include "base/result.h"

// Strict reading of YAML with positions, for the files of this folder. A value that is not what was asked for
// throws Refusal; the parse function at the edge turns it into an Error.
namespace zt::workload_api::yaml {

// Limits on what is read at all.
inline constexpr size_t kMaxBytes = 64u << 20;
inline constexpr size_t kMaxDepth = 32;         // nested lists and maps
inline constexpr size_t kMaxNodes = 4'000'000;  // values, each alias counted as all that it stands for

struct Refusal {
  YAML::Mark mark;
  std::string text;
};

// Parses one document within the limits, before anything of it is built: an alias bomb costs a few bytes
// here. Throws Refusal and YAML::Exception.
[[nodiscard]] YAML::Node load(std::string_view text);

// A value and the way to it, as in "workloads[3].waypoint.destination". The parent must outlive it.
class Value {
 public:
  explicit Value(YAML::Node node) : node_(std::move(node)) {}
  Value(YAML::Node node, const Value* parent, std::string key) : node_(std::move(node)), parent_(parent), key_(std::move(key)) {}
  Value(YAML::Node node, const Value* parent, size_t index) : node_(std::move(node)), parent_(parent), index_(index) {}

  Value(const Value&) = default;
  // Assigning one YAML::Node to another changes the document; reset() only changes what the Node stands for.
  Value& operator=(const Value& other) {
    node_.reset(other.node_);
    parent_ = other.parent_;
    key_ = other.key_;
    index_ = other.index_;
    return *this;
  }
  ~Value() = default;

  [[nodiscard]] bool is_null() const { return !node_.IsDefined() || node_.IsNull(); }
  [[nodiscard]] bool is_map() const { return node_.IsMap(); }
  [[nodiscard]] bool is_scalar() const { return node_.IsScalar(); }
  [[nodiscard]] bool is_empty() const { return is_null() || ((node_.IsMap() || node_.IsSequence()) && node_.size() == 0); }
  [[nodiscard]] std::string tag() const { return node_.Tag(); }

  [[nodiscard]] std::string text() const;
  [[nodiscard]] std::string required_text() const;  // not empty
  [[nodiscard]] bool boolean() const;
  [[nodiscard]] uint32_t number(uint32_t max) const;
  [[nodiscard]] uint16_t port() const { return static_cast<uint16_t>(number(65535)); }
  [[nodiscard]] IpAddress ip() const;
  [[nodiscard]] Cidr cidr() const;
  [[nodiscard]] std::vector<Value> list() const;
  [[nodiscard]] std::vector<std::pair<Value, Value>> pairs() const;  // of a map, in order

  // One of the names, in any case of letters.
  template <class T>
  [[nodiscard]] T one_of(std::initializer_list<std::pair<std::string_view, T>> choices) const {
    const std::string given = text();
    for (const auto& [name, choice] : choices)
      if (std::ranges::equal(name, given, [](char a, char b) { return lower(a) == lower(b); })) return choice;
    std::string names;
    for (const auto& [name, choice] : choices) names.append(names.empty() ? "" : ", ").append(name);
    refuse("\"" + given + "\" is not one of " + names);
  }

  [[noreturn]] void refuse(const std::string& why) const;
  [[nodiscard]] std::string path() const;

 private:
  static char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

  YAML::Node node_;
  const Value* parent_ = nullptr;
  std::string key_;
  std::optional<size_t> index_;
};

// A map whose keys are all known: each is taken once, and finish() refuses what is left.
class Map {
 public:
  explicit Map(const Value& value);
  // A null is as good as absent here; anywhere else (an item of a list, a document) it is refused.
  [[nodiscard]] std::optional<Value> take(std::string_view key);
  [[nodiscard]] Value require(std::string_view key);
  void finish() const;

 private:
  const Value& value_;
  std::vector<std::pair<Value, Value>> entries_;  // key, value
  std::vector<std::string_view> known_;
};

}  // namespace zt::workload_api::yaml
