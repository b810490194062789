#include "base/yaml/value.h"

#include <fmt/format.h>

#include <cassert>
#include <span>
#include <tuple>

namespace zt::yaml {

void Value::refuse(std::string_view why) const {
  if (passed_over()) {
    const Value* around = parent_;
    while (around != nullptr && around->passed_over()) around = around->parent_;
    throw Refusal{node_->mark, std::string(), around != nullptr ? around->node_ : nullptr};
  }
  const std::string at = path();
  throw Refusal{node_->mark, at.empty() ? std::string(why) : fmt::format("{}: {}", at, why), node_};
}

std::string Value::path() const {
  std::string at = parent_ != nullptr ? parent_->path() : std::string();
  if (index_) return at + fmt::format("[{}]", *index_);
  if (!key_.empty() && !at.empty()) at += '.';
  return at.append(key_);
}

std::string_view Value::text() const {
  if (!is_scalar()) {
    if (passed_over()) return {};
    refuse("text expected");
  }
  return node_->text;
}

std::string_view Value::required_text() const {
  const std::string_view given = text();
  if (given.empty() && !passed_over()) refuse("must not be empty");
  return given;
}

bool Value::boolean() const {
  const std::string_view given = text();
  if (given == "true") return true;
  if (given == "false" || passed_over()) return false;
  refuse(fmt::format("\"{}\" is neither true nor false", given));
}

uint32_t Value::number(uint32_t max) const {
  const std::string_view given = text();
  if (passed_over()) return 0;
  const auto number = whole_number<uint32_t>(given);
  const bool zeros = given.size() > 1 && given.front() == '0';
  if (!number || zeros || *number > max) refuse(fmt::format("\"{}\" is not a number from 0 to {}", given, max));
  return *number;
}

IpAddress Value::ip() const {
  if (passed_over()) return {};
  const auto parsed = IpAddress::parse(text());
  if (!parsed) refuse(fmt::format("\"{}\" is not an IP address", text()));
  return *parsed;
}

Cidr Value::cidr() const {
  if (passed_over()) return {};
  const auto parsed = Cidr::parse(text());
  if (!parsed) refuse(fmt::format("\"{}\" is not an address block (like 10.0.0.0/8)", text()));
  return *parsed;
}

void Value::check_keys() const {
  if (!is_map()) {
    if (passed_over()) return;
    refuse("map expected");
  }
  for (const Node* key = node_->first; key != nullptr; key = key->next->next)
    if (key->kind != Node::Kind::kScalar && !key->passed_over)
      Value(*key, *this, std::string_view()).refuse("a key must be plain text");
  const auto twice = [&](const Node& key) { Value(key, *this, key.text).refuse("the key is there twice"); };
  // A handful is compared faster than sorted.
  constexpr uint32_t kHandful = 32;
  if (node_->count <= kHandful) {
    for (const Node* key = node_->first; key != nullptr; key = key->next->next)
      for (const Node* other = node_->first; other != key; other = other->next->next)
        if (key->text == other->text && !key->passed_over) twice(*key);
    return;
  }
  std::vector<const Node*> keys;
  keys.reserve(node_->count);
  for (const Node* key = node_->first; key != nullptr; key = key->next->next)
    if (!key->passed_over) keys.push_back(key);
  std::ranges::sort(keys, [](const Node* a, const Node* b) {
    return std::tie(a->text, a->mark.line, a->mark.column) < std::tie(b->text, b->mark.line, b->mark.column);
  });
  const auto found = std::ranges::adjacent_find(keys, {}, &Node::text);
  if (found != keys.end()) twice(**(found + 1));
}

std::optional<Value> Map::take(std::string_view key) {
  assert(known_count_ < kMaxKeys);
  known_[known_count_++] = key;
  const auto found = find(key);
  return found && !found->passed_over() ? found : std::nullopt;
}

std::optional<Value> Map::find(std::string_view key) {
  if (!value_.is_map()) return std::nullopt;  // passed over
  const Node* first = value_.node().first;
  const Node* found = expected_;
  const auto is_it = [&](const Node& node) { return node.text == key && !node.passed_over; };
  if (found == nullptr || !is_it(*found))
    for (found = first; found != nullptr && !is_it(*found);) found = found->next->next;
  if (found == nullptr) return std::nullopt;
  expected_ = found->next->next;
  const Value value(*found->next, value_, found->text);
  if (value.is_null()) return std::nullopt;
  return value;
}

Value Map::require(std::string_view key) {
  assert(known_count_ < kMaxKeys);
  known_[known_count_++] = key;
  const auto value = find(key);
  if (value) return *value;
  if (value_.passed_over()) {
    static const Node kNothing = [] {
      Node node;
      node.passed_over = true;
      return node;
    }();
    return {kNothing, value_, key};
  }
  value_.refuse(fmt::format("\"{}\" is missing", key));
}

void Map::finish() const {
  if (!value_.is_map()) return;
  const auto known = std::span(known_).first(known_count_);
  for (const Node* key = value_.node().first; key != nullptr; key = key->next->next) {
    if (key->passed_over || std::ranges::find(known, key->text) != known.end()) continue;
    std::string names;
    for (const std::string_view name : known) names.append(names.empty() ? "" : ", ").append(name);
    Value(*key, value_, key->text).refuse(fmt::format("unknown key (known here: {})", names));
  }
}

}  // namespace zt::yaml
