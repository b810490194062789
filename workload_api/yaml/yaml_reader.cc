#include "workload_api/yaml/yaml_reader.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>

#include <charconv>
#include <sstream>
#include <unordered_map>

namespace zt::workload_api::yaml {
namespace {

// Walks a document's events and throws as soon as it is too much. yaml-cpp shares what an alias stands for
// instead of copying it, but whoever then walks the tree sees every copy, so an alias is counted as all that
// it stands for.
class Limiter final : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) throw Refusal{mark, "more than one document in the file"};
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { leaf(mark, anchor, 1); }
  void OnScalar(const YAML::Mark& mark, const std::string& /*tag*/, YAML::anchor_t anchor,
                const std::string& /*value*/) override {
    leaf(mark, anchor, 1);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = sizes_.find(anchor);
    if (found == sizes_.end()) throw Refusal{mark, "alias to a value that contains it"};
    leaf(mark, YAML::NullAnchor, found->second);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& /*tag*/, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value /*style*/) override {
    open(mark, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& /*tag*/, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value /*style*/) override {
    open(mark, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Open {
    YAML::anchor_t anchor;
    size_t nodes;
  };
  void count(const YAML::Mark& mark, size_t nodes) {
    nodes_ += nodes;
    if (nodes_ > kMaxNodes)
      throw Refusal{mark, fmt::format("more than {} values (aliases counted as what they stand for)", kMaxNodes)};
    if (!open_.empty()) open_.back().nodes += nodes;
  }
  void leaf(const YAML::Mark& mark, YAML::anchor_t anchor, size_t nodes) {
    count(mark, nodes);
    if (anchor != YAML::NullAnchor) sizes_[anchor] = nodes;
  }
  void open(const YAML::Mark& mark, YAML::anchor_t anchor) {
    count(mark, 1);
    if (open_.size() == kMaxDepth) throw Refusal{mark, fmt::format("nested deeper than {} levels", kMaxDepth)};
    open_.push_back({anchor, 1});
  }
  void close() {
    const Open closed = open_.back();
    open_.pop_back();
    if (closed.anchor != YAML::NullAnchor) sizes_[closed.anchor] = closed.nodes;
    if (!open_.empty()) open_.back().nodes += closed.nodes - 1;  // itself was counted when it opened
  }

  size_t documents_ = 0;
  size_t nodes_ = 0;
  std::vector<Open> open_;
  std::unordered_map<YAML::anchor_t, size_t> sizes_;
};

}  // namespace

YAML::Node load(std::string_view text) {
  if (text.size() > kMaxBytes) throw Refusal{YAML::Mark(), fmt::format("{} bytes, more than {}", text.size(), kMaxBytes)};
  // The parser turns bytes that are no text into something else without a word.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos)
    throw Refusal{YAML::Mark(), fmt::format("a zero byte at offset {}", zero)};
  const std::string copy(text);
  {
    std::istringstream stream(copy);
    YAML::Parser parser(stream);
    Limiter limiter;
    while (parser.HandleNextDocument(limiter)) {
    }
  }
  return YAML::Load(copy);
}

void Value::refuse(const std::string& why) const {
  const std::string at = path();
  throw Refusal{node_.IsDefined() ? node_.Mark() : YAML::Mark(), at.empty() ? why : at + ": " + why};
}

std::string Value::path() const {
  std::string at = parent_ != nullptr ? parent_->path() : std::string();
  if (index_) return at + fmt::format("[{}]", *index_);
  if (!key_.empty() && !at.empty()) at += '.';
  return at + key_;
}

std::string Value::text() const {
  if (!node_.IsScalar()) refuse("text expected");
  return node_.Scalar();
}

std::string Value::required_text() const {
  std::string given = text();
  if (given.empty()) refuse("must not be empty");
  return given;
}

bool Value::boolean() const {
  const std::string given = text();
  if (given == "true") return true;
  if (given == "false") return false;
  refuse("\"" + given + "\" is neither true nor false");
}

uint32_t Value::number(uint32_t max) const {
  const std::string given = text();
  uint32_t number = 0;
  const auto [end, error] = std::from_chars(given.data(), given.data() + given.size(), number);
  if (error != std::errc{} || end != given.data() + given.size() || given.empty() || number > max)
    refuse(fmt::format("\"{}\" is not a number from 0 to {}", given, max));
  return number;
}

IpAddress Value::ip() const {
  const std::string given = text();
  const auto parsed = IpAddress::parse(given);
  if (!parsed) refuse("\"" + given + "\" is not an IP address");
  return *parsed;
}

Cidr Value::cidr() const {
  const std::string given = text();
  const auto parsed = Cidr::parse(given);
  if (!parsed) refuse("\"" + given + "\" is not an address block (like 10.0.0.0/8)");
  return *parsed;
}

std::vector<Value> Value::list() const {
  std::vector<Value> items;
  if (!node_.IsSequence()) refuse("list expected");
  items.reserve(node_.size());
  for (const auto& item : node_) items.emplace_back(item, this, items.size());
  return items;
}

std::vector<std::pair<Value, Value>> Value::pairs() const {
  std::vector<std::pair<Value, Value>> entries;
  if (!node_.IsMap()) refuse("map expected");
  entries.reserve(node_.size());
  std::vector<std::string> seen;
  for (const auto& entry : node_) {
    if (!entry.first.IsScalar()) Value(entry.first, this, std::string()).refuse("a key must be plain text");
    const std::string& key = entry.first.Scalar();
    entries.emplace_back(Value(entry.first, this, key), Value(entry.second, this, key));
    seen.push_back(key);
  }
  std::ranges::sort(seen);
  if (const auto twice = std::ranges::adjacent_find(seen); twice != seen.end()) {
    const auto last =
        std::ranges::find_if(entries.rbegin(), entries.rend(), [&](const auto& entry) { return entry.first.text() == *twice; });
    last->first.refuse("the key is there twice");
  }
  return entries;
}

Map::Map(const Value& value) : value_(value), entries_(value.pairs()) {}

std::optional<Value> Map::take(std::string_view key) {
  known_.push_back(key);
  const auto found = std::ranges::find_if(entries_, [&](const auto& entry) { return entry.first.text() == key; });
  if (found == entries_.end()) return std::nullopt;
  Value value = std::move(found->second);
  entries_.erase(found);
  if (value.is_null()) return std::nullopt;
  return value;
}

Value Map::require(std::string_view key) {
  auto value = take(key);
  if (!value) value_.refuse(fmt::format("\"{}\" is missing", key));
  return *value;
}

void Map::finish() const {
  if (entries_.empty()) return;
  std::string known;
  for (const std::string_view key : known_) known.append(known.empty() ? "" : ", ").append(key);
  entries_.front().first.refuse(fmt::format("unknown key (known here: {})", known));
}

}  // namespace zt::workload_api::yaml
