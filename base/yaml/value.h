#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/address.h"
#include "base/text.h"

// Strict reading of YAML values with their places in the file. A value that is not what was asked for throws Refusal; the
// function at the edge turns it into an Error (reader.h: checked).
namespace zt::yaml {

// A place in the file, both from 1; columns count characters.
struct Mark {
  uint32_t line = 1;
  uint32_t column = 1;
};

struct Node;

struct Refusal {
  Mark mark;
  std::string text;
  // The value that was refused, for who goes on after a mistake (Node::passed_over); null if it was no value.
  const Node* node = nullptr;
};

// What the reader makes of a value. Texts and the values below live as long as the reader says.
struct Node {
  enum class Kind : uint8_t { kNull, kScalar, kList, kMap };
  std::string_view text;        // of a scalar
  std::string_view tag;         // as written: "!Exact"; a standard one in full
  const Node* first = nullptr;  // of a list its items; of a map key, value, key, value …
  const Node* next = nullptr;   // its neighbour
  uint32_t count = 0;           // items; pairs
  uint32_t stands_for = 1;      // values in it and itself, an alias counted as all that it stands for
  Mark mark;
  Kind kind = Kind::kNull;
  // Set by who wants to know of further mistakes and reads once more: what was refused then counts as absent; where it must be
  // there, something is read in its place.
  mutable bool passed_over = false;
};

// A value and the way to it, as in "workloads[3].waypoint.destination". Cheap to copy; the parent and the key's text must outlive it.
class Value {
 public:
  explicit Value(const Node& node) : node_(&node) {}
  Value(const Node& node, const Value& parent, std::string_view key) : node_(&node), parent_(&parent), key_(key) {}
  Value(const Node& node, const Value& parent, size_t index) : node_(&node), parent_(&parent), index_(index) {}

  [[nodiscard]] bool is_null() const { return node_->kind == Node::Kind::kNull; }
  [[nodiscard]] bool is_map() const { return node_->kind == Node::Kind::kMap; }
  [[nodiscard]] bool is_list() const { return node_->kind == Node::Kind::kList; }
  [[nodiscard]] bool is_scalar() const { return node_->kind == Node::Kind::kScalar; }
  [[nodiscard]] bool is_empty() const { return is_null() || ((is_map() || is_list()) && size() == 0); }
  [[nodiscard]] size_t size() const { return node_->count; }
  [[nodiscard]] std::string_view tag() const { return node_->tag; }
  [[nodiscard]] Mark mark() const { return node_->mark; }
  [[nodiscard]] const Node& node() const { return *node_; }
  [[nodiscard]] bool passed_over() const { return node_->passed_over; }

  [[nodiscard]] std::string_view text() const;
  [[nodiscard]] std::string_view required_text() const;  // not empty
  [[nodiscard]] bool boolean() const;
  [[nodiscard]] uint32_t number(uint32_t max) const;  // decimal, without leading zeros: YAML 1.1 takes 010 for eight
  [[nodiscard]] uint16_t port() const { return static_cast<uint16_t>(number(65535)); }
  [[nodiscard]] IpAddress ip() const;
  [[nodiscard]] Cidr cidr() const;

  // visit(Value) for each item of a list.
  template <class Visit>
  void each(Visit&& visit) const {
    if (!is_list()) {
      if (passed_over()) return;
      refuse("list expected");
    }
    size_t index = 0;
    for (const Node* item = node_->first; item != nullptr; item = item->next, ++index)
      if (!item->passed_over) visit(Value(*item, *this, index));
  }
  // visit(Value key, Value value) for each pair of a map, in the order of the file. Keys are texts, and none is there twice.
  template <class Visit>
  void each_pair(Visit&& visit) const {
    check_keys();
    if (!is_map()) return;
    for (const Node* key = node_->first; key != nullptr; key = key->next->next)
      if (!key->passed_over && !key->next->passed_over) visit(Value(*key, *this, key->text), Value(*key->next, *this, key->text));
  }

  // One of the names, in any case of letters.
  template <class T>
  [[nodiscard]] T one_of(std::initializer_list<std::pair<std::string_view, T>> choices) const {
    const std::string_view given = text();
    for (const auto& [name, choice] : choices)
      if (equals_ignoring_case(name, given)) return choice;
    if (passed_over()) return choices.begin()->second;
    std::string names;
    for (const auto& [name, choice] : choices) names.append(names.empty() ? "" : ", ").append(name);
    refuse("\"" + std::string(given) + "\" is not one of " + names);
  }

  // Of a value that was passed over nothing is said again: the refusal has no text, and names the value around it.
  [[noreturn]] void refuse(std::string_view why) const;
  [[nodiscard]] std::string path() const;

  // Refuses what is no map, a key that is no text, and one that is there twice.
  void check_keys() const;

 private:
  const Node* node_;
  const Value* parent_ = nullptr;
  std::string_view key_;
  std::optional<size_t> index_;
};

// A map whose keys are all known: each is asked for once, and finish() refuses those that were not.
class Map {
 public:
  explicit Map(const Value& value) : value_(value) { value.check_keys(); }
  Map(const Map&) = delete;
  Map& operator=(const Map&) = delete;
  ~Map() = default;
  // A null is as good as absent here; anywhere else (an item of a list, a document) it is refused.
  [[nodiscard]] std::optional<Value> take(std::string_view key);
  [[nodiscard]] Value require(std::string_view key);
  void finish() const;

 private:
  [[nodiscard]] std::optional<Value> find(std::string_view key);

  static constexpr size_t kMaxKeys = 32;  // that any map of ours knows

  const Value& value_;
  const Node* expected_ = nullptr;  // keys mostly come in the order in which they are asked for
  std::array<std::string_view, kMaxKeys> known_;
  size_t known_count_ = 0;
};

}  // namespace zt::yaml
