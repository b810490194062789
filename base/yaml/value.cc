#include "base/yaml/value.h"

#include <fmt/format.h>

#include <cassert>
#include <span>
#include <tuple>

namespace zt::yaml {

void Value::refuse(std::string_view why) const {
  const std::string at = path();
  throw Refusal{node_->mark, at.empty() ? std::string(why) : fmt::format("{}: {}", at, why)};
}

std::string Value::path() const {
  std::string at = parent_ != nullptr ? parent_->path() : std::string();
  if (index_) return at + fmt::format("[{}]", *index_);
  if (!key_.empty() && !at.empty()) at += '.';
  return at.append(key_);
}

std::string_view Value::text() const {
  if (!is_scalar()) refuse("text expected");
  return node_->text;
}

std::string_view Value::required_text() const {
  const std::string_view given = text();
  if (given.empty()) refuse("must not be empty");
  return given;
}

bool Value::boolean() const {
  const std::string_view given = text();
  if (given == "true") return true;
  if (given == "false") return false;
  refuse(fmt::format("\"{}\" is neither true nor false", given));
}

uint32_t Value::number(uint32_t max) const {
  const std::string_view given = text();
  const auto number = whole_number<uint32_t>(given);
  const bool zeros = given.size() > 1 && given.front() == '0';
  if (!number || zeros || *number > max) refuse(fmt::format("\"{}\" is not a number from 0 to {}", given, max));
  return *number;
}

IpAddress Value::ip() const {
  const auto parsed = IpAddress::parse(text());
  if (!parsed) refuse(fmt::format("\"{}\" is not an IP address", text()));
  return *parsed;
}

Cidr Value::cidr() const {
  const auto parsed = Cidr::parse(text());
  if (!parsed) refuse(fmt::format("\"{}\" is not an address block (like 10.0.0.0/8)", text()));
  return *parsed;
}

void Value::check_keys() const {
  if (!is_map()) refuse("map expected");
  for (const Node* key = node_->first; key != nullptr; key = key->next->next)
    if (key->kind != Node::Kind::kScalar) Value(*key, *this, std::string_view()).refuse("a key must be plain text");
  const auto twice = [&](const Node& key) { Value(key, *this, key.text).refuse("the key is there twice"); };
  // A handful is compared faster than sorted.
  constexpr uint32_t kHandful = 32;
  if (node_->count <= kHandful) {
    for (const Node* key = node_->first; key != nullptr; key = key->next->next)
      for (const Node* other = node_->first; other != key; other = other->next->next)
        if (key->text == other->text) twice(*key);
    return;
  }
  std::vector<const Node*> keys;
  keys.reserve(node_->count);
  for (const Node* key = node_->first; key != nullptr; key = key->next->next) keys.push_back(key);
  std::ranges::sort(keys, [](const Node* a, const Node* b) {
    return std::tie(a->text, a->mark.line, a->mark.column) < std::tie(b->text, b->mark.line, b->mark.column);
  });
  const auto found = std::ranges::adjacent_find(keys, {}, &Node::text);
  if (found != keys.end()) twice(**(found + 1));
}

std::optional<Value> Map::take(std::string_view key) {
  assert(known_count_ < kMaxKeys);
  known_[known_count_++] = key;
  const Node* first = value_.node().first;
  const Node* found = expected_;
  if (found == nullptr || found->text != key)
    for (found = first; found != nullptr && found->text != key;) found = found->next->next;
  if (found == nullptr) return std::nullopt;
  expected_ = found->next->next;
  const Value value(*found->next, value_, found->text);
  if (value.is_null()) return std::nullopt;
  return value;
}

Value Map::require(std::string_view key) {
  const auto value = take(key);
  if (!value) value_.refuse(fmt::format("\"{}\" is missing", key));
  return *value;
}

void Map::finish() const {
  const auto known = std::span(known_).first(known_count_);
  for (const Node* key = value_.node().first; key != nullptr; key = key->next->next) {
    if (std::ranges::find(known, key->text) != known.end()) continue;
    std::string names;
    for (const std::string_view name : known) names.append(names.empty() ? "" : ", ").append(name);
    Value(*key, value_, key->text).refuse(fmt::format("unknown key (known here: {})", names));
  }
}

}  // namespace zt::yaml
